"""Prepare photographs with labels in the npz layout of SPIN, to HDF5 shards.

    python tools/prepare_spin.py --root FOLDER --files h36m_train.npz --image-root IMAGES --output PREPARED
    python tools/prepare_spin.py --root FOLDER --files 3dpw_test.npz --truth smpl --body-models BODIES ...

FOLDER holds the files, IMAGES the pictures that they name; give files of one data set at a time where their pictures
lie in folders of their own. Without --image-root pictures lie below FOLDER. Every file becomes a split of its
name without .npz, which posecore.data.Shards reads: spin/h36m_train.
--fits static_fits/coco_fits.npy fills in SPIN's own fits, one file for each of --files. --require-pose leaves out rows
without an SMPL pose; --truth smpl takes 3D joints from the person's own body, which tests on 3DPW need.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from preparation import Options, Split, main

from posecore.data.base import PoseTable
from posecore.data.smpl_npz import TRUTHS
from posecore.data.spin_npz import SPINNpz


def splits(files: Sequence[str], image_root: Path | None, fits: Sequence[str] = (), **how: Any) -> dict[str, Split]:
    """A split of each file; pictures lie below ``image_root``, or beside the files where it is None."""
    of_file = fits or [""] * len(files)
    if len(of_file) != len(files):
        raise ValueError(f"--fits: {len(fits)} for {len(files)} files, expected one for each, '' for none")
    return {
        Path(name).stem: Split(partial(_read, name, image_root, {**how, "fits": [fit] if fit else []}))
        for name, fit in zip(files, of_file, strict=True)
    }


def _read(name: str, image_root: Path | None, how: dict[str, Any], options: Options) -> PoseTable:
    if options.stride != 1:
        raise ValueError(f"--stride: {options.stride}: the files are not of clips, so all rows are taken; give 1")
    images = image_root or options.root
    crops: dict[str, Any] = {"crops": options.crops, "crop_margin": options.crop_margin}
    return SPINNpz(options.root, [name], images, body_models=options.body_models, **crops, **how)


def prepare(argv: Sequence[str] | None = None) -> int:
    """Prepares every file; returns the exit status."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--files", nargs="+", default=[])
    parser.add_argument("--fits", nargs="+", default=[])
    parser.add_argument("--image-root", type=Path)
    parser.add_argument("--require-pose", action="store_true")
    parser.add_argument("--truth", choices=TRUTHS, default="keypoints")
    own, others = parser.parse_known_args(argv)
    if not own.files and not {"-h", "--help"} & set(others):
        print("error: --files: expected at least one npz", file=sys.stderr)
        return 2
    how = {"require_pose": own.require_pose, "truth": own.truth}
    try:
        found = splits(own.files, own.image_root, own.fits, **how)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return main("spin", __doc__, found, others)


if __name__ == "__main__":
    sys.exit(prepare())
