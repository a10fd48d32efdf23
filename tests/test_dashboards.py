"""One contract over the methods: what a training shows on TensorBoard, by the same names everywhere."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from posecore.testing.forked import run_module

METHODS = ["diffhmr", "diffupose", "hmdiff", "scorehmr", "zedo"]
README = Path(__file__).parents[1] / "packages" / "core" / "README.md"
ONE_ANSWER = {"scorehmr"}  # a fit has no spread
UNSEEN = {"diffhmr", "hmdiff"}  # whose data say which joints the picture hides


def fit(method: str, folder: Path, *args: str | Path) -> None:
    done = run_module(method, ["fit", "--config", "smoke.yaml", "--trainer.default_root_dir", folder, *args])
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module", params=METHODS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, EventAccumulator, Path]:
    """A method, what its smoke run wrote for TensorBoard, and the run's folder."""
    folder = tmp_path_factory.mktemp(request.param)
    fit(request.param, folder)
    return request.param, events(folder), folder


def events(folder: Path) -> EventAccumulator:
    (version,) = folder.glob("lightning_logs/version_0")
    return EventAccumulator(str(version), size_guidance={"images": 0, "scalars": 0}).Reload()


def table() -> dict[str, str]:
    """Names and kinds of the table in the core's README."""
    rows = re.findall(r"^\| `((?:train|val)/[^`]+)` \| (scalar|picture) ", README.read_text(), flags=re.MULTILINE)
    return dict(rows)


def expected(method: str, kind: str) -> set[str]:
    names = {name.replace("<set>", "synthetic") for name, found in table().items() if found == kind}
    names = {name for name in names if "<" not in name}  # loss terms and metrics are each method's own
    if method in ONE_ANSWER:
        names = {name for name in names if "/spread" not in name}
    return {name for name in names if not name.endswith("_occluded") or method in UNSEEN}


def values(found: EventAccumulator, tag: str) -> list[float]:
    return [event.value for event in found.Scalars(tag)]


def test_the_table_names_what_the_tests_below_look_for() -> None:
    assert {"train/loss", "train/grad_norm", "train/data_wait", "train/samples_per_second"} <= set(table())
    assert {name for name, kind in table().items() if kind == "picture"} == {
        f"val/<set>/{name}" for name in ("poses", "error_per_joint", "spread_per_joint", "denoising")
    }


def test_every_name_of_the_table_is_written(run: tuple[str, EventAccumulator, Path]) -> None:
    method, found, _ = run
    tags = found.Tags()
    assert expected(method, "scalar") <= set(tags["scalars"])
    assert expected(method, "picture") <= set(tags["images"])
    terms = [tag for tag in tags["scalars"] if tag.startswith("train/loss_")]
    assert terms
    assert {f"val/synthetic/{tag.removeprefix('train/')}" for tag in terms} <= set(tags["scalars"])


def test_numbers_are_possible(run: tuple[str, EventAccumulator, Path]) -> None:
    _, found, _ = run
    wait = values(found, "train/data_wait")
    assert len(wait) == 4
    assert all(0 <= value <= 1 for value in wait)
    assert max(wait) > 0, "the second step waited for its batch, however short"
    assert all(value > 0 for value in values(found, "train/samples_per_second"))
    assert all(value > 0 for value in values(found, "train/grad_norm"))
    assert all(value > 0 for value in values(found, "train/learning_rate"))


def test_pictures_are_not_blank(run: tuple[str, EventAccumulator, Path]) -> None:
    method, found, _ = run
    for tag in expected(method, "picture"):
        assert len(found.Images(tag)) == 2, "one for each validation"
        for event in found.Images(tag):
            with Image.open(io.BytesIO(event.encoded_image_string)) as image:
                pixels = np.asarray(image.convert("L"))
            assert pixels.shape == (event.height, event.width)
            assert (pixels < 128).mean() > 1e-3, f"{tag}: nothing is drawn"
            assert (pixels > 240).mean() > 0.1, f"{tag}: no paper is left"


def callback_states(folder: Path) -> dict[str, Any]:
    (path,) = folder.rglob("last.ckpt")
    states: dict[str, Any] = torch.load(path, weights_only=True)["callbacks"]
    return states


def test_mean_of_the_joints_is_the_logged_error(run: tuple[str, EventAccumulator, Path]) -> None:
    method, found, folder = run
    history = callback_states(folder)["JointErrors"]["history"]["synthetic"]
    assert history["steps"] == [2, 4]
    logged = values(found, "val/synthetic/chosen_mpjpe" if method == "zedo" else "val/synthetic/mpjpe")
    np.testing.assert_allclose([np.mean(errors) for errors in history["errors"]], logged, rtol=1e-4)


@pytest.mark.parametrize("method", ["zedo"])
def test_a_resumed_run_goes_on_with_its_heat_map(method: str, tmp_path: Path) -> None:
    fit(method, tmp_path / "first", "--trainer.max_steps", "2")
    (middle,) = (tmp_path / "first").rglob("last.ckpt")
    fit(method, tmp_path / "second", "--ckpt_path", middle)
    history = callback_states(tmp_path / "second")["JointErrors"]["history"]["synthetic"]
    assert history["steps"] == [2, 4]
    assert all(0 <= value <= 1 for value in values(events(tmp_path / "second"), "train/data_wait"))
