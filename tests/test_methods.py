"""One contract over the methods, through the command line that users run: fit, validate, test, predict, resume."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from posecore.testing.forked import run_module

OF_JOINTS = {"diffupose", "zedo"}
METHODS = ["diffhmr", "diffupose", "hmdiff", "scorehmr", "zedo"]
PHOTO = Path(__file__).parents[1] / "tools" / "demo_data" / "photographer"


def command(
    method: str, *args: str | Path, ok: bool = True, code: int | None = None, fresh: bool = False
) -> subprocess.CompletedProcess[str]:
    """Runs a method in a process of its own; its exit code is ``code``, or 0 or not as ``ok`` says.

    The process is forked from one that has imported everything, or starts anew as a user's does.
    """
    if fresh:
        whole = [sys.executable, "-m", method, *map(str, args)]
        done = subprocess.run(whole, capture_output=True, text=True, timeout=300, check=False)
    else:
        done = run_module(method, args)
    assert done.returncode == code if code is not None else (done.returncode == 0) == ok, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module", params=METHODS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """A method, the folder of its smoke run, and the run's last checkpoint."""
    folder = tmp_path_factory.mktemp(request.param)
    command(request.param, "fit", "--config", "smoke.yaml", "--trainer.default_root_dir", folder)
    (checkpoint,) = folder.rglob("last.ckpt")
    return request.param, folder, checkpoint


def metrics_of(folder: Path) -> dict[str, float]:
    (path,) = folder.rglob("metrics.json")
    content = json.loads(path.read_text())
    assert "joints of" in content["protocol"], "every number names its protocol"
    metrics: dict[str, float] = content["metrics"]
    return {name: value for name, value in metrics.items() if not name.endswith("per_second")}  # no result repeats it


