"""MPI-INF-3DHP -> shards: `python tools/prepare_mpi_inf_3dhp.py --root FOLDER --output FOLDER --crops 256 --stride 10`.

FOLDER holds `S1/Seq1/annot.mat`, `camera.calibration` and, for --crops, `imageSequence/video_0.avi` (or extracted
frames `imageFrames/video_0/frame_000001.jpg`), and so on; and `mpi_inf_3dhp_test_set/TS1/annot_data.mat` and
`imageSequence/img_000001.jpg`, and so on.

Splits: `train` (eight cameras; joints44, for training on pictures) and `test` (Human3.6M's 17 joints, valid frames).
--stride is for `train` alone.
"""

import sys

from preparation import Split, main

from posecore.data.mpi_inf_3dhp import MPIINF3DHP

SPLITS = {
    "train": Split(
        lambda options: MPIINF3DHP(
            options.root,
            joint_set="joints44",
            stride=options.stride,
            crops=options.crops,
            crop_margin=options.crop_margin,
        ),
        published={"clips": 16, "subjects": 8},
        source="the data set's paper",
    ),
    "test": Split(
        lambda options: MPIINF3DHP(options.root, "test", crops=options.crops, crop_margin=options.crop_margin),
        published={"rows": 2_929, "clips": 6, "subjects": 6, "actions": 7},
        source="the data set's paper; 2,929 valid frames as its users count them",
    ),
}

if __name__ == "__main__":
    sys.exit(main("mpi_inf_3dhp", __doc__, SPLITS))
