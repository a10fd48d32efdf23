import math
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import adjust_brightness, adjust_contrast, adjust_saturation

from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import H36M_17, JOINTS_44, SMPL_24, JointSet
from posecore.data.augment import CropAugmentation
from posecore.data.crops import IMAGENET_MEAN, IMAGENET_STD, box_of_keypoints, crop, raw_crop
from posecore.data.sample import PoseSample
from posecore.data.transforms import flip_joints
from posecore.geometry.camera import crop_intrinsics, project, world_to_cam
from posecore.geometry.rotation import axis_angle_to_rotmat, random_rotmat

MIRROR = torch.diag(torch.tensor([-1.0, 1.0, 1.0]))
EVERYTHING: dict[str, Any] = {"rotation_prob": 0.8, "shift": 0.1, "occlusion_prob": 0.5, "color_jitter": 0.3}
PLAIN: dict[str, Any] = {"rotation_prob": 0.0, "scale": 0.0, "flip_prob": 0.0, "pixel_noise": 0.0}


@cache
def joints_of(joint_set: JointSet) -> NamedJoints:
    return NamedJoints(joint_set)


def people(joint_set: JointSet = JOINTS_44, rows: int = 12, seed: int = 0, raw: int = 48) -> PoseSample:
    """Posed open bodies before a camera, with all keys that can be moved."""
    g = torch.Generator().manual_seed(seed)
    body: dict[str, Tensor] = {
        "betas": torch.randn(rows, 10, generator=g),
        "body_pose": axis_angle_to_rotmat(0.3 * torch.randn(rows, 23, 3, generator=g)),
        "global_orient": random_rotmat((rows,), generator=g),
        "transl": torch.tensor([0.3, -0.2, 5.0]) + 0.3 * torch.randn(rows, 3, generator=g),
    }
    joints_cam = joints_of(joint_set)(**body)
    K = torch.tensor([[1100.0, 0.0, 480.0], [0.0, 1100.0, 520.0], [0.0, 0.0, 1.0]]).repeat(rows, 1, 1)
    pixels = project(joints_cam, K)
    center, side = box_of_keypoints(pixels, torch.ones_like(pixels[..., 0]))
    confidence = torch.rand(rows, joint_set.num_joints, generator=g)
    confidence = confidence.masked_fill(confidence < 0.2, 0.0)
    return cast(
        PoseSample,
        {
            **body,
            "joints_cam": joints_cam,
            "joints_rel": joints_cam - joints_cam[:, list(joint_set.root)].mean(dim=1, keepdim=True),
            "joints_known": torch.rand(rows, joint_set.num_joints, generator=g) < 0.8,
            "joints_smpl24_cam": joints_of(SMPL_24)(**body),
            "smpl24_visible": torch.rand(rows, 24, generator=g) < 0.8,
            "K": K,
            "joints_2d_true_px": pixels,
            "joints_2d_px": torch.where(confidence[..., None] > 0, pixels, 0.0),
            "confidence": confidence,
            "R_world_to_cam": random_rotmat((rows,), generator=g),
            "t_world_to_cam": torch.randn(rows, 3, generator=g),
            "image_size": torch.tensor([[960.0, 1040.0]]).repeat(rows, 1),
            "box": torch.cat((center, side[:, None]), dim=1),
            "image": torch.randint(0, 256, (rows, 3, raw, raw), dtype=torch.uint8, generator=g),
            "clip": [f"clip {row}" for row in range(rows)],
        },
    )


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def colours(image: Tensor) -> Tensor:
    """0..1 before the normalisation."""
    std, mean = (torch.tensor(values)[:, None, None] for values in (IMAGENET_STD, IMAGENET_MEAN))
    return image * std + mean


def mirrored(batch: PoseSample, out: PoseSample) -> Tensor:
    """Which rows were mirrored: their left and right confidences are exchanged."""
    return (batch["confidence"] != out["confidence"]).any(dim=1)


