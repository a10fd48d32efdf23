"""Joint sets of body models, datasets and 2D detectors: names, tree, left/right mirror and root, as data.

Every set is a :class:`JointSet`. Joint names are snake_case with ``l_`` and ``r_`` prefixes for the subject's own left
and right, and the same name in two sets means the same place on the body up to annotation habits;
:mod:`posecore.body.joint_maps` turns one set into another.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

__all__ = [
    "BODY_25",
    "COCO_17",
    "FREIHAND_21",
    "H36M_16",
    "H36M_17",
    "HALPE_26",
    "HUMANEVA_15",
    "JOINTS_44",
    "JOINT_SETS",
    "LSP_14",
    "MANO_21",
    "MPII_16",
    "MPI_INF_3DHP_17",
    "MPI_INF_3DHP_28",
    "MUCO_21",
    "OPENPOSE_18",
    "SMPL_24",
    "JointSet",
    "get_joint_set",
]


@dataclass(frozen=True)
class JointSet:
    """A named, ordered set of joints.

    Attributes:
        name: Key in :data:`JOINT_SETS`.
        joint_names: One name per joint, in the order of the arrays.
        parents: Index of the joint that the bone towards the root ends in; -1 for a root.
        flip: Index permutation that swaps left and right: a mirrored pose is ``mirror_x(points)[..., flip, :]``.
        root: Joints whose mean is the point that root-relative coordinates subtract.
    """

    name: str
    joint_names: tuple[str, ...]
    parents: tuple[int, ...]
    flip: tuple[int, ...]
    root: tuple[int, ...]

    @property
    def num_joints(self) -> int:
        """Number of joints."""
        return len(self.joint_names)

    @cached_property
    def bones(self) -> tuple[tuple[int, int], ...]:
        """Pairs (parent, child) of every bone, in the order of the children."""
        return tuple((parent, child) for child, parent in enumerate(self.parents) if parent >= 0)

    @cached_property
    def left(self) -> tuple[int, ...]:
        """Indices of the joints on the subject's left."""
        return tuple(i for i, name in enumerate(self.joint_names) if _side(name) == "l")

    @cached_property
    def right(self) -> tuple[int, ...]:
        """Indices of the joints on the subject's right; ``right[i]`` mirrors ``left[i]``."""
        return tuple(self.flip[i] for i in self.left)

    def index(self, name: str) -> int:
        """The index of a joint.

        Raises:
            ValueError: The set has no joint of that name.
        """
        if name not in self.joint_names:
            raise ValueError(f"joint set {self.name!r} has no joint {name!r}; it has {', '.join(self.joint_names)}")
        return self.joint_names.index(name)


def _side(name: str) -> str | None:
    """``"l"``, ``"r"`` or, for a joint on the mid-line, None; ``op_`` (OpenPose's copy) may stand before the side."""
    side = name.removeprefix("op_")[:2]
    return side[0] if side in ("l_", "r_") else None


def _mirrored(name: str) -> str:
    prefix = "op_" if name.startswith("op_") else ""
    side = _side(name)
    return name if side is None else f"{prefix}{'r' if side == 'l' else 'l'}{name[len(prefix) + 1 :]}"


def _joint_set(name: str, tree: Mapping[str, str | None], root: tuple[str, ...]) -> JointSet:
    """Builds a set from its table ``{joint: parent joint}`` in joint order."""
    names = tuple(tree)
    return JointSet(
        name=name,
        joint_names=names,
        parents=tuple(-1 if parent is None else names.index(parent) for parent in tree.values()),
        flip=tuple(names.index(_mirrored(joint)) for joint in names),
        root=tuple(names.index(joint) for joint in root),
    )


# SMPL's kinematic tree (Loper et al. 2015), in the order of its pose parameters.
SMPL_24 = _joint_set(
    "smpl24",
    {
        "pelvis": None,
        "l_hip": "pelvis",
        "r_hip": "pelvis",
        "spine1": "pelvis",
        "l_knee": "l_hip",
        "r_knee": "r_hip",
        "spine2": "spine1",
        "l_ankle": "l_knee",
        "r_ankle": "r_knee",
        "spine3": "spine2",
        "l_foot": "l_ankle",
        "r_foot": "r_ankle",
        "neck": "spine3",
        "l_collar": "spine3",
        "r_collar": "spine3",
        "head": "neck",
        "l_shoulder": "l_collar",
        "r_shoulder": "r_collar",
        "l_elbow": "l_shoulder",
        "r_elbow": "r_shoulder",
        "l_wrist": "l_elbow",
        "r_wrist": "r_elbow",
        "l_hand": "l_wrist",
        "r_hand": "r_wrist",
    },
    root=("pelvis",),
)

