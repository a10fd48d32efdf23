"""Read UP-3D once and write shards of crops around people.

    python tools/prepare_up3d.py --root DATA --output SHARDS --crops 256

DATA holds train.txt, val.txt, test.txt and the files that they list, or has them in ``up-3d``.
"""

import sys
from functools import partial

from preparation import Options, Split, main

from posecore.data.up3d import UP3D


def _people(options: Options, split: str) -> UP3D:
    return UP3D(options.root, split, stride=options.stride, crops=options.crops, crop_margin=options.crop_margin)


SPLITS = {split: Split(partial(_people, split=split)) for split in ("train", "val", "test")}

if __name__ == "__main__":
    sys.exit(main("up3d", __doc__, SPLITS))