@pytest.mark.parametrize("joint_set", [JOINTS_44, H36M_17], ids=lambda s: s.name)
@pytest.mark.parametrize("seed", range(4))
def test_the_new_camera_sees_the_new_joints_where_the_new_keypoints_are(joint_set: JointSet, seed: int) -> None:
    batch = people(joint_set, seed=seed)
    out = CropAugmentation(size=64, **EVERYTHING).train(batch, joint_set, rng(seed))
    torch.testing.assert_close(project(out["joints_cam"], out["K"]), out["joints_2d_true_px"], atol=1e-3, rtol=0)
    seen = out["confidence"] > 0
    torch.testing.assert_close(out["joints_2d_px"][seen], out["joints_2d_true_px"][seen], atol=1e-3, rtol=0)
    assert out["joints_2d_px"][~seen].eq(0).all()
    moved = project(out["joints_smpl24_cam"], out["K"])
    torch.testing.assert_close(moved[:, 0], project(out["joints_smpl24_cam"][:, :1], out["K"])[:, 0])
    K = out["K"]
    torch.testing.assert_close(K[:, 0, 0], K[:, 1, 1])
    torch.testing.assert_close(
        K[:, [0, 1, 2, 2, 2], [1, 0, 0, 1, 2]], torch.tensor([0, 0, 0, 0, 1.0]).expand(12, 5), atol=1e-4, rtol=0
    )
    rel = out["joints_cam"] - out["joints_cam"][:, list(joint_set.root)].mean(dim=1, keepdim=True)
    torch.testing.assert_close(out["joints_rel"], rel, atol=1e-5, rtol=0)


def test_a_camera_with_two_focal_lengths_and_skew_stays_exact() -> None:
    batch = people()
    batch["K"] = torch.tensor([[900.0, 25.0, 480.0], [0.0, 1200.0, 520.0], [0.0, 0.0, 1.0]]).repeat(12, 1, 1)
    batch["joints_2d_true_px"] = project(batch["joints_cam"], batch["K"])
    out = CropAugmentation(size=64, **EVERYTHING).train(batch, JOINTS_44, rng())
    torch.testing.assert_close(project(out["joints_cam"], out["K"]), out["joints_2d_true_px"], atol=1e-3, rtol=0)
    assert out["K"][:, 1, 0].eq(0).all()
    assert (out["K"].diagonal(dim1=1, dim2=2) > 0).all()
    torch.testing.assert_close(torch.linalg.det(out["global_orient"]), torch.ones(12))


@pytest.mark.parametrize("seed", range(3))
def test_the_moved_parameters_pose_the_moved_body(seed: int) -> None:
    batch = people(seed=seed)
    out = CropAugmentation(size=32, **EVERYTHING).train(batch, JOINTS_44, rng(seed))
    flip = mirrored(batch, out)
    assert 0 < int(flip.sum()) < 12
    posed = joints_of(SMPL_24)(
        **{key: cast(Any, out)[key] for key in ("betas", "body_pose", "global_orient", "transl")}
    )
    error = (posed - out["joints_smpl24_cam"]).norm(dim=-1)
    assert error[~flip].max() < 1e-5
    assert error[flip].max() < 0.02, "the open body is symmetric to some millimetres"
    assert error[:, 0].max() < 1e-5, "pelvis"
    assert torch.equal(out["betas"], batch["betas"])


def test_mirrored_rotations_in_the_camera_are_exact() -> None:
    def in_camera(sample: PoseSample) -> Tensor:
        local = torch.cat((sample["global_orient"][:, None], sample["body_pose"]), dim=1)
        chain = [local[:, 0]]
        for joint in range(1, 24):
            chain.append(chain[SMPL_24.parents[joint]] @ local[:, joint])
        return torch.stack(chain, dim=1)

    batch = people()
    out = CropAugmentation(size=32, rotation_prob=0.0, flip_prob=1.0).train(batch, JOINTS_44, rng())
    expected = MIRROR @ in_camera(batch)[:, list(SMPL_24.flip)] @ MIRROR
    torch.testing.assert_close(in_camera(out), expected, atol=1e-5, rtol=0)
    assert torch.equal(out["joints_known"], batch["joints_known"][:, list(JOINTS_44.flip)])
    for key in ("joints_smpl24_cam", "joints_cam"):
        joint_set = SMPL_24 if "24" in key else JOINTS_44
        torch.testing.assert_close(cast(Any, out)[key], flip_joints(cast(Any, batch)[key], joint_set))