_H36M_TREE: dict[str, str | None] = {
    "pelvis": None,
    "r_hip": "pelvis",
    "r_knee": "r_hip",
    "r_ankle": "r_knee",
    "l_hip": "pelvis",
    "l_knee": "l_hip",
    "l_ankle": "l_knee",
    "spine": "pelvis",
    "thorax": "spine",
    "neck_nose": "thorax",
    "head_top": "neck_nose",
    "l_shoulder": "thorax",
    "l_elbow": "l_shoulder",
    "l_wrist": "l_elbow",
    "r_shoulder": "thorax",
    "r_elbow": "r_shoulder",
    "r_wrist": "r_elbow",
}

# Human3.6M as VideoPose3D and nearly every lifting method orders it.
H36M_17 = _joint_set("h36m17", _H36M_TREE, root=("pelvis",))

# Human3.6M without neck/nose: what the HRNet 2D detections hold.
H36M_16 = _joint_set(
    "h36m16",
    {
        joint: "thorax" if joint == "head_top" else parent
        for joint, parent in _H36M_TREE.items()
        if joint != "neck_nose"
    },
    root=("pelvis",),
)

_COCO_TREE: dict[str, str | None] = {
    "nose": None,
    "l_eye": "nose",
    "r_eye": "nose",
    "l_ear": "l_eye",
    "r_ear": "r_eye",
    "l_shoulder": "l_ear",
    "r_shoulder": "r_ear",
    "l_elbow": "l_shoulder",
    "r_elbow": "r_shoulder",
    "l_wrist": "l_elbow",
    "r_wrist": "r_elbow",
    "l_hip": "l_shoulder",
    "r_hip": "r_shoulder",
    "l_knee": "l_hip",
    "r_knee": "r_hip",
    "l_ankle": "l_knee",
    "r_ankle": "r_knee",
}

# COCO keypoints; the edges are COCO's own, less those that would close a loop.
COCO_17 = _joint_set("coco17", _COCO_TREE, root=("l_hip", "r_hip"))

# AlphaPose's Halpe full body: COCO-17, then the mid-line and the feet.
HALPE_26 = _joint_set(
    "halpe26",
    {
        **_COCO_TREE,
        "nose": "neck",
        "l_shoulder": "neck",
        "r_shoulder": "neck",
        "l_hip": "mid_hip",
        "r_hip": "mid_hip",
        "head_top": "nose",
        "neck": "mid_hip",
        "mid_hip": None,
        "l_big_toe": "l_ankle",
        "r_big_toe": "r_ankle",
        "l_small_toe": "l_big_toe",
        "r_small_toe": "r_big_toe",
        "l_heel": "l_ankle",
        "r_heel": "r_ankle",
    },
    root=("mid_hip",),
)

_BODY_25_TREE: dict[str, str | None] = {
    "nose": "neck",
    "neck": "mid_hip",
    "r_shoulder": "neck",
    "r_elbow": "r_shoulder",
    "r_wrist": "r_elbow",
    "l_shoulder": "neck",
    "l_elbow": "l_shoulder",
    "l_wrist": "l_elbow",
    "mid_hip": None,
    "r_hip": "mid_hip",
    "r_knee": "r_hip",
    "r_ankle": "r_knee",
    "l_hip": "mid_hip",
    "l_knee": "l_hip",
    "l_ankle": "l_knee",
    "r_eye": "nose",
    "l_eye": "nose",
    "r_ear": "r_eye",
    "l_ear": "l_eye",
    "l_big_toe": "l_ankle",
    "l_small_toe": "l_big_toe",
    "l_heel": "l_ankle",
    "r_big_toe": "r_ankle",
    "r_small_toe": "r_big_toe",
    "r_heel": "r_ankle",
}

# OpenPose's default model.
BODY_25 = _joint_set("body25", _BODY_25_TREE, root=("mid_hip",))

