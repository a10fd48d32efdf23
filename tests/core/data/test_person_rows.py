import numpy as np
import torch

from posecore.body.skeletons import COCO_17, JOINTS_44
from posecore.data.person_rows import person_rows, same_joints
from posecore.data.sample import concatenate
from posecore.geometry.rotation import random_rotmat

ROWS = 3


def minimal() -> dict[str, object]:
    return {
        "clip": ["a.jpg", "b.jpg", "c.jpg"],
        "box": np.full((ROWS, 3), 50.0),
        "image_size": np.full((ROWS, 2), 100.0),
    }


def test_same_joints_copies_by_name_and_zeroes_what_is_not_known() -> None:
    points = np.random.default_rng(0).uniform(1, 2, (ROWS, 17, 2))
    known = np.ones((ROWS, 17), dtype=bool)
    known[1, COCO_17.index("l_wrist")] = False
    out, out_known = same_joints(points, known, COCO_17)
    for name in COCO_17.joint_names:
        face = name == "nose" or name.endswith(("_eye", "_ear"))
        row, source = JOINTS_44.index(f"op_{name}" if face else name), COCO_17.index(name)
        kept = known[:, source]
        assert (out_known[:, row] == kept).all()
        np.testing.assert_array_equal(out[kept, row], points[kept, source])
    assert out_known.sum() == ROWS * 17 - 1
    assert not out[~out_known].any()


def test_same_joints_takes_a_joint_under_another_name() -> None:
    points, known = np.random.default_rng(0).uniform(1, 2, (1, 17, 3)), np.ones((1, 17), dtype=bool)
    out, _ = same_joints(points, known, COCO_17, renamed={"pelvis": "l_hip"})
    np.testing.assert_array_equal(out[0, JOINTS_44.index("pelvis")], points[0, COCO_17.index("l_hip")])


def test_what_is_not_given_is_not_known() -> None:
    rows = person_rows(**minimal())  # type: ignore[arg-type]
    assert not rows["confidence"].any()
    assert not rows["joints_known"].any()
    assert not rows["has_pose"].any()
    assert not rows["has_betas"].any()
    torch.testing.assert_close(rows["body_pose"], torch.eye(3).expand(ROWS, 23, 3, 3))
    torch.testing.assert_close(rows["K"][0], torch.tensor([[5000.0, 0, 50], [0, 5000, 50], [0, 0, 1]]))


def test_rows_with_and_without_truth_can_be_joined() -> None:
    pose = random_rotmat((ROWS, 24), generator=torch.Generator().manual_seed(0))
    has = np.array([True, False, True])
    known = person_rows(
        **minimal(),  # type: ignore[arg-type]
        pose=pose,
        betas=np.ones((ROWS, 10)),
        has_pose=has,
        has_betas=has,
        joints_cam=np.ones((ROWS, 44, 3)),
        joints_2d_px=np.ones((ROWS, 44, 2)),
        confidence=np.ones((ROWS, 44)) * has[:, None],
    )
    torch.testing.assert_close(known["global_orient"][[0, 2]], pose[[0, 2], 0])
    torch.testing.assert_close(known["body_pose"][1], torch.eye(3).expand(23, 3, 3))
    assert known["betas"].sum(dim=1).tolist() == [10, 0, 10]
    assert known["joints_2d_px"].sum(dim=(1, 2)).tolist() == [88, 0, 88]
    assert known["joints_known"].all()
    joined = concatenate([known, person_rows(**minimal())])  # type: ignore[arg-type]
    assert set(joined) == set(known)
    assert joined["has_pose"].tolist() == [True, False, True, False, False, False]
