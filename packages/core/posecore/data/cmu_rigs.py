"""The three skeletons in which the CMU motion capture database is found as BVH, and what each needs to be put right."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from jaxtyping import Float

from posecore.body.skeletons import H36M_17, SMPL_24
from posecore.data.bvh import BVH


@dataclass(frozen=True)
class Rig:
    """One skeleton: how to recognise, repair and read it.

    ``smpl`` names the source joint of each SMPL-24 joint (its rotation, and the rest position that gives bone
    directions), ``h36m`` the source joints whose mean is each H36M-17 joint. ``copied_offsets`` and
    ``scaled_offsets`` are repairs of the rest skeleton. ``head_top`` replaces a missing end site of the head: a point
    in the head joint's frame, in the file's unit. ``unit_to_m`` and ``trim_start`` hold where no manifest says
    otherwise.
    """

    name: str
    unit_to_m: float
    trim_start: int
    smpl: tuple[str, ...]
    h36m: Mapping[str, tuple[str, ...]]
    copied_offsets: Mapping[str, str] = field(default_factory=dict)
    scaled_offsets: Mapping[str, float] = field(default_factory=dict)
    head_top: tuple[str, tuple[float, float, float]] | None = None

    def required_joints(self) -> set[str]:
        """Joints that a file of this rig has, end sites included."""
        return {*self.smpl, *(name for names in self.h36m.values() for name in names), *self.copied_offsets}

    def repaired_offsets(self, bvh: BVH) -> Float[np.ndarray, "joints 3"]:
        """Rest offsets with the conversion's defects fixed, in the file's unit."""
        offsets = bvh.offsets.copy()
        for target, source in self.copied_offsets.items():
            offsets[bvh.index(target)] = bvh.offsets[bvh.index(source)]
        for target, factor in self.scaled_offsets.items():
            offsets[bvh.index(target)] = bvh.offsets[bvh.index(target)] * factor
        return offsets


_SIDES = {"l": "Left", "r": "Right"}


def _cgspeed_rig(name: str, trim_start: int, words: Mapping[str, str]) -> Rig:
    """The tree that the MotionBuilder- and the 3dsMax-friendly conversions share, under either's joint names."""

    def sided(side: str, part: str) -> str:
        return words[part].format(side=side, s=side[0])

    def both(part: str) -> tuple[str, str]:
        return sided("Left", part), sided("Right", part)

    smpl_parts = {
        "hip": "hip", "knee": "knee", "ankle": "ankle", "foot": "toe", "collar": "collar", "shoulder": "shoulder",
        "elbow": "elbow", "wrist": "wrist", "hand": "fingers",
    }  # fmt: skip
    central = {
        "pelvis": "Hips", "spine1": words["spine1"], "spine2": words["spine2"], "spine3": words["spine3"],
        "neck": words["neck"], "head": "Head",
    }  # fmt: skip
    smpl = []
    for joint in SMPL_24.joint_names:
        side, _, part = joint.partition("_")
        smpl.append(central[joint] if joint in central else sided(_SIDES[side], smpl_parts[part]))
    h36m: dict[str, tuple[str, ...]] = {
        "pelvis": both("hip"),
        "spine": (words["spine2"],),
        "thorax": (words["neck"],),
        "neck_nose": ("Head",),
        "head_top": ("Head_end",),
    }
    for part in ("hip", "knee", "ankle", "shoulder", "elbow", "wrist"):
        h36m[f"l_{part}"], h36m[f"r_{part}"] = ((joint,) for joint in both(part))
    # Defect 1: the thorax bone is lost (neck and collars sit on the joint below it); its length is about that of the
    # bone before. Defect 2: the wrist bone (half as long as the forearm) is lost. Against the original ASF/AMC the mean
    # joint error falls from 49-68 mm to 1.5-1.9 mm with both put back.
    thorax = (words["neck"], *both("collar"))
    return Rig(
        name=name,
        unit_to_m=0.056444,
        trim_start=trim_start,
        smpl=tuple(smpl),
        h36m=MappingProxyType(h36m),
        copied_offsets=MappingProxyType(dict.fromkeys(thorax, words["spine3"])),
        scaled_offsets=MappingProxyType(dict.fromkeys(both("wrist"), 1.5)),
    )