def test_fit_logs_to_tensorboard(trained: tuple[str, Path, Path]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, folder, _ = trained
    (run,) = folder.glob("lightning_logs/version_0")
    events = EventAccumulator(str(run)).Reload()
    tags = events.Tags()
    assert any(tag.startswith("train/loss_") for tag in tags["scalars"])
    assert any(tag.startswith("val/synthetic/mpjpe") for tag in tags["scalars"])
    assert "val/synthetic/poses" in tags["images"]


def test_checkpoint_gives_the_same_numbers_twice(trained: tuple[str, Path, Path], tmp_path: Path) -> None:
    method, _, checkpoint = trained
    results = []
    for run in ("a", "b"):
        args = ["--config", "smoke.yaml", "--ckpt_path", checkpoint, "--trainer.default_root_dir", tmp_path / run]
        command(method, "test", *args, fresh=run == "a")
        results.append(metrics_of(tmp_path / run))
    assert results[0] == results[1]
    assert results[0]["test/synthetic/mpjpe"] > 0


def test_validate_runs(trained: tuple[str, Path, Path], tmp_path: Path) -> None:
    method, _, checkpoint = trained
    done = command(
        method, "validate", "--config", "smoke.yaml", "--ckpt_path", checkpoint, "--trainer.default_root_dir", tmp_path
    )  # fmt: skip
    assert "val/synthetic/mpjpe" in done.stdout


def test_resume_continues_the_same_curve(trained: tuple[str, Path, Path], tmp_path: Path) -> None:
    """Stopped after half of the steps and resumed, the weights end where the uninterrupted run's did."""
    method, _, whole = trained
    half = tmp_path / "half"
    # The checkpoint in the middle comes from the same run of 4 steps, stopped there.
    command(
        method, "fit", "--config", "smoke.yaml", "--trainer.default_root_dir", half, "--trainer.max_steps", "4",
        "--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint",
        "--trainer.callbacks.every_n_train_steps=2", "--trainer.callbacks.save_top_k=-1",
        "--trainer.callbacks.filename=at-{step}",
    )  # fmt: skip
    (middle,) = half.rglob("at-step=2.ckpt")
    resumed = tmp_path / "resumed"
    command(
        method, "fit", "--config", "smoke.yaml", "--trainer.default_root_dir", resumed, "--ckpt_path", middle
    )  # fmt: skip
    (end,) = resumed.rglob("last.ckpt")
    expected = torch.load(whole, weights_only=True)["state_dict"]
    found = torch.load(end, weights_only=True)["state_dict"]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


def test_predict_writes_what_users_take_away(trained: tuple[str, Path, Path], tmp_path: Path) -> None:
    method, _, checkpoint = trained
    args = [
        "predict", "--config", "smoke.yaml", "--ckpt_path", checkpoint, "--trainer.default_root_dir", tmp_path,
        "--data.predict.keypoints", PHOTO.with_suffix(".json"), "--data.predict.photo", PHOTO.with_suffix(".png"),
        "--output.folder", tmp_path / "out",
    ]  # fmt: skip
    done = command(method, *args)
    assert "focal length assumed" in done.stdout
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert content["people"][0]["camera"]["assumed"] is True
    CHECKS[method](tmp_path / "out", content["people"])
    assert (tmp_path / "out" / "panel.png").stat().st_size > 10_000
    before = (tmp_path / "out" / "predictions.json").read_bytes()
    again = command(method, *args, ok=False)
    assert "already holds" in again.stderr
    assert (tmp_path / "out" / "predictions.json").read_bytes() == before, "an existing result is not touched"


def five_people(path: Path, **label: Any) -> Path:
    """The photographer five times, a few pixels apart."""
    content = json.loads(PHOTO.with_suffix(".json").read_text())
    (person,) = content["people"]
    content["people"] = [
        {
            **person,
            **label,
            "id": f"p{number}",
            "keypoints": {name: [x + number, *more] for name, (x, *more) in person["keypoints"].items()},
        }
        for number in range(5)
    ]
    path.write_text(json.dumps(content))
    return path


def test_a_killed_predict_continues_with_the_same_results(trained: tuple[str, Path, Path], tmp_path: Path) -> None:
    method, _, checkpoint = trained
    args = [
        "predict", "--config", "smoke.yaml", "--ckpt_path", checkpoint, "--trainer.default_root_dir", tmp_path,
        "--trainer.logger", "false", "--data.predict.keypoints", five_people(tmp_path / "k.json"),
        "--data.predict.photo", PHOTO.with_suffix(".png"), "--data.batch_size", "2", "--output.pictures", "false",
    ]  # fmt: skip
    killer = ["--trainer.callbacks+=posecore.testing.interruption.KillAt", "--trainer.callbacks.batch=1"]
    command(method, *args, "--output.folder", tmp_path / "killed", *killer, code=-signal.SIGKILL)
    assert [path.name for path in (tmp_path / "killed" / "parts").glob("rows_*")] == ["rows_000000000.npz"]
    refused = command(method, *args, "--output.folder", tmp_path / "killed", code=2)
    assert "--output.resume true continues" in refused.stderr
    seeded = [*args, "--output.folder", tmp_path / "killed", "--output.resume", "true"]
    refused = command(method, *seeded, "--model.seed", "7", code=2)
    assert "settings.model.seed was 0 and is 7" in refused.stderr
    command(method, *seeded)
    if method == "zedo":  # told to end, it ends after the batch
        told = command(
            method, *args, "--output.folder", tmp_path / "told", *killer, "--trainer.callbacks.name=SIGTERM", code=143
        )
        assert "--output.resume true continues" in told.stderr
        assert len([*(tmp_path / "told" / "parts").glob("rows_*")]) == 2
    command(method, *args, "--output.folder", tmp_path / "whole")
    for path in (tmp_path / "whole").rglob("*"):
        if path.is_file() and path.suffix != ".npz":
            other = tmp_path / "killed" / path.relative_to(tmp_path / "whole")
            assert other.read_bytes() == path.read_bytes(), path.name
    with (
        np.load(tmp_path / "killed" / "predictions.npz", allow_pickle=False) as found,
        np.load(tmp_path / "whole" / "predictions.npz", allow_pickle=False) as expected,
    ):
        assert set(found.files) == set(expected.files)
        for name in expected.files:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_files_of_all_methods_say_the_same_in_the_same_words(trained: tuple[str, Path, Path], tmp_path: Path) -> None:
    """One picture of two is broken: the rest is written, and the exit code tells."""
    method, _, checkpoint = trained
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "good.png").write_bytes(PHOTO.with_suffix(".png").read_bytes())
    (photos / "broken.png").write_bytes(b"no picture")
    content = json.loads(five_people(tmp_path / "k.json", image="good.png").read_text())
    content.pop("image", None)
    content["people"] = content["people"][:3]
    content["people"][2]["image"] = "broken.png"
    (tmp_path / "k.json").write_text(json.dumps(content))
    done = command(
        method, "predict", "--config", "smoke.yaml", "--ckpt_path", checkpoint, "--trainer.default_root_dir", tmp_path,
        "--trainer.logger", "false", "--data.predict.keypoints", tmp_path / "k.json", "--data.predict.photo", photos,
        "--output.folder", tmp_path / "out", "--output.formats", "[csv, html]", code=3,
    )  # fmt: skip
    assert "1 skipped" in done.stdout
    (entry,) = json.loads((tmp_path / "out" / "skipped.json").read_text())
    assert entry["name"] == "broken.png"
    predictions = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert set(predictions) - {"body"} == {
        "format", "method", "unit", "frame", "joint_set", "joint_names", "parents", "keypoint_set", "fps", "pick",
        "source", "notes", "settings", "people",
    }  # fmt: skip
    assert predictions["source"]["keypoints"] == str(tmp_path / "k.json")
    assert len(predictions["people"]) == 2
    common = {
        "id", "frame", "view", "image", "image_size", "camera", "joints", "reprojection_error_px", "keypoints_2d",
    }  # fmt: skip
    for person in predictions["people"]:
        assert common <= set(person)
        assert set(person) - common <= {"best", "hypotheses", "pose", "betas", "transl", "start"}
        assert list(person["joints"]) == predictions["joint_names"]
        assert ("hypotheses" in person) == ("best" in person)
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {
        "overlays/good.png", "panel.png", "people.html", "predictions.json", "predictions.npz", "run.json",
        "skipped.json",
    } <= files  # fmt: skip
    tables = {f"csv/good_p{number}_frame0.csv" for number in range(2)}
    assert files & tables == (set() if method in OF_JOINTS else tables)
    assert not any(name.startswith("parts") for name in files)