def test_a_mesh_moves_with_the_camera_and_keeps_its_numbers() -> None:
    batch = people()
    batch["vertices_cam"] = batch["joints_cam"].clone()
    out = CropAugmentation(size=32, **EVERYTHING).train(batch, JOINTS_44, rng(1))
    flip = mirrored(batch, out)
    assert 0 < int(flip.sum()) < 12
    torch.testing.assert_close(out["vertices_cam"][~flip], out["joints_cam"][~flip])
    torch.testing.assert_close(out["vertices_cam"][flip], out["joints_cam"][flip][:, list(JOINTS_44.flip)])
    assert (out["vertices_cam"] - batch["vertices_cam"]).abs().amax(dim=(1, 2)).max() > 0.1
    plain = CropAugmentation(size=32).evaluate(batch, JOINTS_44)
    assert torch.equal(plain["vertices_cam"], batch["vertices_cam"])


def test_the_world_stays_or_is_mirrored() -> None:
    batch = people()
    out = CropAugmentation(size=32, **EVERYTHING).train(batch, JOINTS_44, rng(1))
    flip = mirrored(batch, out)
    world = (batch["joints_cam"] - batch["t_world_to_cam"][:, None]) @ batch["R_world_to_cam"]
    world = torch.where(flip[:, None, None], flip_joints(world, JOINTS_44), world)
    seen = world_to_cam(world, out["R_world_to_cam"], out["t_world_to_cam"])
    torch.testing.assert_close(seen, out["joints_cam"], atol=1e-5, rtol=0)


def photographed(keypoint: np.ndarray, box: np.ndarray, raw: int, margin: float, spread: float) -> Tensor:
    """A raw crop of a black picture with a bright dot."""
    y, x = np.mgrid[:600, :600] + 0.5
    blob = 255 * np.exp(-((x - keypoint[0]) ** 2 + (y - keypoint[1]) ** 2) / (2 * spread**2))
    picture = np.repeat(blob.round().astype(np.uint8)[..., None], 3, axis=-1)
    return raw_crop(picture, (box[0], box[1]), margin * box[2], raw)


@pytest.mark.parametrize(("size", "raw", "margin"), [(64, 96, 1.5), (64, 300, 1.5), (64, 70, 1.5), (57, 120, 2.1)])
def test_a_dot_lies_where_the_keypoint_does(size: int, raw: int, margin: float) -> None:
    rows, draw = 16, np.random.default_rng(size + raw)
    box = np.column_stack((draw.uniform(250, 350, (rows, 2)), draw.uniform(80, 250, rows)))
    dots = box[:, :2] + draw.uniform(-0.2, 0.2, (rows, 2)) * box[:, 2:]
    spread = 3 * np.maximum(box[:, 2] / size, 1)
    pixels = torch.from_numpy(dots).float()[:, None].repeat(1, 17, 1)
    batch: PoseSample = {
        "image": torch.stack(
            [photographed(*row, raw, margin, width) for *row, width in zip(dots, box, spread, strict=True)]
        ),
        "box": torch.from_numpy(box).float(),
        "joints_2d_px": pixels,
        "confidence": torch.arange(1.0, 18.0).expand(rows, 17) / 17,
    }
    augmentation = CropAugmentation(size, margin, rotation_prob=0.9, shift=0.05, pixel_noise=0.0)
    out = augmentation.train(batch, H36M_17, rng(raw))
    assert 0 < int(mirrored(batch, out).sum()) < rows
    seen = colours(out["image"])[:, 0].double()
    seen = torch.where(seen > 0.25, seen, 0.0)
    at = torch.arange(size).double() + 0.5
    mass = seen.sum(dim=(1, 2))
    found = torch.stack(((seen.sum(dim=1) @ at) / mass, (seen.sum(dim=2) @ at) / mass), dim=-1)
    torch.testing.assert_close(found, out["joints_2d_px"][:, 0].double(), atol=0.3, rtol=0)


