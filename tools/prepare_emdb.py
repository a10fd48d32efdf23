"""Prepare EMDB: people with SMPL before a moving phone, from the files as they are distributed to HDF5 shards.

    python tools/prepare_emdb.py --root FOLDER --output PREPARED --body-models SMPL [--splits emdb1 emdb2]

FOLDER holds P0/00_mvs_a/P0_00_mvs_a_data.pkl, its images/ and so on (emdb.ait.ethz.ch), SMPL the gendered body files
(smpl.is.tue.mpg.de). Rows have joints44, of good frames alone; image-based methods are tested on EMDB 1. The shards are
read by posecore.data.Shards: emdb/emdb1, emdb/emdb2.
"""

import sys

from preparation import Options, Split, main

from posecore.data.emdb import EMDB

_SOURCE = "Kaufmann et al., EMDB, ICCV 2023"


def read(options: Options, part: int) -> EMDB:
    """One of the two parts."""
    return EMDB(
        options.root,
        part,
        "joints44",
        stride=options.stride,
        body_models=options.body_models,
        crops=options.crops,
        crop_margin=options.crop_margin,
    )


SPLITS = {
    "emdb1": Split(lambda options: read(options, 1), published={"clips": 17}, source=_SOURCE),
    "emdb2": Split(lambda options: read(options, 2)),
}

if __name__ == "__main__":
    sys.exit(main("emdb", __doc__, SPLITS))