# OpenPose's first model and AlphaPose's `--format open`: COCO's joints with a neck, in an order of their own.
OPENPOSE_18 = _joint_set(
    "openpose18",
    {
        "nose": "neck",
        "neck": None,
        "r_shoulder": "neck",
        "r_elbow": "r_shoulder",
        "r_wrist": "r_elbow",
        "l_shoulder": "neck",
        "l_elbow": "l_shoulder",
        "l_wrist": "l_elbow",
        "r_hip": "neck",
        "r_knee": "r_hip",
        "r_ankle": "r_knee",
        "l_hip": "neck",
        "l_knee": "l_hip",
        "l_ankle": "l_knee",
        "r_eye": "nose",
        "l_eye": "nose",
        "r_ear": "r_eye",
        "l_ear": "l_eye",
    },
    root=("l_hip", "r_hip"),
)

# Leeds Sports Pose: the 14 joints on which 3DPW and Human3.6M mesh recovery are scored.
LSP_14 = _joint_set(
    "lsp14",
    {
        "r_ankle": "r_knee",
        "r_knee": "r_hip",
        "r_hip": "neck",
        "l_hip": "neck",
        "l_knee": "l_hip",
        "l_ankle": "l_knee",
        "r_wrist": "r_elbow",
        "r_elbow": "r_shoulder",
        "r_shoulder": "neck",
        "l_shoulder": "neck",
        "l_elbow": "l_shoulder",
        "l_wrist": "l_elbow",
        "neck": None,
        "head_top": "neck",
    },
    root=("l_hip", "r_hip"),
)

# MPII's joints; its upper neck and top of the head are LSP's neck and head_top in joints44, as for SPIN.
MPII_16 = _joint_set(
    "mpii16",
    {
        "r_ankle": "r_knee",
        "r_knee": "r_hip",
        "r_hip": "pelvis",
        "l_hip": "pelvis",
        "l_knee": "l_hip",
        "l_ankle": "l_knee",
        "pelvis": None,
        "thorax": "pelvis",
        "neck": "thorax",
        "head_top": "neck",
        "r_wrist": "r_elbow",
        "r_elbow": "r_shoulder",
        "r_shoulder": "thorax",
        "l_shoulder": "thorax",
        "l_elbow": "l_shoulder",
        "l_wrist": "l_elbow",
    },
    root=("pelvis",),
)

_MPI_INF_3DHP_TREE: dict[str, str | None] = {
    "head_top": "head",
    "neck": "spine",
    "r_shoulder": "neck",
    "r_elbow": "r_shoulder",
    "r_wrist": "r_elbow",
    "l_shoulder": "neck",
    "l_elbow": "l_shoulder",
    "l_wrist": "l_elbow",
    "r_hip": "pelvis",
    "r_knee": "r_hip",
    "r_ankle": "r_knee",
    "l_hip": "pelvis",
    "l_knee": "l_hip",
    "l_ankle": "l_knee",
    "pelvis": None,
    "spine": "pelvis",
    "head": "neck",
}

# MPI-INF-3DHP, the 17 joints of its test set (`annot3`, `univ_annot3`).
MPI_INF_3DHP_17 = _joint_set("mpii3d17", _MPI_INF_3DHP_TREE, root=("pelvis",))

# MuCo-3DHP in the COCO-style file of the 3DMPPE line, which calls the neck "Thorax".
MUCO_21 = _joint_set(
    "muco21",
    {**_MPI_INF_3DHP_TREE, "r_hand": "r_wrist", "l_hand": "l_wrist", "r_toe": "r_ankle", "l_toe": "l_ankle"},
    root=("pelvis",),
)

# MPI-INF-3DHP, all joints of its training annotations.
MPI_INF_3DHP_28 = _joint_set(
    "mpii3d28",
    {
        "spine3": "spine2",
        "spine4": "spine3",
        "spine2": "spine",
        "spine": "pelvis",
        "pelvis": None,
        "neck": "spine4",
        "head": "neck",
        "head_top": "head",
        "l_clavicle": "neck",
        "l_shoulder": "l_clavicle",
        "l_elbow": "l_shoulder",
        "l_wrist": "l_elbow",
        "l_hand": "l_wrist",
        "r_clavicle": "neck",
        "r_shoulder": "r_clavicle",
        "r_elbow": "r_shoulder",
        "r_wrist": "r_elbow",
        "r_hand": "r_wrist",
        "l_hip": "pelvis",
        "l_knee": "l_hip",
        "l_ankle": "l_knee",
        "l_foot": "l_ankle",
        "l_toe": "l_foot",
        "r_hip": "pelvis",
        "r_knee": "r_hip",
        "r_ankle": "r_knee",
        "r_foot": "r_ankle",
        "r_toe": "r_foot",
    },
    root=("pelvis",),
)

