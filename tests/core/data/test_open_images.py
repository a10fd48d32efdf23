import io
import json
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from posecore.body.files import load_body_model
from posecore.body.smpl import SMPLLayer
from posecore.data.detector_noise import DetectorNoise
from posecore.data.open_images import FORMAT, OpenImages, read_settings, shard_path, write_shard
from posecore.data.sample import PoseSample, take
from posecore.geometry.camera import crop_intrinsics, project
from posecore.geometry.rotation import axis_angle_to_rotmat
from posecore.render.rasterizer import rasterize

MADE = {"set": "a", "raw_size": 32, "crop_margin": 1.5}
RAW = 144  # px, of the shipped sample


@pytest.fixture(scope="module")
def shipped() -> OpenImages:
    return OpenImages(Path("nowhere"), ["sample"])


def jpegs(count: int, size: int = 32, seed: int = 0) -> list[bytes]:
    """Files of different lengths, of different pictures."""
    rng, files = np.random.default_rng(seed), []
    for quality in range(60, 60 + count):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(buffer, "JPEG", quality=quality)
        files.append(buffer.getvalue())
    return files


def decoded(files: list[bytes]) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(Image.open(io.BytesIO(file)))).permute(2, 0, 1) for file in files])


def write_set(
    folder: Path, shipped: OpenImages, name: str = "a", counts: tuple[int, ...] = (5, 3), first: int = 0, **made: Any
) -> list[bytes]:
    """A set of rows of the shipped one; its pictures' files."""
    settings = {**MADE, **made}
    files = jpegs(sum(counts), settings["raw_size"], seed=first)
    for number, count in enumerate(counts):
        low = sum(counts[:number])
        rows = take(shipped.samples, range(first + low, first + low + count))
        write_shard(shard_path(folder, name, number, len(counts)), rows, files[low : low + count], settings)
    return files


def test_what_is_written_is_read(tmp_path: Path, shipped: OpenImages) -> None:
    files = write_set(tmp_path / "open_images", shipped)
    assert not list(tmp_path.rglob("*.partial"))
    assert read_settings(shard_path(tmp_path / "open_images", "a", 1, 2)) == MADE
    for root in (tmp_path, tmp_path / "open_images"):
        found = OpenImages(root, ["a"])
        assert (len(found), found.crop_margin, found.joint_set.name) == (8, 1.5, "joints44")
        written = cast(dict[str, Any], take(shipped.samples, range(8)))
        assert found.samples.keys() == written.keys()
        for key, values in cast(dict[str, Any], found.samples).items():
            same = torch.equal(values, written[key]) if isinstance(values, Tensor) else values == written[key]
            assert same, key
        rows = [7, 0, 4, 5, 5]
        assert torch.equal(found.__getitems__(rows)["image"], decoded(files)[rows])
        assert torch.equal(found[6]["image"], decoded(files)[6])


def test_stride_and_several_sets(tmp_path: Path, shipped: OpenImages) -> None:
    files = write_set(tmp_path, shipped)
    files += write_set(tmp_path, shipped, "b", (4,), first=8)
    found = OpenImages(tmp_path, ["a", "b"], stride=3)
    assert found.samples["frame"].tolist() == shipped.samples["frame"][:12:3].tolist()
    assert found.samples["clip"] == shipped.samples["clip"][:12:3]
    assert torch.equal(found.__getitems__(range(4))["image"], decoded(files)[::3])
    swapped = OpenImages(tmp_path, ["b", "a"])
    assert torch.equal(swapped.__getitems__(range(12))["image"], decoded(files[8:] + files[:8]))


def test_rows_without_images(tmp_path: Path, shipped: OpenImages) -> None:
    write_set(tmp_path, shipped)
    batch = OpenImages(tmp_path, ["a"], images=False).__getitems__([0, 1])
    assert "image" not in batch
    assert torch.equal(batch["box"], shipped.samples["box"][:2])


def test_the_shipped_set(shipped: OpenImages) -> None:
    batch = shipped.__getitems__(range(len(shipped)))
    assert len(shipped) >= 32
    assert batch["image"].dtype == torch.uint8
    assert batch["image"].shape == (len(shipped), 3, RAW, RAW)
    assert batch["image"].float().std(dim=(2, 3)).mean(dim=1).min() > 5, "no picture is empty"
    assert len({picture.numpy().tobytes() for picture in batch["image"]}) == len(shipped)
    assert batch["smpl24_visible"].dtype == torch.bool
    assert 0.6 < batch["smpl24_visible"].float().mean() < 0.98
    assert (~batch["smpl24_visible"]).any(dim=1).float().mean() > 0.3


