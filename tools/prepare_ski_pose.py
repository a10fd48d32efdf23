"""Turn Ski-PosePTZ, skiers before six cameras, into shards.

    python tools/prepare_ski_pose.py --root FOLDER --output PREPARED --crops 256 --crop-margin 1

FOLDER holds train and test with labels.h5 and pictures, or holds the folder that does. The pictures are crops of 256
pixels already: beyond their edges is nothing to be seen. How to get the files: `posecore.data.ski_pose`.
"""

import sys

from preparation import Options, Split, main

from posecore.data.ski_pose import SkiPose


def _split(name: str, rows: int) -> Split:
    def load(options: Options) -> SkiPose:
        return SkiPose(options.root, name, options.stride, options.crops, options.crop_margin)

    source = "the notes of users of labels.h5 (8481 and 1716 examples); ZeDO's test set has as many"
    return Split(load, published={"rows": rows}, source=source)


SPLITS = {"train": _split("train", 8481), "test": _split("test", 1716)}

if __name__ == "__main__":
    sys.exit(main("ski_pose", __doc__, SPLITS))