@pytest.mark.parametrize(("size", "tolerance"), [(64, 1.01), (112, 1.01), (37, 18.0), (63, 6.0)])
def test_evaluation_shows_the_crop_of_the_box(size: int, tolerance: float) -> None:
    """To the rounding where pixels of raw crops lie on those of the crop, and to a blur of half a pixel elsewhere."""
    draw = np.random.default_rng(size)
    spots = Image.fromarray(draw.integers(0, 256, (20, 20, 3), dtype=np.uint8))
    picture = np.array(spots.resize((320, 300), Image.Resampling.BICUBIC))
    boxes = torch.tensor([[160.0, 150.0, 130.0], [40.3, 120.8, 180.2], [300.0, 290.0, 70.0]])
    raw = [raw_crop(picture, (x, y), 1.5 * side, round(1.5 * size)) for x, y, side in boxes.tolist()]
    found = CropAugmentation(size).evaluate({"image": torch.stack(raw), "box": boxes}, JOINTS_44)
    expected = torch.stack([crop(picture, (x, y), side, size) for x, y, side in boxes.tolist()])
    difference = 255 * (colours(found["image"]) - colours(expected)).abs()
    assert torch.quantile(difference, 0.98) < tolerance
    assert found["image"].shape == (3, 3, size, size)


