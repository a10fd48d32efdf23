"""Turn Mannequin Challenge, in the batched pickle of ScoreHMR's release, into shards.

    python tools/prepare_mannequin.py --root FOLDER --output PREPARED --crops 224 --body-models MODELS

FOLDER holds mannequin.pkl and the frames of the videos under the names that the pickle has. MODELS holds SMPL's files;
without them the truth is the open body in the same poses. How to get the files: `posecore.data.mannequin`.
"""

import sys

from preparation import Options, Split, main

from posecore.data.mannequin import MannequinChallenge


def views(options: Options) -> MannequinChallenge:
    """All views; ``stride`` has no meaning for views of one person, so it must be 1."""
    if options.stride != 1:
        raise ValueError(f"--stride: must be 1 for Mannequin Challenge, whose rows are views, got {options.stride}")
    return MannequinChallenge(
        options.root,
        image_root=options.root,
        body_models=options.body_models,
        crops=options.crops,
        crop_margin=None if options.crops is None else options.crop_margin,
    )


# Leroy et al. have 24,428 frames of 567 scenes; the paper's test set lacks videos that have gone, so none is checked.
SPLITS = {"test": Split(views, published={}, source="")}

if __name__ == "__main__":
    sys.exit(main("mannequin", __doc__, SPLITS))
