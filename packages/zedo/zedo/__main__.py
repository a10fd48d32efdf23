"""``zedo fit | validate | test | predict``."""

from pathlib import Path

from posecore.cli import run
from zedo.data import ZeDODataModule
from zedo.module import ZeDO


def main() -> None:
    """The console script ``zedo``."""
    run(ZeDO, ZeDODataModule, Path(__file__).parent / "configs")


if __name__ == "__main__":
    main()
