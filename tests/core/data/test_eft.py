import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from posecore.body.skeletons import JOINTS_44
from posecore.data import SPINNpz
from posecore.data.eft import EFT, read_eft
from posecore.data.picture_sizes import picture_sizes
from posecore.testing import write_coco, write_eft, write_spin_npz

NAME = "COCO2014-All-ver01.json"
ROWS = 5


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("eft")


@pytest.fixture(scope="module")
def people(root: Path) -> dict[str, Any]:
    people = write_coco(root, rows=ROWS)
    write_eft(root / "eft_fit" / NAME, people, without=0, box_shift_px=0)
    return people


def test_rows_are_the_fits_of_the_file_and_nothing_else(root: Path, people: dict[str, Any]) -> None:
    data = EFT(root, NAME, root / "train2014")
    assert data.joint_set is JOINTS_44
    batch = data.__getitems__(range(ROWS))
    back = slice(None, None, -1)  # The file's order.
    assert batch["clip"] == [Path(name).name for name in people["clip"]][back]
    np.testing.assert_allclose(batch["global_orient"], people["pose"][back, 0], atol=1e-6)
    np.testing.assert_allclose(batch["body_pose"], people["pose"][back, 1:], atol=1e-6)
    np.testing.assert_allclose(batch["betas"], people["betas"][back], atol=1e-6)
    np.testing.assert_allclose(batch["box"], people["box"][back], rtol=1e-6)
    np.testing.assert_allclose(batch["image_size"], people["image_size"][back])
    assert batch["has_pose"].all()
    assert batch["has_betas"].all()
    for key in ("confidence", "joints_known", "joints_2d_px", "joints_cam"):
        assert not batch[key].any(), key
    assert set(batch) == set(EFT(root / "eft_fit", NAME, root / "train2014", stride=3, crops=8)[0]) - {"image"}
    assert EFT(root, NAME, root / "train2014", stride=3).samples["clip"] == batch["clip"][::3]


def test_crops_show_the_box(root: Path, people: dict[str, Any]) -> None:
    """A picture's red is its column, its green its row."""
    image = EFT(root, NAME, root / "train2014", crops=32, crop_margin=1.0)[0]["image"]
    assert image.dtype == torch.uint8
    assert image.shape == (3, 32, 32)
    (x, y, _), (width, height) = people["box"][-1], people["image_size"][-1]
    middle = image[:2, 15:17, 15:17].float().mean(dim=(1, 2))
    expected = torch.tensor([255 * (x - 0.5) / (width - 1), 255 * (y - 0.5) / (height - 1)])
    torch.testing.assert_close(middle, expected.float(), atol=4, rtol=0)


def test_annotations_without_a_number_have_minus_one(root: Path, people: dict[str, Any], tmp_path: Path) -> None:
    assert read_eft(root / "eft_fit" / NAME).annotation.tolist() == people["annotation"][::-1].tolist()
    content = json.loads((root / "eft_fit" / NAME).read_text())
    del content["data"][0]["annotId"]
    content["data"][1]["annotId"] = []
    content["data"][2]["imageName"] = "/some/where/a.jpg"
    content["data"][3]["parm_shape"] = [content["data"][3]["parm_shape"]]
    (tmp_path / "a.json").write_text(json.dumps(content))
    fits = read_eft(tmp_path / "a.json")
    assert fits.annotation.tolist() == [-1, -1, *people["annotation"][2::-1].tolist()]
    assert fits.names[2] == "a.jpg"
    np.testing.assert_allclose(fits.betas[3], people["betas"][1])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda fit: fit.pop("parm_pose"), r"fit 1: has no 'parm_pose'"),
        (lambda fit: fit.update(parm_pose=[1.0] * 72), r"fit 1: parm_pose has shape 72, expected 24 x 3 x 3"),
        (lambda fit: fit["parm_pose"][5][0].__setitem__(0, 3.0), "parm_pose of fit 1 holds matrices that are no rot"),
        (lambda fit: fit["parm_pose"].__setitem__(3, (-np.eye(3)).tolist()), "fit 1 holds matrices that are no rot"),
        (lambda fit: fit.update(parm_shape=[None] * 10), r"fit 1: parm_shape holds values that are not finite"),
        (lambda fit: fit.update(bbox_center=[1, 2, 3]), r"fit 1: bbox_center has shape 3, expected 2"),
        (lambda fit: fit.update(bbox_scale=0), "bbox_scale of fit 1 is 0, expected sides above 0"),
        (lambda fit: fit.pop("imageName"), r"fit 1: has no 'imageName'"),
    ],
)
def test_a_broken_fit_is_named(change: Any, says: str, root: Path, people: dict[str, Any], tmp_path: Path) -> None:
    content = json.loads((root / "eft_fit" / NAME).read_text())
    change(content["data"][1])
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=says):
        read_eft(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"ver": 0.1, "data": [{"parm_', r"a\.json: is no JSON file, or cut off"),
        ('{"ver": 0.1}', r"a\.json: has no 'data'"),
        ("[]", r"a\.json: has no 'data' \(it holds a list\)"),
        ('{"data": []}', r"a\.json: 'data' holds no list of fits"),
        ('{"data": {"a": 1}}', r"a\.json: 'data' holds no list of fits"),
    ],
)
def test_a_file_that_is_none_is_named(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=says):
        EFT(tmp_path, "a.json", tmp_path)


def test_missing_files_and_bad_arguments(root: Path, people: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no a\.json in .*nor in its folders eft_fit, eft.*facebookresearch/eft"
    ):
        EFT(tmp_path, "a.json", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no picture .*COCO_train2014_0"):
        EFT(root, NAME, tmp_path)
    with pytest.raises(ValueError, match="stride: must be at least 1, got 0"):
        EFT(root, NAME, root / "train2014", stride=0)


def test_sizes_are_of_the_upright_pictures(tmp_path: Path) -> None:
    lying = Image.new("RGB", (40, 30))
    exif = lying.getexif()
    exif[0x0112] = 6
    lying.save(tmp_path / "lying.jpg", exif=exif)
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    paths = [tmp_path / name for name in ("a.png", "lying.jpg", "a.png")]
    assert picture_sizes(paths).tolist() == [[20, 10], [30, 40], [20, 10]]
    assert picture_sizes([]).shape == (0, 2)
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"b\.png is no picture that can be read"):
        picture_sizes([tmp_path / "b.png"])


def test_fits_mix_with_spin_s_files(root: Path, people: dict[str, Any], tmp_path: Path) -> None:
    write_spin_npz(tmp_path, "lsp.npz", 3)
    spin = SPINNpz(tmp_path, ["lsp.npz"], tmp_path, crops=8)[0]
    fit = EFT(root, NAME, root / "train2014", crops=8)[0]
    assert set(fit) == set(spin)
    for key, value in spin.items():
        if isinstance(value, torch.Tensor):
            assert fit[key].dtype == value.dtype, key  # type: ignore[literal-required]
            assert fit[key].shape == value.shape, key  # type: ignore[literal-required]