def test_a_set_of_one_s_own_is_preferred_to_the_shipped_one(tmp_path: Path, shipped: OpenImages) -> None:
    write_set(tmp_path, shipped, "sample", (2,))
    assert len(OpenImages(tmp_path, ["sample"])) == 2


def test_labels_fit_one_another(shipped: OpenImages) -> None:
    rows = shipped.samples
    true = project(rows["joints_cam"], rows["K"])
    torch.testing.assert_close(rows["joints_2d_true_px"], true)
    inside = ((true >= 0) & (true <= rows["image_size"][:, None])).all(dim=-1)
    assert torch.equal(rows["confidence"], inside.float())
    assert torch.equal(rows["joints_2d_px"], torch.where(inside[..., None], true, 0.0))
    assert rows["joints_known"].all()
    root = list(shipped.joint_set.root)
    assert rows["joints_rel"][:, root].mean(dim=1).abs().max() < 1e-5
    torch.testing.assert_close(
        rows["joints_rel"] - rows["joints_rel"][:, :1], rows["joints_cam"] - rows["joints_cam"][:, :1]
    )
    # SPIN's box: 1.2 times the longer side of what lies in the picture, around its middle.
    for points, seen, box in zip(true, inside, rows["box"], strict=True):
        low, high = points[seen].min(dim=0).values, points[seen].max(dim=0).values
        torch.testing.assert_close(box, torch.cat(((low + high) / 2, 1.2 * (high - low).max()[None])))
    places = (project(rows["joints_smpl24_cam"], rows["K"]) - rows["box"][:, None, :2]) / rows["box"][:, None, 2:]
    assert (places[rows["smpl24_visible"]].abs() <= 0.5).all()
    layer = SMPLLayer(load_body_model(), vertices=())
    bodies = layer(rows["betas"], rows["body_pose"], rows["global_orient"], rows["transl"])
    torch.testing.assert_close(bodies.joints[:, :24], rows["joints_smpl24_cam"], atol=1e-4, rtol=0)


def silhouettes(dataset: OpenImages, margin: float) -> Tensor:
    """Where the naked body lies in the raw crops, if these are ``margin`` times the boxes."""
    model, rows, size = load_body_model(), dataset.samples, RAW
    body = SMPLLayer(model, joints=())(*(rows[key] for key in ("betas", "body_pose", "global_orient", "transl")))
    K = crop_intrinsics(rows["K"], rows["box"][:, :2], rows["box"][:, 2] * margin, size)
    return torch.stack(
        [
            rasterize(vertices, model.faces, camera, (size, size)).face >= 0
            for vertices, camera in zip(body.vertices, K, strict=True)
        ]
    )


def outline_contrast(image: Tensor, inside: Tensor) -> Tensor:
    """Mean step in colour from pixel to pixel across the outline, over that anywhere."""
    steps = (image[:, :, :, 1:].float() - image[:, :, :, :-1].float()).abs().mean(dim=1)
    across = inside[:, :, 1:] != inside[:, :, :-1]
    return (steps * across).sum(dim=(1, 2)) / across.sum(dim=(1, 2)) / steps.mean(dim=(1, 2))


def test_pictures_show_what_the_labels_say() -> None:
    shown = OpenImages(Path("nowhere"), ["sample"], stride=3)
    rows = shown.samples
    inside = silhouettes(shown, shown.crop_margin)
    assert 0.03 < inside.float().mean() < 0.4
    K = crop_intrinsics(rows["K"], rows["box"][:, :2], rows["box"][:, 2] * 1.5, RAW)
    column, row = project(rows["joints_smpl24_cam"], K).long().clamp(0, RAW - 1).unbind(-1)
    on_body = inside[torch.arange(len(inside))[:, None], row, column]
    assert on_body[rows["smpl24_visible"]].float().mean() > 0.98

    image = shown.__getitems__(range(len(shown)))["image"]
    own = outline_contrast(image, inside)
    assert own.mean() > 2
    assert (own > outline_contrast(image, inside.roll(1, dims=0))).float().mean() > 0.9, "another person's outline"
    assert (own > outline_contrast(image, silhouettes(shown, 1.35))).float().mean() > 0.9, "another margin's"


