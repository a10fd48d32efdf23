"""Human3.6M -> shards: `python tools/prepare_human36m.py --root FOLDER --output FOLDER --splits train --crops 256`.

FOLDER holds the unpacked archive: `S1/MyPoseFeatures/D3_Positions/*.cdf`, `S1/Videos/*.mp4` (for --crops), and so on
for S5 S6 S7 S8 S9 S11, with `camera-parameters.json` or `metadata.xml` beside them.

Splits: `train` (S1 S5 S6 S7 S8; joints44, for training on pictures), `test` (S9 S11; Human3.6M's 17 joints),
`test_frontal` (the same, camera 60457274 alone: "protocol 2" of mesh methods), and without pictures, from VideoPose3D's
npz files: `videopose3d_train` and `videopose3d_test`. --stride 5 takes 10 of the 50 frames per second.
"""

import sys

from preparation import Options, Split, main

from posecore.data.base import PoseTable
from posecore.data.human36m import Human36M
from posecore.data.human36m_archive import FRONTAL_CAMERA, Human36MArchive

_TRAIN = {"rows": 1_559_752, "clips": 150, "subjects": 5, "actions": 15}
_TEST = {"rows": 543_344, "clips": 59, "subjects": 2, "actions": 15}
_SOURCE = "the frames that VideoPose3D trains and tests on, without S11's Directions"


def _archive(options: Options, subjects: str, joint_set: str, cameras: list[str] | None = None) -> PoseTable:
    return Human36MArchive(
        options.root,
        subjects,
        joint_set,
        stride=options.stride,
        cameras=cameras,
        crops=options.crops,
        crop_margin=options.crop_margin,
    )


SPLITS = {
    "train": Split(lambda options: _archive(options, "train", "joints44"), _TRAIN, _SOURCE),
    "test": Split(lambda options: _archive(options, "test", "h36m17"), _TEST, _SOURCE),
    "test_frontal": Split(
        lambda options: _archive(options, "test", "h36m17", [FRONTAL_CAMERA]),
        {**_TEST, "rows": _TEST["rows"] // 4},
        _SOURCE,
    ),
    "videopose3d_train": Split(lambda options: Human36M(options.root, "train", stride=options.stride), _TRAIN, _SOURCE),
    "videopose3d_test": Split(lambda options: Human36M(options.root, "test", stride=options.stride), _TEST, _SOURCE),
}

if __name__ == "__main__":
    sys.exit(main("human36m", __doc__, SPLITS))