def test_evaluation_changes_the_camera_alone() -> None:
    batch = people()
    before = {key: value.clone() for key, value in batch.items() if isinstance(value, Tensor)}
    batch["start_transl"], batch["features"] = torch.randn(12, 3), torch.randn(12, 5)
    out = CropAugmentation(size=32, **EVERYTHING).evaluate(batch, JOINTS_44)
    changed = {key for key, value in before.items() if not torch.equal(value, cast(Any, out)[key])}
    assert changed == {"image", "K", "joints_2d_px", "joints_2d_true_px", "image_size", "box"}
    assert out["features"] is batch["features"]
    assert out["start_transl"] is batch["start_transl"]
    expected = crop_intrinsics(batch["K"], batch["box"][:, :2], batch["box"][:, 2], 32)
    torch.testing.assert_close(out["K"], expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(project(out["joints_cam"], out["K"]), out["joints_2d_true_px"], atol=1e-3, rtol=0)
    assert out["box"].tolist() == [[16, 16, 32]] * 12
    assert out["image_size"].tolist() == [[32, 32]] * 12
    for key, value in before.items():
        assert torch.equal(value, cast(Any, batch)[key]), f"the caller's {key}"


def test_a_seed_gives_the_same_views_and_changes_nothing_else() -> None:
    batch, augmentation = people(), CropAugmentation(size=32, **EVERYTHING)
    before = {key: value.clone() for key, value in batch.items() if isinstance(value, Tensor)}
    state = torch.get_rng_state()
    first, second, third = (augmentation.train(batch, JOINTS_44, rng(seed)) for seed in (3, 3, 4))
    assert torch.equal(state, torch.get_rng_state())
    for key, value in before.items():
        assert torch.equal(value, cast(Any, batch)[key]), f"the caller's {key}"
        assert torch.equal(cast(Any, first)[key], cast(Any, second)[key])
        assert cast(Any, first)[key].dtype == (torch.float32 if key == "image" else value.dtype)
    assert not torch.equal(first["image"], third["image"])
    assert first["image"].shape == (12, 3, 32, 32)
    assert first["clip"] == batch["clip"]
    assert set(first) == set(batch)


def test_images_alone_will_do() -> None:
    out = CropAugmentation(size=32).train({"image": people()["image"]}, H36M_17, rng())
    assert set(out) == {"image", "image_size"}


def test_half_precision_of_training_does_not_reach_pixels() -> None:
    batch, augmentation = people(), CropAugmentation(size=32, **EVERYTHING)
    expected = augmentation.train(batch, JOINTS_44, rng())
    with torch.autocast("cpu", torch.bfloat16):
        found = augmentation.train(batch, JOINTS_44, rng())
    for key in ("image", "K", "joints_2d_true_px", "joints_cam", "global_orient", "t_world_to_cam"):
        assert torch.equal(cast(Any, expected)[key], cast(Any, found)[key]), key


def test_turns_scales_and_flips_are_spread_as_spin_has_them() -> None:
    rows = 6000
    eye = torch.eye(3).repeat(rows, 1, 1)
    batch: PoseSample = {
        "image": torch.zeros(rows, 3, 6, 6, dtype=torch.uint8),
        "box": torch.tensor([[50.0, 60.0, 40.0]]).repeat(rows, 1),
        "K": torch.tensor([[100.0, 0, 50], [0, 100, 60], [0, 0, 1]]).repeat(rows, 1, 1),
        "confidence": torch.arange(1.0, 18.0).expand(rows, 17) / 17,
        "R_world_to_cam": eye,
    }
    out = CropAugmentation(size=4).train(batch, H36M_17, rng())
    flip = mirrored(batch, out)
    assert abs(float(flip.float().mean()) - 0.5) < 0.03
    R = out["R_world_to_cam"]
    angle = torch.rad2deg(torch.atan2(R[:, 1, 0], R[:, 0, 0]))
    is_turned = angle.abs() > 1e-4
    assert abs(float(is_turned.float().mean()) - 0.4) < 0.03
    angle = angle[is_turned]
    assert 59.99 < float(angle.abs().max()) < 60.01
    share = ((angle.abs() > 59.99).float().mean(), (angle.abs() < 30).float().mean(), (angle > 0).float().mean())
    for found, expected in zip(share, (0.0455, 0.6827, 0.5), strict=True):
        assert abs(float(found) - expected) < 0.045
    scale = 100 * 4 / 40 / out["K"][:, 0, 0]
    assert 0.7499 < float(scale.min()) < 0.7501
    assert 1.2499 < float(scale.max()) < 1.2501
    assert abs(float(((scale - 1).abs() > 0.2499).float().mean()) - 0.3173) < 0.03
    assert abs(float(scale.mean()) - 1) < 0.01
    torch.testing.assert_close(out["K"][:, :2, 2], torch.full((rows, 2), 2.0), atol=1e-4, rtol=0)  # not shifted
    moved = CropAugmentation(size=4, shift=0.1, **PLAIN).train(batch, H36M_17, rng())
    shift = (2 - moved["K"][:, :2, 2]) / 4
    assert abs(float(shift.std()) - 0.0952) < 0.003  # 0.1, clipped at 2 deviations
    assert float(shift.abs().max()) < 0.2001
    assert abs(float((shift[:, 0] * shift[:, 1]).mean())) < 5e-4


def flat(values: tuple[int, int, int], rows: int = 3000) -> PoseSample:
    return {"image": torch.tensor(values, dtype=torch.uint8)[:, None, None].repeat(rows, 1, 6, 6)}


def test_pixel_noise_multiplies_channels() -> None:
    out = colours(
        CropAugmentation(size=4, **{**PLAIN, "pixel_noise": 0.4}).train(flat((100, 150, 200)), H36M_17, rng())["image"]
    )
    assert (out.amax(dim=(2, 3)) - out.amin(dim=(2, 3))).max() < 1e-5, "a channel has one factor"
    factor = out[:, :, 0, 0] * 255 / torch.tensor([100.0, 150, 200])
    low, high = factor[:, :2].amin(dim=0), factor[:, :2].amax(dim=0)
    assert ((low > 0.5999) & (low < 0.605) & (high < 1.4001) & (high > 1.395)).all()
    assert (factor[:, :2].mean(dim=0) - 1).abs().max() < 0.02
    assert abs(float(torch.corrcoef(factor.T)[0, 1])) < 0.06
    assert 254.9 < float(255 * out[:, 2].max()) < 255.1, "bright pixels are clipped"
    assert abs(float((factor[:, 2] > 1.2749).float().mean()) - 0.156) < 0.03


def test_color_jitter_is_that_of_torchvision() -> None:
    """Brightness, contrast and saturation found from what they leave unchanged, then applied by torchvision."""
    draw = rng(5)
    raw = torch.randint(90, 150, (20, 3, 12, 12), dtype=torch.uint8, generator=draw)
    out = colours(
        CropAugmentation(size=12, margin=1.0, color_jitter=0.3, **PLAIN).train({"image": raw}, H36M_17, draw)["image"]
    )
    weights = torch.tensor([0.299, 0.587, 0.114])
    factors = []
    for before, after in zip(raw / 255, out, strict=True):
        grey_before, grey_after = (torch.einsum("c,chw->hw", weights, image) for image in (before, after))
        brightness = grey_after.mean() / grey_before.mean()
        contrast = grey_after.std() / (brightness * grey_before.std())
        saturation = (after[0] - after[1]).std() / (brightness * contrast * (before[0] - before[1]).std())
        factors.append([float(brightness), float(contrast), float(saturation)])
        expected = adjust_contrast(adjust_brightness(before, factors[-1][0]), factors[-1][1])
        torch.testing.assert_close(after, adjust_saturation(expected, factors[-1][2]), atol=2e-3, rtol=0)
    found = torch.tensor(factors)
    assert ((found > 0.699) & (found < 1.301)).all()
    assert (found.amax(dim=0) - found.amin(dim=0) > 0.4).all()


def test_occluders_hide_pixels_and_joints_but_no_label() -> None:
    rows, size = 400, 40
    batch = people(rows=rows, raw=60)
    batch["smpl24_visible"] = torch.ones(rows, 24, dtype=torch.bool)
    free, covered = (
        CropAugmentation(size, occlusion_prob=prob, **PLAIN).train(batch, JOINTS_44, rng()) for prob in (0.0, 0.7)
    )
    hidden = (free["image"] != covered["image"]).any(dim=1)
    share = hidden.float().mean(dim=(1, 2))
    assert abs(float((share > 0).float().mean()) - 0.7) < 0.07
    assert 0.2 < float(share.max()) < 0.26, "half the side, squared"
    assert abs(float(share[share > 0].mean()) - 0.07) < 0.02
    paint = colours(covered["image"]).permute(1, 0, 2, 3)[:, hidden]
    assert float(paint.min()) >= -1e-5
    assert float(paint.max()) <= 1 + 1e-5
    for key in ("joints_2d_px", "confidence", "joints_cam", "joints_smpl24_cam", "K"):
        assert torch.equal(cast(Any, free)[key], cast(Any, covered)[key])
    assert free["smpl24_visible"].float().mean() > 0.95, "the box goes around all but some hands"
    pixel = project(covered["joints_smpl24_cam"], covered["K"]).long()
    at = torch.arange(rows)[:, None].expand(rows, 24)
    # Where all pixels around a joint are alike, it is clear whether it is hidden.
    around = torch.stack(
        [
            hidden[at, (pixel[..., 1] + dy).clamp(0, size - 1), (pixel[..., 0] + dx).clamp(0, size - 1)]
            for dx in (-1, 0, 1)
            for dy in (-1, 0, 1)
        ]
    )
    inside, outside = around.all(dim=0), ~around.any(dim=0)
    assert int(inside.sum()) > 300
    assert not covered["smpl24_visible"][inside].any()
    assert torch.equal(covered["smpl24_visible"][outside], free["smpl24_visible"][outside])


def test_what_leaves_the_crop_is_not_visible_but_keeps_its_label() -> None:
    batch = people(rows=200)
    batch["smpl24_visible"] = torch.ones(200, 24, dtype=torch.bool)
    batch["smpl24_visible"][:, 3] = False
    out = CropAugmentation(size=50, shift=0.2, flip_prob=0.0).train(batch, JOINTS_44, rng())
    places = project(out["joints_smpl24_cam"], out["K"])
    shown = ((places >= 0) & (places <= 50)).all(dim=-1)
    assert int((~shown).sum()) > 100
    assert not out["smpl24_visible"][~shown].any()
    assert not out["smpl24_visible"][:, 3].any()
    # The rest is visible unless it lies outside the raw crop.
    raw = project(batch["joints_smpl24_cam"], batch["K"]) - batch["box"][:, None, :2]
    covered = (raw.abs() <= 0.75 * batch["box"][:, None, 2:]).all(dim=-1)
    assert torch.equal(out["smpl24_visible"], shown & covered & batch["smpl24_visible"])
    assert torch.equal(out["confidence"], batch["confidence"])


def test_joints_beyond_the_raw_crop_are_black_and_not_visible() -> None:
    batch = people(rows=40)
    batch["box"][:, 2] /= 3  # The person reaches far out of the box.
    batch["smpl24_visible"] = torch.ones(40, 24, dtype=torch.bool)
    batch["image"] = torch.full((40, 3, 20, 20), 255, dtype=torch.uint8)
    augmentation = CropAugmentation(size=40, margin=1.0, scale=0.9, pixel_noise=0.0)
    out = augmentation.train(batch, JOINTS_44, rng())
    places = project(out["joints_smpl24_cam"], out["K"])
    shown = ((places > 0) & (places < 40)).all(dim=-1)
    x, y = places.long().clamp(0, 39).unbind(-1)
    light = colours(out["image"])[torch.arange(40)[:, None], 0, y, x]
    black, white = shown & (light < 0.02), shown & (light > 0.98)
    assert int(black.sum()) > 20
    assert not out["smpl24_visible"][black].any()
    assert out["smpl24_visible"][white].all()


def without(*keys: str) -> PoseSample:
    return cast(PoseSample, {key: value for key, value in people(rows=2).items() if key not in keys})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.pop("image"), r"image must be raw crops, uint8 .* \(crop_margin\), got none"),
        (lambda b: b.update(image=b["image"].float()), r"got torch\.float32 of shape \(2, 3, 48, 48\)"),
        (lambda b: b.update(image=b["image"][:, :1]), r"got torch\.uint8 of shape \(2, 1, 48, 48\)"),
        (lambda b: b.update(image=b["image"][..., :9]), r"image must be square, got \(2, 3, 48, 9\)"),
        (lambda b: b.pop("box"), "joints_2d_px, joints_2d_true_px, K need the key box"),
        (lambda b: b.pop("K"), "smpl24_visible needs the keys joints_smpl24_cam and K, but K is missing"),
        (lambda b: b.update(confidence=torch.ones(2, 17)), "joints44 has 44 joints, got 17 in confidence"),
    ],
)
def test_what_is_no_raw_batch_is_refused(change: Callable[[Any], Any], message: str) -> None:
    batch, augmentation = without(), CropAugmentation(size=32)
    change(batch)
    with pytest.raises(ValueError, match=message):
        augmentation.train(batch, JOINTS_44, rng())
    with pytest.raises(ValueError, match=message):
        augmentation.evaluate(batch, JOINTS_44)