def test_noise(tmp_path: Path, shipped: OpenImages) -> None:
    write_set(tmp_path, shipped, counts=(20, 12))
    noise = DetectorNoise(missing_prob=0.1)
    first, again, other = (OpenImages(tmp_path, ["a"], noise=noise, seed=seed).samples for seed in (0, 0, 1))
    true, seen = first["joints_2d_true_px"], first["confidence"] > 0
    assert torch.equal(true, shipped.samples["joints_2d_true_px"][:32])
    assert torch.equal(first["joints_2d_px"], again["joints_2d_px"])
    assert not torch.equal(first["joints_2d_px"], other["joints_2d_px"])
    assert 0.03 < (~seen).float().mean() < 0.4
    assert (first["joints_2d_px"][~seen] == 0).all()
    error = (first["joints_2d_px"] - true)[seen].norm(dim=-1)
    assert 0.5 < error.median() < 30
    # A stride takes rows; it does not draw anew.
    strided = OpenImages(tmp_path, ["a"], stride=4, noise=noise).samples
    assert torch.equal(strided["joints_2d_px"], first["joints_2d_px"][::4])
    assert torch.equal(strided["confidence"], first["confidence"][::4])


def write_cache(path: Path, count: int, shift: float, **changes: np.ndarray) -> dict[str, Tensor]:
    """A regressor's estimates: every row is another one."""
    angles = torch.linspace(0, 1, count * 24 * 3).reshape(count, 24, 3) + shift
    table = {
        "pred_pose": axis_angle_to_rotmat(angles).numpy(),
        "pred_betas": (torch.arange(count * 10.0).reshape(count, 10) + shift).numpy(),
        "pred_cam_t": (torch.arange(count * 3.0).reshape(count, 3) + shift).numpy(),
        **changes,
    }
    np.savez(path, **{key: value for key, value in table.items() if len(value)})
    return {key: torch.from_numpy(value) for key, value in table.items()}


def test_a_start_has_a_row_for_each_row_that_is_taken(tmp_path: Path, shipped: OpenImages) -> None:
    write_set(tmp_path, shipped)
    write_set(tmp_path, shipped, "b", (4,), first=8)
    cache = write_cache(tmp_path / "start.npz", 4, 0.5)
    found = OpenImages(tmp_path, ["a", "b"], stride=3, start="start.npz").samples
    assert torch.equal(found["start_betas"], cache["pred_betas"])
    assert torch.equal(found["start_transl"], cache["pred_cam_t"])
    assert torch.equal(found["start_global_orient"], cache["pred_pose"][:, 0])
    assert torch.equal(found["start_body_pose"], cache["pred_pose"][:, 1:])
    with pytest.raises(ValueError, match=r"start\.npz: holds 4 estimates, but the data set has 12 rows"):
        OpenImages(tmp_path, ["a", "b"], start="start.npz")


def test_a_start_may_be_the_crop_s_camera(tmp_path: Path, shipped: OpenImages) -> None:
    """It lands where its box is."""
    write_set(tmp_path, shipped, counts=(4,))
    camera = np.tile(np.float32([0.9, 0, 0]), (4, 1))
    write_cache(tmp_path / "a.npz", 4, 0.0, pred_cam=camera, pred_cam_t=np.zeros(0))
    found = OpenImages(tmp_path, ["a"], start="a.npz").samples
    K = torch.tensor([[5000.0, 0, 0], [0, 5000, 0], [0, 0, 1]]).repeat(4, 1, 1)
    K[:, :2, 2] = found["image_size"] / 2
    torch.testing.assert_close(project(found["start_transl"][:, None], K)[:, 0], found["box"][:, :2], rtol=0, atol=0.05)


def test_what_is_missing_is_named(tmp_path: Path, shipped: OpenImages) -> None:
    with pytest.raises(FileNotFoundError, match=r"no set 'a' of rendered images below .*prepare_open_images\.py"):
        OpenImages(tmp_path, ["a"])
    write_set(tmp_path, shipped, counts=(2, 2, 2))
    for number in (1, 2):
        shard_path(tmp_path, "a", number, 3).unlink()
    with pytest.raises(FileNotFoundError, match=r"a: 2 of 3 shards are missing, 0001-of-0003\.h5 the first.*goes on"):
        OpenImages(tmp_path, ["a"])


def test_several_renderings_in_one_folder(tmp_path: Path, shipped: OpenImages) -> None:
    write_set(tmp_path, shipped)
    write_set(tmp_path, shipped, counts=(2, 2, 2))
    for _ in range(2):
        with pytest.raises(ValueError, match="a: holds shards of several renderings; delete all but one"):
            OpenImages(tmp_path, ["a"])
        shard_path(tmp_path, "a", 1, 2).unlink(missing_ok=True)  # one of them is not even whole


