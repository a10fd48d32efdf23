import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from posecore.body.files import BodyModel, load_body_model
from posecore.body.joint_maps import joint_map
from posecore.body.skeletons import FREIHAND_21, MANO_21
from posecore.data import FreiHAND
from posecore.data.augment import CropAugmentation
from posecore.data.crops import IMAGENET_MEAN, IMAGENET_STD
from posecore.geometry.camera import project
from posecore.render.rasterizer import rasterize
from posecore.testing import write_freihand, write_hand_model

HANDS, EVALUATION = 5, 3


@pytest.fixture(scope="module")
def hand_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hand_model(tmp_path_factory.mktemp("hand") / "hand.npz")


@pytest.fixture(scope="module")
def model(hand_file: Path) -> BodyModel:
    return load_body_model(hand_file)


@pytest.fixture(scope="module")
def root(hand_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_freihand(tmp_path_factory.mktemp("freihand"), hand_file, HANDS, EVALUATION)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """A folder of labels alone, two hands, to be spoilt."""
    generator = np.random.default_rng(0)
    for name, shape in (("K", (3, 3)), ("xyz", (21, 3)), ("verts", (778, 3))):
        rewrite(tmp_path, name, generator.normal(size=(2, *shape)).tolist())
    return tmp_path


def rewrite(root: Path, name: str, content: Any) -> None:
    (root / f"training_{name}.json").write_text(json.dumps(content), encoding="utf-8")


def test_rows_are_those_of_the_files(root: Path) -> None:
    data = FreiHAND(root)
    assert data.joint_set is FREIHAND_21
    assert len(data) == 4 * HANDS
    batch = data.__getitems__(range(len(data)))
    for key, name in (("K", "K"), ("joints_cam", "xyz"), ("vertices_cam", "verts")):
        wanted = np.array(json.loads((root / f"training_{name}.json").read_text()))
        np.testing.assert_allclose(batch[key], np.concatenate([wanted] * 4), atol=1e-6)  # type: ignore[literal-required]
        assert batch[key].dtype == torch.float32  # type: ignore[literal-required]
    assert batch["joints_rel"][:, 0].eq(0).all()
    torch.testing.assert_close(batch["joints_rel"] + batch["joints_cam"][:, :1], batch["joints_cam"])
    torch.testing.assert_close(project(batch["joints_cam"], batch["K"]), batch["joints_2d_px"], atol=1e-3, rtol=0)
    assert torch.equal(batch["joints_2d_px"], batch["joints_2d_true_px"])
    assert batch["confidence"].eq(1).all()
    assert batch["joints_known"].all()
    assert batch["image_size"].eq(224).all()
    assert batch["box"].tolist() == [[112, 112, 224]] * len(data)
    assert "image" not in batch


def test_joints_are_those_of_the_mesh(root: Path, model: BodyModel) -> None:
    batch = FreiHAND(root, "evaluation").__getitems__(range(EVALUATION))
    vertices = batch["vertices_cam"]
    tips = joint_map(MANO_21, FREIHAND_21).weights[:, 16:].float() @ model.landmark_regressor(MANO_21.joint_names[16:])
    torch.testing.assert_close((tips @ vertices)[:, 4::4], batch["joints_cam"][:, 4::4], atol=1e-5, rtol=0)
    # The wrist is turned about and stays the middle of the opening; the other joints lie inside the mesh.
    wrist = model.J_regressor[:1] @ vertices
    torch.testing.assert_close(wrist, batch["joints_cam"][:, :1], atol=1e-5, rtol=0)
    assert torch.cdist(batch["joints_cam"], vertices).amin(dim=-1).max() < 0.03


def test_versions_are_numbered_one_after_the_other(root: Path) -> None:
    for version in range(4):
        alone = FreiHAND(root, versions=[version], crops=224)
        for hand in range(HANDS):
            picture = np.array(Image.open(root / f"training/rgb/{hand + HANDS * version:08d}.jpg"))
            assert torch.equal(alone[hand]["image"], torch.from_numpy(picture).permute(2, 0, 1))
    some = FreiHAND(root, versions=[2, 0], stride=2, crops=224)
    assert len(some) == 2 * 3
    expected = [FreiHAND(root, versions=[version], crops=224)[hand] for version in (2, 0) for hand in (0, 2, 4)]
    for row, wanted in zip(some.__getitems__(range(6))["image"], expected, strict=True):
        assert torch.equal(row, wanted["image"])
    for key in ("vertices_cam", "joints_cam", "K"):
        rows = torch.stack([row[key] for row in expected])  # type: ignore[literal-required]
        assert torch.equal(some.samples[key], rows)  # type: ignore[literal-required]


def test_the_picture_shows_the_mesh(root: Path, model: BodyModel) -> None:
    data = FreiHAND(root, versions=[0], crops=224)
    for row in range(HANDS):
        sample = data[row]
        seen = rasterize(sample["vertices_cam"], model.faces, sample["K"], (224, 224)).face >= 0
        is_green = (sample["image"].float() - torch.tensor([60.0, 160, 70])[:, None, None]).abs().amax(dim=0) < 40
        assert (seen != is_green).float().mean() > 0.98
        assert 0.03 < float(seen.float().mean()) < 0.6


def test_augmentation_moves_hand_and_picture_together(root: Path, model: BodyModel) -> None:
    batch = FreiHAND(root, versions=[0], crops=224).__getitems__(range(HANDS))
    augmentation = CropAugmentation(size=224, margin=1.0, rotation_prob=1.0, flip_prob=0.0, pixel_noise=0.0)
    out = augmentation.train(batch, FREIHAND_21, torch.Generator().manual_seed(0))
    torch.testing.assert_close(project(out["joints_cam"], out["K"]), out["joints_2d_px"], atol=1e-2, rtol=0)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    for row in range(HANDS):
        seen = rasterize(out["vertices_cam"][row], model.faces, out["K"][row], (224, 224)).face >= 0
        image = 255 * (out["image"][row] * std + mean)
        is_green = (image - torch.tensor([60.0, 160, 70])[:, None, None]).abs().amax(dim=0) < 40
        is_black = image.amax(dim=0) < 20  # beyond the picture
        assert (seen != is_green)[~is_black].float().mean() > 0.97
    raw = FreiHAND(root, crops=96, crop_margin=1.5)[0]["image"]
    assert raw.shape == (3, 144, 144)
    assert raw[:, 0, 0].eq(0).all()


def test_spaces_between_rows_do_not_matter(labels: Path) -> None:
    plain = FreiHAND(labels).samples["vertices_cam"]
    content = json.loads((labels / "training_verts.json").read_text())
    (labels / "training_verts.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    assert torch.equal(FreiHAND(labels).samples["vertices_cam"], plain)


def test_arguments(root: Path) -> None:
    for arguments, message in (
        ({"split": "test"}, r"split: \['test'\] unknown, valid are training, evaluation"),
        ({"versions": [4]}, r"versions of the training set: \[4\] unknown, valid are 0, 1, 2, 3"),
        ({"split": "evaluation", "versions": [1]}, r"versions of the evaluation set: \[1\] unknown, valid are 0$"),
        ({"versions": []}, "versions: expected at least one"),
        ({"stride": 0}, "stride: must be at least 1, got 0"),
        ({"crops": 0}, "crops: their side must be at least 1 px, got 0"),
        ({"crops": 64, "crop_margin": 0.5}, "crop_margin: must be at least 1, the box itself, got 0.5"),
    ):
        with pytest.raises(ValueError, match=message):
            FreiHAND(root, **arguments)  # type: ignore[arg-type]


def test_missing_files(root: Path, labels: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no evaluation_K.json .*lmb.informatik.uni-freiburg.de"):
        FreiHAND(labels, "evaluation")
    with pytest.raises(FileNotFoundError, match=r"no training/rgb/00000007.jpg .*lmb.informatik.uni-freiburg.de"):
        FreiHAND(labels, crops=64)
    (labels / "training_verts.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no training_verts.json .*FreiHAND_pub_v2.zip"):
        FreiHAND(labels)


def test_broken_files(labels: Path) -> None:
    whole = (labels / "training_verts.json").read_text()
    (labels / "training_verts.json").write_text(whole[:-30], encoding="utf-8")
    with pytest.raises(ValueError, match=r"training_verts.json: is no list of arrays, or cut off after 1 hands"):
        FreiHAND(labels)
    for content, count in (('{"a": 1}', 0), ("", 0), (whole[: len(whole) - 1], 2)):
        (labels / "training_verts.json").write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=f"training_verts.json: is no list of arrays, or cut off after {count} "):
            FreiHAND(labels)
    rewrite(labels, "verts", np.zeros((2, 777, 3)).tolist())
    with pytest.raises(ValueError, match=r"training_verts.json: hand 0 has shape 777 x 3, expected 778 x 3"):
        FreiHAND(labels)
    rewrite(labels, "verts", np.zeros((3, 778, 3)).tolist())
    with pytest.raises(ValueError, match=r"training_K.json has 2, training_xyz.json has 2, training_verts.json has 3$"):
        FreiHAND(labels)
    for name in ("K", "xyz", "verts"):
        rewrite(labels, name, [])
    with pytest.raises(ValueError, match=r"at least one, but training_K.json has 0"):
        FreiHAND(labels)
