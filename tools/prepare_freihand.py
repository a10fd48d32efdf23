"""Prepare FreiHAND: photographs of right hands, from the files as they are distributed to HDF5 shards.

    python tools/prepare_freihand.py --root FOLDER --output PREPARED [--splits training evaluation]

FOLDER holds what FreiHAND_pub_v2.zip and FreiHAND_pub_v2_eval.zip unpack to: training/ and evaluation/ with rgb/, and
training_K.json, training_xyz.json, training_verts.json and those of the evaluation set. All four versions of each
training picture are prepared. The shards are read by posecore.data.Shards: freihand/training, freihand/evaluation.
"""

import sys
from collections.abc import Callable

from preparation import Options, Split, main

from posecore.data.freihand import FreiHAND

_SOURCE = "Zimmermann et al., FreiHAND, ICCV 2019: 32,560 training hands in 4 versions, 3,960 for evaluation"


def _split(name: str) -> Callable[[Options], FreiHAND]:
    def make(options: Options) -> FreiHAND:
        return FreiHAND(options.root, name, stride=options.stride, crops=options.crops, crop_margin=options.crop_margin)

    return make


SPLITS = {
    "training": Split(_split("training"), {"rows": 130_240, "pictures": 130_240}, _SOURCE),
    "evaluation": Split(_split("evaluation"), {"rows": 3_960, "pictures": 3_960}, _SOURCE),
}

if __name__ == "__main__":
    sys.exit(main("freihand", __doc__, SPLITS))
