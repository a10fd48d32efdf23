"""Prepare HumanEva-I: 15 joints and ground-truth 2D of VideoPose3D's archives, to HDF5 shards without pictures.

    python tools/prepare_humaneva.py --root FOLDER --output PREPARED [--splits train validation]

FOLDER holds data_3d_humaneva15.npz and data_2d_humaneva15_gt.npz. Walk, Jog and Box are prepared, which the papers
report. The shards are read by posecore.data.Shards: humaneva/train, humaneva/validation.
"""

import sys

from preparation import Split, main

from posecore.data.humaneva import HumanEva

_PUBLISHED = {"subjects": 3, "actions": 3}
_SOURCE = "Sigal et al., HumanEva, IJCV 2010, and what papers report of it: S1 to S3; Walk, Jog, Box"
SPLITS = {
    "train": Split(lambda options: HumanEva(options.root, "train", stride=options.stride), _PUBLISHED, _SOURCE),
    "validation": Split(
        lambda options: HumanEva(options.root, "validation", stride=options.stride), _PUBLISHED, _SOURCE
    ),
}

if __name__ == "__main__":
    sys.exit(main("humaneva", __doc__, SPLITS))
