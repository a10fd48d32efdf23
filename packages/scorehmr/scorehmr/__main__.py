"""``scorehmr fit | validate | test | predict``."""

from pathlib import Path

from posecore.cli import run
from posecore.training.smpl_writer import SMPLWriter
from scorehmr.data import ScoreHMRDataModule
from scorehmr.module import ScoreHMR


def main() -> None:
    """The console script ``scorehmr``."""
    run(ScoreHMR, ScoreHMRDataModule, Path(__file__).parent / "configs", writer=SMPLWriter)


if __name__ == "__main__":
    main()