# HumanEva-I as VideoPose3D prepares it.
HUMANEVA_15 = _joint_set(
    "humaneva15",
    {
        "pelvis": None,
        "thorax": "pelvis",
        "l_shoulder": "thorax",
        "l_elbow": "l_shoulder",
        "l_wrist": "l_elbow",
        "r_shoulder": "thorax",
        "r_elbow": "r_shoulder",
        "r_wrist": "r_elbow",
        "l_hip": "pelvis",
        "l_knee": "l_hip",
        "l_ankle": "l_knee",
        "r_hip": "pelvis",
        "r_knee": "r_hip",
        "r_ankle": "r_knee",
        "head": "thorax",
    },
    root=("pelvis",),
)

# The 44 joints of SPIN's descendants (ProHMR, HMR 2.0, ScoreHMR): OpenPose's 25, then 19 of mixed annotation habits.
JOINTS_44 = _joint_set(
    "joints44",
    {
        **{f"op_{joint}": parent and f"op_{parent}" for joint, parent in _BODY_25_TREE.items()},
        "r_ankle": "r_knee",
        "r_knee": "r_hip",
        "r_hip": "pelvis",
        "l_hip": "pelvis",
        "l_knee": "l_hip",
        "l_ankle": "l_knee",
        "r_wrist": "r_elbow",
        "r_elbow": "r_shoulder",
        "r_shoulder": "thorax",
        "l_shoulder": "thorax",
        "l_elbow": "l_shoulder",
        "l_wrist": "l_elbow",
        "neck": "thorax",  # LSP's
        "head_top": "jaw",  # LSP's
        "pelvis": None,  # MPII's
        "thorax": "spine",  # MPII's
        "spine": "pelvis",  # Human3.6M's
        "jaw": "neck",  # Human3.6M's neck/nose
        "head_top_h36m": "jaw",  # the head of Human3.6M
    },
    root=("pelvis",),
)

_FINGERS = ("thumb", "index", "middle", "ring", "pinky")


def _finger(name: str, tip: bool = True) -> dict[str, str | None]:
    """The joints of one finger, from the palm outwards."""
    chain = ["wrist", f"{name}1", f"{name}2", f"{name}3", *([f"{name}_tip"] if tip else [])]
    return dict(zip(chain[1:], chain[:-1], strict=True))


# MANO's 16 joints in the order of its pose parameters (thumb last), then the five fingertips.
MANO_21 = _joint_set(
    "mano21",
    {
        "wrist": None,
        **{k: v for f in ("index", "middle", "pinky", "ring", "thumb") for k, v in _finger(f, tip=False).items()},
        **{f"{finger}_tip": f"{finger}3" for finger in _FINGERS},
    },
    root=("wrist",),
)

# The same 21 joints finger by finger, from the thumb: FreiHAND and OpenPose's hand.
FREIHAND_21 = _joint_set(
    "freihand21",
    {"wrist": None, **{k: v for finger in _FINGERS for k, v in _finger(finger).items()}},
    root=("wrist",),
)

JOINT_SETS: dict[str, JointSet] = {
    joint_set.name: joint_set
    for joint_set in (
        SMPL_24,
        H36M_17,
        H36M_16,
        COCO_17,
        HALPE_26,
        BODY_25,
        OPENPOSE_18,
        LSP_14,
        MPII_16,
        MPI_INF_3DHP_17,
        MPI_INF_3DHP_28,
        MUCO_21,
        HUMANEVA_15,
        JOINTS_44,
        MANO_21,
        FREIHAND_21,
    )
}


def get_joint_set(name: str) -> JointSet:
    """The joint set of that name.

    Raises:
        ValueError: There is none.
    """
    if name not in JOINT_SETS:
        raise ValueError(f"no joint set is named {name!r}; there are {', '.join(JOINT_SETS)}")
    return JOINT_SETS[name]