def test_what_cannot_follow_is_refused() -> None:
    augmentation = CropAugmentation(size=32)
    batch = without()
    batch["features"], batch["start_betas"] = torch.zeros(2, 5), torch.zeros(2, 10)
    with pytest.raises(ValueError, match="features, start_betas belong to the unchanged picture"):
        augmentation.train(batch, JOINTS_44, rng())
    with pytest.raises(ValueError, match="transl turns about the pelvis, so it needs the key joints_smpl24_cam"):
        augmentation.train(without("joints_smpl24_cam", "smpl24_visible"), JOINTS_44, rng())
    evaluated = augmentation.evaluate(without("joints_smpl24_cam", "smpl24_visible"), JOINTS_44)
    assert torch.equal(evaluated["transl"], people(rows=2)["transl"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 0}, "size: must be at least 1 px, got 0"),
        ({"margin": 0.9}, r"margin: must be at least 1, the box itself, got 0\.9"),
        ({"rotation_prob": 1.1}, r"rotation_prob: must lie in \[0, 1\], got 1\.1"),
        ({"flip_prob": -0.1}, r"flip_prob: must lie in \[0, 1\], got -0\.1"),
        ({"occlusion_prob": math.nan}, r"occlusion_prob: must lie in \[0, 1\], got nan"),
        ({"scale": 1.0}, r"scale: must lie in \[0, 1\), got 1\.0"),
        ({"pixel_noise": -0.4}, r"pixel_noise: must lie in \[0, 1\), got -0\.4"),
        ({"color_jitter": 1.5}, r"color_jitter: must lie in \[0, 1\), got 1\.5"),
        ({"rotation_degrees": -30.0}, r"rotation_degrees: must be finite and not negative, got -30\.0"),
        ({"shift": math.inf}, "shift: must be finite and not negative, got inf"),
    ],
)
def test_arguments_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CropAugmentation(**change)
