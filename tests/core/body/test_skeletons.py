import numpy as np
import pytest

from posecore.body.files import load_body_model
from posecore.body.skeletons import (
    BODY_25,
    COCO_17,
    FREIHAND_21,
    H36M_16,
    H36M_17,
    JOINT_SETS,
    JOINTS_44,
    LSP_14,
    MPI_INF_3DHP_17,
    MPI_INF_3DHP_28,
    MUCO_21,
    SMPL_24,
    JointSet,
    get_joint_set,
)

BODIES = [joint_set for joint_set in JOINT_SETS.values() if "wrist" not in joint_set.joint_names]


@pytest.mark.parametrize("joint_set", JOINT_SETS.values(), ids=JOINT_SETS)
def test_every_set_is_whole(joint_set):
    count = joint_set.num_joints
    assert str(count) in joint_set.name
    assert len(set(joint_set.joint_names)) == len(joint_set.parents) == len(joint_set.flip) == count
    num_trees = 2 if joint_set is JOINTS_44 else 1  # OpenPose's joints and the 19 others share none
    assert joint_set.parents.count(-1) == num_trees
    assert len(joint_set.bones) == count - num_trees
    assert all(joint_set.index(name) == i for i, name in enumerate(joint_set.joint_names))
    for joint in range(count):  # every joint reaches the root
        for _ in range(count):
            joint = joint_set.parents[joint] if joint >= 0 else joint
        assert joint == -1


@pytest.mark.parametrize("joint_set", JOINT_SETS.values(), ids=JOINT_SETS)
def test_flip_swaps_sides_and_keeps_the_tree_and_the_root(joint_set):
    flip = np.array(joint_set.flip)
    np.testing.assert_array_equal(flip[flip], np.arange(joint_set.num_joints))
    bones = {frozenset(bone) for bone in joint_set.bones}
    assert {frozenset(flip[list(bone)].tolist()) for bone in bones} == bones
    assert {joint_set.flip[joint] for joint in joint_set.root} == set(joint_set.root)


@pytest.mark.parametrize("joint_set", BODIES, ids=[joint_set.name for joint_set in BODIES])
def test_sides(joint_set):
    assert len(joint_set.left) == len(joint_set.right) > 0
    for left, right in zip(joint_set.left, joint_set.right, strict=True):
        names = joint_set.joint_names[left], joint_set.joint_names[right]
        assert names[0].replace("l_", "r_", 1) == names[1]
    middle = set(range(joint_set.num_joints)) - {*joint_set.left, *joint_set.right}
    assert all(joint_set.flip[joint] == joint for joint in middle)


# The orders and trees below are those of the public code and data that define the sets.
def test_smpl_is_the_tree_of_the_body_file():
    assert SMPL_24.parents == tuple(load_body_model().parents.tolist())


def test_h36m_sets():
    assert H36M_17.parents == (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15)
    assert H36M_17.left == (4, 5, 6, 11, 12, 13)
    assert H36M_17.right == (1, 2, 3, 14, 15, 16)
    assert H36M_16.parents == (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 8, 10, 11, 8, 13, 14)
    assert H36M_16.joint_names == H36M_17.joint_names[:9] + H36M_17.joint_names[10:]


def test_detector_sets():
    # COCO's own flip pairs and OpenPose's own limbs.
    assert COCO_17.flip == (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
    limbs = "8-1 1-2 1-5 2-3 3-4 5-6 6-7 8-9 9-10 10-11 8-12 12-13 13-14 1-0 0-15 15-17 0-16 16-18 14-19 19-20 14-21"
    assert {f"{parent}-{child}" for parent, child in BODY_25.bones} == {*limbs.split(), "11-22", "22-23", "11-24"}
    assert LSP_14.flip == (5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6, 12, 13)


def test_mpi_inf_3dhp_test_joints_are_these_of_the_28():
    chosen = (7, 5, 14, 15, 16, 9, 10, 11, 23, 24, 25, 18, 19, 20, 4, 3, 6)
    assert tuple(MPI_INF_3DHP_28.joint_names[i] for i in chosen) == MPI_INF_3DHP_17.joint_names
    assert MPI_INF_3DHP_17.root == (14,)


def test_muco_is_the_3dhp_test_set_with_hands_and_toes():
    assert MUCO_21.joint_names[:17] == MPI_INF_3DHP_17.joint_names
    assert MUCO_21.parents[:17] == MPI_INF_3DHP_17.parents
    assert MUCO_21.joint_names[17:] == ("r_hand", "l_hand", "r_toe", "l_toe")
    # The flip pairs of the programs that use the file.
    pairs = ((2, 5), (3, 6), (4, 7), (8, 11), (9, 12), (10, 13), (17, 18), (19, 20))
    assert {frozenset((i, j)) for i, j in enumerate(MUCO_21.flip) if i != j} == {frozenset(pair) for pair in pairs}
    assert MUCO_21.root == (14,)


def test_joints_44_starts_with_openpose_and_has_its_root_at_39():
    assert JOINTS_44.joint_names[:25] == tuple(f"op_{name}" for name in BODY_25.joint_names)
    assert JOINTS_44.parents[:25] == BODY_25.parents
    assert JOINTS_44.root == (39,)


def test_hands():
    assert FREIHAND_21.parents == (-1, 0, 1, 2, 3, 0, 5, 6, 7, 0, 9, 10, 11, 0, 13, 14, 15, 0, 17, 18, 19)
    mano = get_joint_set("mano21")
    assert mano.parents[:16] == (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)
    assert mano.joint_names[1::3][:5] == ("index1", "middle1", "pinky1", "ring1", "thumb1")


def test_names_are_unique_keys():
    assert all(get_joint_set(name) is joint_set for name, joint_set in JOINT_SETS.items())
    assert all(isinstance(joint_set, JointSet) and joint_set.name == name for name, joint_set in JOINT_SETS.items())


def test_unknown_names():
    with pytest.raises(ValueError, match=r"no joint set is named 'h36m'; there are smpl24, h36m17"):
        get_joint_set("h36m")
    with pytest.raises(ValueError, match=r"'coco17' has no joint 'pelvis'; it has nose, l_eye"):
        COCO_17.index("pelvis")
