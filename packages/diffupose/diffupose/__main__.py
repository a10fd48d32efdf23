"""``diffupose fit | validate | test | predict``."""

from pathlib import Path

from diffupose.data import DiffuPoseDataModule
from diffupose.module import DiffuPose
from posecore.cli import run


def main() -> None:
    """The console script ``diffupose``."""
    run(DiffuPose, DiffuPoseDataModule, Path(__file__).parent / "configs")


if __name__ == "__main__":
    main()
