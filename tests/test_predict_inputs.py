"""All five methods read the same inputs in the same way, through the command line."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from posecore.body.skeletons import COCO_17
from posecore.testing.videos import write_video

METHODS = ["diffhmr", "diffupose", "hmdiff", "scorehmr", "zedo"]
SIZE = (96, 128)
OPTIONS = ["--output.formats", "[]", "--output.pictures", "false", "--trainer.enable_progress_bar", "false"]


def main(method: str) -> Any:
    """A method's command line, in this process."""
    return __import__(f"{method}.__main__", fromlist=["main"]).main


@pytest.fixture(scope="module", params=METHODS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A method and the checkpoint of one step of its smoke run."""
    folder = tmp_path_factory.mktemp(request.param)
    call(request.param, "fit", "--trainer.default_root_dir", folder, "--trainer.max_steps", "1")
    (checkpoint,) = folder.rglob("last.ckpt")
    return request.param, checkpoint


def call(method: str, stage: str, *args: str | Path) -> int:
    """Runs a command; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [method, stage, "--config", "smoke.yaml", *map(str, args)])
        try:
            main(method)()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def predict(method: str, checkpoint: Path, folder: Path, *given: str | Path) -> tuple[int, dict[str, Any]]:
    """Exit code, and what ``predictions.json`` holds."""
    args: list[str | Path] = [
        "--ckpt_path",
        checkpoint,
        "--trainer.default_root_dir",
        folder,
        "--output.folder",
        folder / "out",
    ]
    code = call(method, "predict", *args, *OPTIONS, *given)
    content: dict[str, Any] = json.loads((folder / "out" / "predictions.json").read_text())
    return code, content


def person(x: float) -> list[float]:
    """COCO's keypoints of somebody who stands upright."""
    shape = [(0, 0), (1, -1), (-1, -1), (2, 0), (-2, 0), (6, 10), (-6, 10), (9, 22), (-9, 22), (9, 32), (-9, 32),
             (4, 36), (-4, 36), (4, 56), (-4, 56), (4, 74), (-4, 74)]  # fmt: skip
    assert len(shape) == COCO_17.num_joints
    return [value for dx, dy in shape for value in (x + dx, 30.0 + dy, 0.9)]


def grey(number: int) -> np.ndarray:
    return np.full((SIZE[1], SIZE[0], 3), 40 * number, np.uint8)


def test_one_photograph_with_keypoints(trained: tuple[str, Path], tmp_path: Path) -> None:
    Image.fromarray(grey(3)).save(tmp_path / "me.jpg")
    people = [{"id": "me", "keypoints": np.reshape(person(48.0), (17, 3)).tolist()}]
    (tmp_path / "k.json").write_text(json.dumps({"joint_set": "coco17", "people": people}))
    code, content = predict(
        *trained, tmp_path, "--data.predict.photo", tmp_path / "me.jpg", "--data.predict.keypoints", tmp_path / "k.json"
    )
    assert code == 0
    (row,) = content["people"]
    assert (row["id"], row["frame"], row["image_size"]) == ("me", 0, [96, 128])
    assert content["source"]["recognised"] == "k.json: simple JSON; joint set coco17, as the file says"
    assert content["source"]["camera"].startswith("focal length assumed: 160.0 px")


def test_a_folder_with_results_of_coco_and_a_bad_picture(trained: tuple[str, Path], tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in (139, 7):
        Image.fromarray(grey(2)).save(photos / f"{number:012d}.jpg")
    (photos / f"{9:012d}.jpg").write_bytes(b"no picture")
    results = [{"image_id": n, "category_id": 1, "keypoints": person(40.0 + k), "score": 0.9}
               for k, n in enumerate((139, 9, 7, 7))]  # fmt: skip
    (tmp_path / "r.json").write_text(json.dumps(results))
    code, content = predict(
        *trained, tmp_path, "--data.predict.photo", photos, "--data.predict.keypoints", tmp_path / "r.json"
    )
    assert code != 0, "something was left out"
    assert [row["id"] for row in content["people"]] == ["0", "2", "3"]
    skipped = json.loads((tmp_path / "out" / "skipped.json").read_text())
    assert [entry["name"] for entry in skipped] == ["9"]


def test_a_video_with_results_of_alphapose(trained: tuple[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("av")
    video = write_video(tmp_path / "clip.mp4", [grey(number) for number in range(4)])
    results = [{"image_id": f"{n}.jpg", "category_id": 1, "keypoints": person(x + n), "score": 2.5, "idx": i}
               for n in range(4) for i, x in ((1, 30.0), (2, 60.0)) if (n, i) != (2, 1)]  # fmt: skip
    (tmp_path / "r.json").write_text(json.dumps(results))
    code, content = predict(
        *trained, tmp_path, "--data.predict.photo", video, "--data.predict.keypoints", tmp_path / "r.json"
    )
    assert code == 0
    assert [(row["id"], row["frame"]) for row in content["people"]] == [
        ("1", 0), ("1", 1), ("1", 3), ("2", 0), ("2", 1), ("2", 2), ("2", 3),
    ]  # fmt: skip
    assert (content["source"]["group"], content["source"]["fps"]) == ("video", 50.0)
    assert "1 frames without a keypoint within tracks were left out" in content["notes"]
