"""Prepare 3DPW: people outdoors before a moving camera, from the files as they are distributed to HDF5 shards.

    python tools/prepare_threedpw.py --root FOLDER --output PREPARED --body-models SMPL [--splits train validation test]

FOLDER holds sequenceFiles/<split>/*.pkl and imageFiles/<sequence>/*.jpg (virtualhumans.mpi-inf.mpg.de/3DPW), SMPL the
gendered body files (smpl.is.tue.mpg.de). Rows have joints44, of frames with a valid camera alone. The shards are read
by posecore.data.Shards: threedpw/train, threedpw/validation, threedpw/test.
"""

import sys

from preparation import Options, Split, main

from posecore.data.threedpw import ThreeDPW


def read(options: Options, split: str) -> ThreeDPW:
    """One of the three splits."""
    return ThreeDPW(
        options.root,
        split,
        "joints44",
        stride=options.stride,
        body_models=options.body_models,
        crops=options.crops,
        crop_margin=options.crop_margin,
    )


SPLITS = {
    "train": Split(lambda options: read(options, "train")),
    "validation": Split(lambda options: read(options, "validation")),
    "test": Split(
        lambda options: read(options, "test"),
        published={"rows": 35515},
        source="rows of 3DPW's test set that SPIN and its successors report on",
    ),
}

if __name__ == "__main__":
    sys.exit(main("threedpw", __doc__, SPLITS))
