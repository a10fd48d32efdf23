"""``diffhmr fit | validate | test | predict``."""

from pathlib import Path

from diffhmr.data import DiffHMRDataModule
from diffhmr.module import DiffHMR
from posecore.cli import run
from posecore.training.smpl_writer import SMPLWriter


def main() -> None:
    """The console script ``diffhmr``."""
    run(DiffHMR, DiffHMRDataModule, Path(__file__).parent / "configs", writer=SMPLWriter)


if __name__ == "__main__":
    main()
