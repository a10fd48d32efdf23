"""Turn MuCo-3DHP, composed pictures of several people, into shards of crops to train on.

    python tools/prepare_muco.py --root FOLDER --output PREPARED --crops 224

FOLDER holds MuCo-3DHP.json, smpl_param.json, augmented_set and unaugmented_set, or holds the folder that does. Of each
picture the person who is closest to the camera is taken. How to get the files: `posecore.data.muco`.
"""

import sys

from preparation import Options, Split, main

from posecore.data.muco import MuCo3DHP


def train(options: Options) -> MuCo3DHP:
    """The closest person of every picture, with the fits of SMPL."""
    return MuCo3DHP(options.root, stride=options.stride, crops=options.crops, crop_margin=options.crop_margin)


# The number of pictures is not published, so none is checked.
SPLITS = {"train": Split(train, published={}, source="")}

if __name__ == "__main__":
    sys.exit(main("muco", __doc__, SPLITS))