def check_hypotheses(folder: Path, people: list[dict[str, Any]]) -> None:
    with np.load(folder / "predictions.npz", allow_pickle=False) as arrays:
        assert arrays["hypotheses"].shape == (len(people), 3, 17, 3)
        assert np.isfinite(arrays["hypotheses"]).all()


def check_bodies(folder: Path, people: list[dict[str, Any]]) -> None:
    """SMPL parameters before and after the fit, a motion file for each person, and the photograph with the bodies."""
    shapes = {"global_orient": (3, 3), "body_pose": (23, 3, 3), "betas": (10,), "transl": (3,), "joints": (24, 3)}
    shapes |= {f"start_{name}": shape for name, shape in shapes.items() if name != "joints"}
    with np.load(folder / "predictions.npz", allow_pickle=False) as arrays:
        for name, shape in shapes.items():
            assert arrays[name].shape == (len(people), *shape), name
            assert np.isfinite(arrays[name]).all(), name
        assert (arrays["transl"][:, 2] > 0).all()
        assert (arrays["body_pose"] != arrays["start_body_pose"]).any()
    for person in people:
        assert (len(person["pose"]), len(person["betas"]), len(person["joints"])) == (24, 10, 24)
        assert (len(person["start"]["pose"]), len(person["start"]["betas"])) == (24, 10)
    motions = sorted((folder / "amass").glob("*.npz"))
    assert len(motions) == len(people)
    for path in motions:
        with np.load(path, allow_pickle=False) as arrays:
            assert arrays["poses"].shape[0] == arrays["trans"].shape[0] == 1
            assert arrays["betas"].shape == (10,)
    with (
        Image.open(folder / "overlays" / f"{PHOTO.stem}.png") as overlay,
        Image.open(PHOTO.with_suffix(".png")) as photo,
    ):
        assert overlay.size == photo.size
        assert np.asarray(overlay.convert("RGB")).tobytes() != np.asarray(photo.convert("RGB")).tobytes()


def check_bodies_of_hypotheses(folder: Path, people: list[dict[str, Any]]) -> None:
    """The most plausible body as a fit's, and all hypotheses beside it."""
    with np.load(folder / "predictions.npz", allow_pickle=False) as arrays:
        assert arrays["hypotheses_body_pose"].shape == (len(people), 3, 23, 3, 3)
        best = arrays["hypotheses_body_pose"][np.arange(len(people)), arrays["best"]]
        np.testing.assert_allclose(best, arrays["body_pose"], atol=1e-4)
        assert "start_body_pose" not in arrays
    for person in people:
        assert len(person["hypotheses"]) == 3
    assert len(list((folder / "amass").glob("*.npz"))) == len(people)
    assert (folder / "overlays" / f"{PHOTO.stem}.png").is_file()


