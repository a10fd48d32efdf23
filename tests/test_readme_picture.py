"""The picture of the README's first screen."""

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))  # tools are scripts, not an installed package

from readme_picture import DEMO_DATA, picture, png  # noqa: E402

from scorehmr.fitting import FitSettings  # noqa: E402
from scorehmr.module import ScoreHMR  # noqa: E402
from scorehmr.sampler import Guidance  # noqa: E402
from zedo.module import ZeDO  # noqa: E402
from zedo.sampler import InitialPose, Loop  # noqa: E402


def check(content: bytes) -> None:
    """One wide, small picture whose six cells all hold something."""
    assert len(content) < 500_000
    with Image.open(io.BytesIO(content)) as image:
        pixels = np.asarray(image.convert("L"))
    height, width = pixels.shape
    assert width == 1600
    assert 300 <= height <= 400
    cells = np.array_split(pixels[60 : height - 45], 6, axis=1)
    assert all(cell.std() > 5 for cell in cells)


def test_it_is_drawn_of_a_photograph_and_its_keypoints() -> None:
    poses = ZeDO.pretrained(
        num_hypotheses=10, initial_pose=InitialPose(depth=None, keypoints=None, num_steps=20), loop=Loop(20)
    )
    bodies = ScoreHMR.pretrained(fit=FitSettings(guidance=Guidance(noise_level=4, outer_loops=1)))
    check(png(picture(DEMO_DATA / "astronaut.png", DEMO_DATA / "astronaut.json", poses, bodies)))


def test_the_one_that_is_shipped_is_one() -> None:
    check((ROOT / "docs" / "first_screen.png").read_bytes())
