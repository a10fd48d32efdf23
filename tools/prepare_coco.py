"""Read COCO with EFT's fits once and write shards of crops around people.

    python tools/prepare_coco.py --root DATA --output SHARDS --crops 256

DATA holds ``annotations/`` and the pictures' folders, or has them in ``coco``; EFT's files lie in DATA or in
``DATA/eft_fit``. The splits with fits hold who has one: ``train2014_eft`` everybody (COCO2014-All-ver01.json),
``train2014_eft_limbs`` who has all limb joints annotated (COCO2014-Part-ver01.json). The others are keypoints alone.
"""

import sys
from functools import partial

from preparation import Options, Split, main

from posecore.data.coco import COCO


def _keypoints(options: Options, split: str) -> COCO:
    return COCO(options.root, split, stride=options.stride, crops=options.crops, crop_margin=options.crop_margin)


def _fits(options: Options, name: str) -> COCO:
    """Everybody with a fit: EFT has chosen already, by keypoints of its own count."""
    return COCO(
        options.root,
        "train2014",
        min_keypoints=0,
        fits=name,
        require_pose=True,
        stride=options.stride,
        crops=options.crops,
        crop_margin=options.crop_margin,
    )


_SOURCE = "EFT's README (facebookresearch/eft, when the fits were first released)"
SPLITS = {
    "train2014_eft": Split(partial(_fits, name="COCO2014-All-ver01.json"), published={"rows": 79051}, source=_SOURCE),
    "train2014_eft_limbs": Split(
        partial(_fits, name="COCO2014-Part-ver01.json"), published={"rows": 28344}, source=_SOURCE
    ),
    **{split: Split(partial(_keypoints, split=split)) for split in ("train2014", "val2014", "train2017", "val2017")},
}

if __name__ == "__main__":
    sys.exit(main("coco", __doc__, SPLITS))