def check_meshes(folder: Path, people: list[dict[str, Any]]) -> None:
    """The final mesh as it is and as a body, the samples it is made of, and the photograph with it."""
    with np.load(folder / "samples.npz", allow_pickle=False) as arrays:
        assert arrays["vertices"].shape == (len(people), 6890, 3)
        assert arrays["samples"].shape == (len(people), 3, 431, 3)
        assert all(np.isfinite(arrays[name]).all() for name in ("vertices", "samples", "transl"))
        assert (arrays["transl"][:, 2] > 0).all()
    with np.load(folder / "predictions.npz", allow_pickle=False) as arrays:
        assert arrays["body_pose"].shape == (len(people), 23, 3, 3)
        assert arrays["joints"].shape == (len(people), 24, 3)
        assert "start_body_pose" not in arrays
    for person in people:
        assert (len(person["pose"]), len(person["betas"]), len(person["joints"])) == (24, 10, 24)
    assert len(list((folder / "amass").glob("*.npz"))) == len(people)
    assert len(list((folder / "glb").glob("*.glb"))) == len(people)
    assert (folder / "overlays" / f"{PHOTO.stem}.png").is_file()


CHECKS = {
    "diffhmr": check_bodies_of_hypotheses,
    "diffupose": check_hypotheses,
    "hmdiff": check_meshes,
    "scorehmr": check_bodies,
    "zedo": check_hypotheses,
}


@pytest.mark.parametrize("case", ["corrupt", "foreign", "missing"])
def test_a_wrong_checkpoint_is_one_clear_error(trained: tuple[str, Path, Path], tmp_path: Path, case: str) -> None:
    method, _, checkpoint = trained
    path = tmp_path / "wrong.ckpt"
    if case == "corrupt":
        path.write_bytes(checkpoint.read_bytes()[:1000])
    elif case == "foreign":
        content = torch.load(checkpoint, weights_only=True)
        torch.save({**content, "humandiff_method": "another"}, path)
    done = command(method, "test", "--config", "smoke.yaml", "--ckpt_path", path, ok=False)
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert "wrong.ckpt" in done.stderr or "another" in done.stderr


KEYPOINTS = ("--data.predict.keypoints", PHOTO.with_suffix(".json"))
PICTURE = ("--data.predict.photo", PHOTO.with_suffix(".png"))
OF_PHOTOS = {"diffhmr", "hmdiff"}
BAD_KEYPOINTS = [
    (("--data.predict.keypoints", "nothing.json"), "nothing.json"),
    ((), "data.predict.keypoints"),
    ((*KEYPOINTS, "--data.predict.photo", __file__), "no picture that can be read"),
    ((*KEYPOINTS, "--output.folder", __file__), "file in its place"),
    ((*KEYPOINTS, "--model.weights", "nobody"), "nobody"),
]
BAD_PHOTOS = [
    (("--data.predict.photo", "nothing.png"), "nothing.png"),
    ((), "data.predict.photo"),
    (("--data.predict.photo", __file__), "no picture that can be read"),
    ((*PICTURE, *KEYPOINTS, "--data.predict.box", "[0, 0, 9, 9]"), "keypoints and box"),
    ((*PICTURE, "--output.folder", __file__), "file in its place"),
    ((*PICTURE, "--model.weights", "nobody"), "nobody"),
]


@pytest.mark.parametrize(
    ("method", "args", "says"),
    [(method, *case) for method in METHODS for case in (BAD_PHOTOS if method in OF_PHOTOS else BAD_KEYPOINTS)],
)
def test_bad_input_is_one_clear_error(method: str, args: tuple[str | Path, ...], says: str) -> None:
    done = command(method, "predict", "--config", "open.yaml", *args, ok=False)
    assert says in done.stderr
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("method", METHODS)
def test_shipped_weights_load_and_say_what_they_are(method: str) -> None:
    files = sorted((Path(__file__).parents[1] / "packages" / method / method / "weights").glob("*.safetensors"))
    assert files
    for path in files:
        assert path.stat().st_size < 50e6
        assert all(bool(torch.isfinite(value).all()) for value in load_file(path).values())
