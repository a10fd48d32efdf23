"""Prepare AMASS: motion capture as SMPL parameters, from the files as they are distributed to HDF5 shards of labels.

    python tools/prepare_amass.py --root FOLDER --output PREPARED --stride 5 [--splits train validation test]

FOLDER holds <sub data set>/<subject>/<name>_poses.npz or _stageii.npz (amass.is.tue.mpg.de). Rows have joints44 at
about 30 / stride frames per second, each seen by a virtual camera: there are no pictures. With --body-models they are
of SMPL's neutral body, else of the open body in its mean shape. The shards are read by posecore.data.Shards:
amass/train, amass/validation, amass/test.
"""

import sys
from collections.abc import Callable

from preparation import Options, Split, main

from posecore.data.amass import AMASS, SUBSETS


def _split(name: str) -> Callable[[Options], AMASS]:
    def make(options: Options) -> AMASS:
        models = options.body_models
        return AMASS(options.root, name, body_models=models, joint_set="joints44", stride=options.stride)

    return make


SPLITS = {name: Split(_split(name)) for name in SUBSETS}

if __name__ == "__main__":
    sys.exit(main("amass", __doc__, SPLITS))