def test_pictures_of_one_size(tmp_path: Path, shipped: OpenImages) -> None:
    write_set(tmp_path, shipped)
    write_set(tmp_path, shipped, "b", (2,), crop_margin=2.0, raw_size=48)
    with pytest.raises(ValueError, match=r"sets: their pictures differ.*: 32 px of 1\.5 boxes, 48 px of 2\.0 boxes"):
        OpenImages(tmp_path, ["a", "b"])


def rechunked(file: h5py.File) -> None:
    content = file["jpeg"][()]
    del file["jpeg"]
    file.create_dataset("jpeg", data=content, chunks=(100,))


def shortened(file: h5py.File) -> None:
    K = file["K"][()]
    del file["K"]
    file["K"] = K[:-1]


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (lambda file: file.attrs.__setitem__("format", "other"), f"format is 'other', expected '{FORMAT}'"),
        (lambda file: file.attrs.__delitem__("format"), "format is None"),
        (lambda file: file.attrs.__delitem__("settings"), "is no shard of rendered images that can be read"),
        (lambda file: file.attrs.__setitem__("settings", "{"), "is no shard of rendered images that can be read"),
        (lambda file: file.__delitem__("betas"), "is no shard of rendered images that can be read.*betas"),
        (lambda file: file.__delitem__("jpeg"), "is no shard of rendered images that can be read.*jpeg"),
        (rechunked, "pictures are not stored in one piece"),
        (shortened, r"has 3 pictures but other numbers of labels: \{'K': 2\}"),
    ],
)
def test_a_foreign_file_is_one_clear_error(breaks: Any, says: str, tmp_path: Path, shipped: OpenImages) -> None:
    write_set(tmp_path, shipped)
    with h5py.File(shard_path(tmp_path, "a", 1, 2), "r+") as file:
        breaks(file)
    with pytest.raises(ValueError, match=r"0001-of-0002\.h5: .*" + says):
        OpenImages(tmp_path, ["a"])


def test_a_broken_file_is_one_clear_error(tmp_path: Path, shipped: OpenImages) -> None:
    files = write_set(tmp_path, shipped)
    path = shard_path(tmp_path, "a", 1, 2)
    content = path.read_bytes()
    for broken in (b"", b"text\n" * 100, content[:600], content[: len(content) // 2], content[:-1]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"0001-of-0002\.h5: is no shard of rendered images that can be read"):
            OpenImages(tmp_path, ["a"])
    # One broken picture: the others can be read.
    at = content.index(files[6])
    for scribble in (bytes(len(files[6])), files[6][:200] + bytes(len(files[6]) - 200), b"P1" * (len(files[6]) // 2)):
        path.write_bytes(content[:at] + scribble + content[at + len(scribble) :])
        found = OpenImages(tmp_path, ["a"])
        assert torch.equal(found.__getitems__([0, 5, 7])["image"], decoded(files)[[0, 5, 7]])
        with pytest.raises(ValueError, match=rf"0001-of-0002\.h5: picture at byte {at} cannot be read"):
            found.__getitems__([5, 6])
    larger = jpegs(1, size=64)[0]
    rows = cast(PoseSample, take(shipped.samples, [0]))
    write_shard(shard_path(tmp_path, "c", 0, 1), rows, [larger], MADE)
    with pytest.raises(ValueError, match=r"0000-of-0001\.h5: picture at byte \d+ cannot be read"):
        OpenImages(tmp_path, ["c"]).__getitems__([0])


def test_bad_arguments(tmp_path: Path, shipped: OpenImages) -> None:
    for arguments in ({"sets": []}, {"sets": ["sample"], "stride": 0}):
        with pytest.raises(ValueError, match="sets and stride: expected at least one set and 1, got"):
            OpenImages(tmp_path, **arguments)


def test_only_whole_rows_are_written(tmp_path: Path, shipped: OpenImages) -> None:
    path, rows = shard_path(tmp_path, "a", 0, 1), take(shipped.samples, [0, 1])
    with pytest.raises(ValueError, match="jpegs: 1 pictures for 2 rows"):
        write_shard(path, rows, jpegs(1), MADE)
    with pytest.raises(ValueError, match="settings: lack raw_size"):
        write_shard(path, rows, jpegs(2), {"crop_margin": 1.5})
    lacking = {key: value for key, value in rows.items() if key not in ("box", "clip")}
    with pytest.raises(ValueError, match="rows: lack box, clip"):
        write_shard(path, cast(PoseSample, lacking), jpegs(2), MADE)
    assert not path.parent.exists()
    settings = json.dumps(MADE)
    write_shard(path, rows, jpegs(2), json.loads(settings))
    assert path.is_file()
