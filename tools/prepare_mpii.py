"""Read MPII with EFT's fits once and write shards of crops around people.

    python tools/prepare_mpii.py --root DATA --output SHARDS --crops 256

DATA holds ``annot/`` and ``images/``, or has them in ``mpii``; EFT's MPII_ver01.json lies in DATA or in
``DATA/eft_fit``. ``train_eft`` holds who has a fit; ``train`` and ``valid`` are keypoints alone.
"""

import sys
from functools import partial

from preparation import Options, Split, main

from posecore.data.mpii import MPII


def _keypoints(options: Options, split: str) -> MPII:
    return MPII(options.root, split, stride=options.stride, crops=options.crops, crop_margin=options.crop_margin)


def _fits(options: Options) -> MPII:
    """Everybody with a fit: EFT has chosen already."""
    return MPII(
        options.root,
        "train",
        min_keypoints=0,
        fits="MPII_ver01.json",
        require_pose=True,
        stride=options.stride,
        crops=options.crops,
        crop_margin=options.crop_margin,
    )


SPLITS = {
    "train_eft": Split(_fits),
    **{split: Split(partial(_keypoints, split=split)) for split in ("train", "valid")},
}

if __name__ == "__main__":
    sys.exit(main("mpii", __doc__, SPLITS))