_MOTIONBUILDER = _cgspeed_rig(
    "cgspeed-motionbuilder-31",
    trim_start=8,  # An added T-pose and the way out of it.
    words={
        "hip": "{side}UpLeg", "knee": "{side}Leg", "ankle": "{side}Foot", "toe": "{side}ToeBase",
        "spine1": "LowerBack", "spine2": "Spine", "spine3": "Spine1", "neck": "Neck", "collar": "{side}Shoulder",
        "shoulder": "{side}Arm", "elbow": "{side}ForeArm", "wrist": "{side}Hand", "fingers": "{side}HandIndex1",
    },
)  # fmt: skip
_THREEDSMAX = _cgspeed_rig(
    "cgspeed-3dsmax-31",
    trim_start=0,
    words={
        "hip": "{side}Hip", "knee": "{side}Knee", "ankle": "{side}Ankle", "toe": "{side}Toe",
        "spine1": "lowerback", "spine2": "Chest", "spine3": "Chest2", "neck": "lowerneck", "collar": "{side}Collar",
        "shoulder": "{side}Shoulder", "elbow": "{side}Elbow", "wrist": "{side}Wrist", "fingers": "{s}Fingers",
    },
)  # fmt: skip
# One generic skeleton for all subjects; limb directions are 2-5 degrees (forearm 20) off: variety for training only.
_DAZ = Rig(
    name="cgspeed-daz-43",
    unit_to_m=0.0102,
    trim_start=12,
    smpl=(
        # Its two spine joints lie at the heights of SMPL's spine2 and spine3; below them the trunk turns with the hip.
        "hip", "lThigh", "rThigh", "hip", "lShin", "rShin", "abdomen", "lFoot", "rFoot", "chest", "lFoot_end",
        "rFoot_end", "neck", "lCollar", "rCollar", "head", "lShldr", "rShldr", "lForeArm", "rForeArm", "lHand",
        "rHand", "lMid1", "rMid1",
    ),
    h36m=MappingProxyType({
        "pelvis": ("lThigh", "rThigh"), "spine": ("abdomen",), "thorax": ("neck",), "neck_nose": ("head",),
        "r_hip": ("rThigh",), "r_knee": ("rShin",), "r_ankle": ("rFoot",),
        "l_hip": ("lThigh",), "l_knee": ("lShin",), "l_ankle": ("lFoot",),
        "l_shoulder": ("lShldr",), "l_elbow": ("lForeArm",), "l_wrist": ("lHand",),
        "r_shoulder": ("rShldr",), "r_elbow": ("rForeArm",), "r_wrist": ("rHand",),
    }),
    # The head ends at the eyes, 8 units above its joint; the crown is taken as far above them again.
    head_top=("head", (0.0, 16.0, 2.0)),
)  # fmt: skip

RIGS: Mapping[str, Rig] = MappingProxyType({rig.name: rig for rig in (_MOTIONBUILDER, _THREEDSMAX, _DAZ)})


def recognise_rig(bvh: BVH) -> Rig:
    """The rig whose joints the file has.

    Raises:
        ValueError: if it is none of the three.
    """
    names = set(bvh.joint_names)
    for rig in RIGS.values():
        if rig.required_joints() <= names:
            return rig
    raise ValueError(
        f"{bvh.path}: unknown rig with joints {', '.join(bvh.joint_names[:8])}, ...; known are {', '.join(RIGS)}"
    )


def h36m_joints(
    rig: Rig, bvh: BVH, rotations: Float[np.ndarray, "frames j 3 3"], positions: Float[np.ndarray, "frames j 3"]
) -> Float[np.ndarray, "frames 17 3"]:
    """H36M-17 joints of the recorded skeleton, in the unit of ``positions`` (the file's own)."""
    joints = np.empty((positions.shape[0], H36M_17.num_joints, 3))
    for k, name in enumerate(H36M_17.joint_names):
        if name in rig.h36m:
            joints[:, k] = positions[:, [bvh.index(source) for source in rig.h36m[name]]].mean(axis=1)
        elif rig.head_top is not None:
            head = bvh.index(rig.head_top[0])
            joints[:, k] = positions[:, head] + rotations[:, head] @ np.asarray(rig.head_top[1])
    return joints
