"""``hmdiff fit | validate | test | predict``."""

from pathlib import Path

from hmdiff.data import HMDiffDataModule
from hmdiff.module import HMDiff
from hmdiff.writer import HMDiffWriter
from posecore.cli import run


def main() -> None:
    """The console script ``hmdiff``."""
    run(HMDiff, HMDiffDataModule, Path(__file__).parent / "configs", writer=HMDiffWriter)


if __name__ == "__main__":
    main()
