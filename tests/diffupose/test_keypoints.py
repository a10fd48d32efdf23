import inspect
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from diffupose.keypoints import PERSON_SCALE, condition, fill_missing, look_at
from diffupose.sampler import mirror_keypoints
from posecore.body.skeletons import H36M_16, H36M_17, HUMANEVA_15, JointSet
from posecore.data.sample import PoseSample
from posecore.data.transforms import flip_joints, flip_sample
from posecore.geometry.rotation import axis_angle_to_rotmat

Make = Callable[..., PoseSample]

each_set = pytest.mark.parametrize("joint_set", [H36M_16, H36M_17, HUMANEVA_15], ids=lambda joint_set: joint_set.name)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
each_coordinates = pytest.mark.parametrize("coordinates", ["image", "person"])


def hide(sample: PoseSample, *rows_and_joints: tuple[int, int]) -> PoseSample:
    """The sample with some keypoints not found."""
    hidden = PoseSample(**sample)
    hidden["confidence"], hidden["joints_2d_px"] = sample["confidence"].clone(), sample["joints_2d_px"].clone()
    for row, joint in rows_and_joints:
        hidden["confidence"][row, joint] = 0
        hidden["joints_2d_px"][row, joint] = 0
    return hidden


@each_dtype
def test_image_coordinates_of_the_paper(make_sample: Make, dtype: torch.dtype) -> None:
    sample = make_sample(H36M_16, dtype=dtype)
    keypoints, rotmat = condition(sample, H36M_16, "image")
    u, v = sample["joints_2d_px"].double().numpy().transpose(2, 0, 1)
    expected = np.stack((u / 1000 * 2 - 1, v / 1000 * 2 - 800 / 1000), axis=-1)
    assert keypoints.dtype == rotmat.dtype == dtype
    np.testing.assert_allclose(keypoints.double().numpy(), expected, atol=1e-6 if dtype == torch.float32 else 1e-12)
    assert torch.equal(rotmat, torch.eye(3, dtype=dtype).expand(4, 3, 3))


def test_edges_of_the_picture() -> None:
    corners = torch.tensor([[[0.0, 0.0], [1000.0, 0.0], [500.0, 400.0], [1000.0, 800.0]]]).repeat(1, 4, 1)
    sample = PoseSample(joints_2d_px=corners, confidence=torch.ones(1, 16), image_size=torch.tensor([[1000.0, 800.0]]))
    keypoints, _ = condition(sample, H36M_16, "image")
    torch.testing.assert_close(keypoints[0, :4], torch.tensor([[-1.0, -0.8], [1.0, -0.8], [0.0, 0.0], [1.0, 0.8]]))


@each_set
def test_person_coordinates_are_the_turned_camera_s_picture(make_sample: Make, joint_set: JointSet) -> None:
    """What the network sees is, up to size, the picture of the very pose that it is to find."""
    sample = make_sample(joint_set)
    keypoints, rotmat = condition(sample, joint_set, "person")
    for row in range(4):
        points = sample["joints_cam"][row].numpy() @ rotmat[row].numpy().T
        picture = points[:, :2] / points[:, 2:]
        spread = np.sqrt(((picture - picture.mean(axis=0)) ** 2).sum(axis=1).mean())
        np.testing.assert_allclose(keypoints[row].numpy(), picture / (PERSON_SCALE * spread), atol=1e-9)


def test_person_coordinates_have_one_size(make_sample: Make) -> None:
    keypoints, _ = condition(make_sample(H36M_17, people=50), H36M_17, "person")
    spread = (keypoints - keypoints.mean(dim=1, keepdim=True)).square().sum(dim=-1).mean(dim=-1).sqrt()
    torch.testing.assert_close(spread, torch.full_like(spread, 1 / PERSON_SCALE))
    assert keypoints.abs().median() < 0.5


@pytest.mark.parametrize("changes", [{"focal_length": 300.0}, {"focal_length": 5000.0}, {"resolution": 0.25}], ids=str)
def test_person_coordinates_do_not_depend_on_the_lens(make_sample: Make, changes: dict[str, float]) -> None:
    expected = condition(make_sample(H36M_17), H36M_17, "person")
    found = condition(make_sample(H36M_17, **changes), H36M_17, "person")
    torch.testing.assert_close(found.keypoints, expected.keypoints)
    torch.testing.assert_close(found.rotmat, expected.rotmat)


@pytest.mark.parametrize("turn", [(0.0, 0.3, 0.0), (0.3, 0.0, 0.0), (0.2, -0.3, 0.0), (-0.25, -0.25, 0.0)], ids=str)
def test_person_coordinates_hardly_depend_on_the_place_in_the_picture(
    make_sample: Make, turn: tuple[float, ...]
) -> None:
    """A camera turned by 17 degrees about its centre moves a person to the edge of its picture.

    Not exact: what is looked at is the middle of the keypoints' bounding box, which a turn bends a little.
    """
    still = make_sample(H36M_17)
    turned = make_sample(H36M_17, rotmat=axis_angle_to_rotmat(torch.tensor(turn, dtype=torch.float64)))
    first, second = condition(still, H36M_17, "person"), condition(turned, H36M_17, "person")
    assert relative_change(second.keypoints, first.keypoints) < 0.12
    x_0 = still["joints_rel"] @ first.rotmat.mT
    assert relative_change(turned["joints_rel"] @ second.rotmat.mT, x_0) < 0.03
    # The frame of the camera, and the paper's coordinates, do change.
    assert relative_change(turned["joints_rel"], still["joints_rel"]) > 0.2
    image = [condition(sample, H36M_17, "image").keypoints for sample in (still, turned)]
    assert relative_change(image[1], image[0]) > 0.5


def relative_change(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm(dim=-1).mean() / expected.norm(dim=-1).mean()).item()


@each_set
@each_coordinates
def test_mirrored_person(make_sample: Make, coordinates: str, joint_set: JointSet) -> None:
    sample = hide(make_sample(joint_set), (0, 0), (1, 3), (1, 4), (2, 7), (2, 2))
    first = condition(sample, joint_set, coordinates)
    second = condition(flip_sample(sample, joint_set), joint_set, coordinates)
    torch.testing.assert_close(second.keypoints, mirror_keypoints(first.keypoints, joint_set))
    x_0 = flip_sample(sample, joint_set)["joints_rel"] @ second.rotmat.mT
    torch.testing.assert_close(x_0, flip_joints(sample["joints_rel"] @ first.rotmat.mT, joint_set))


def test_mirroring_twice_changes_nothing(make_sample: Make) -> None:
    keypoints, _ = condition(make_sample(H36M_16), H36M_16, "person")
    once = mirror_keypoints(keypoints, H36M_16)
    assert torch.equal(mirror_keypoints(once, H36M_16), keypoints)
    assert torch.equal(
        once[:, H36M_16.index("l_wrist")], keypoints[:, H36M_16.index("r_wrist")] * torch.tensor([-1, 1])
    )


@each_dtype
def test_look_at_turns_the_ray_to_the_axis(dtype: torch.dtype) -> None:
    center = 1.5 * torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=dtype)
    center[0] = 0
    rotmat = look_at(center)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(rotmat @ rotmat.mT, torch.eye(3, dtype=dtype).expand(50, 3, 3), atol=tolerance, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotmat), torch.ones(50, dtype=dtype), atol=tolerance, rtol=0)
    ray = torch.nn.functional.normalize(torch.cat((center, torch.ones(50, 1, dtype=dtype)), dim=-1), dim=-1)
    axis = torch.tensor([0.0, 0.0, 1.0], dtype=dtype).expand(50, 3)
    torch.testing.assert_close((rotmat @ ray[..., None])[..., 0], axis, atol=tolerance, rtol=0)
    # The smallest such turn: its angle is the one between ray and axis.
    angle = ((rotmat.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).clamp(-1, 1)
    torch.testing.assert_close(angle, ray[:, 2], atol=tolerance, rtol=0)
    assert torch.equal(rotmat[0], torch.eye(3, dtype=dtype))


def draw_keypoints(joint_set: JointSet) -> Tensor:
    return torch.randn(2, joint_set.num_joints, 2, generator=torch.Generator().manual_seed(0))


@each_set
def test_nothing_is_filled_where_all_is_seen(joint_set: JointSet) -> None:
    keypoints = draw_keypoints(joint_set)
    seen = torch.ones(2, joint_set.num_joints, dtype=torch.bool)
    assert torch.equal(fill_missing(keypoints, seen, joint_set), keypoints)


@each_set
def test_a_missing_keypoint_takes_the_place_of_its_parent(joint_set: JointSet) -> None:
    keypoints, seen = draw_keypoints(joint_set), torch.ones(2, joint_set.num_joints, dtype=torch.bool)
    chain = [joint_set.index(name) for name in ("l_shoulder", "l_elbow", "l_wrist")]
    seen[0, chain] = False
    seen[1, joint_set.index("r_ankle")] = False
    keypoints[~seen] = torch.nan
    found = fill_missing(keypoints, seen, joint_set)
    for joint in chain:  # all of a chain the place of what it hangs on
        assert torch.equal(found[0, joint], keypoints[0, joint_set.index("thorax")])
    assert torch.equal(found[1, joint_set.index("r_ankle")], keypoints[1, joint_set.index("r_knee")])
    assert torch.equal(found[seen], keypoints[seen])


def test_a_missing_root_takes_the_mean_of_the_seen() -> None:
    keypoints, seen = draw_keypoints(H36M_17), torch.ones(2, 17, dtype=torch.bool)
    seen[0, [0, 1, 5]] = False
    seen[1, :16] = False
    found = fill_missing(keypoints, seen, H36M_17)
    torch.testing.assert_close(found[0, 0], keypoints[0, seen[0]].mean(dim=0))
    assert torch.equal(found[0, 1], found[0, 0])
    assert torch.equal(found[0, 5], found[0, 4])
    assert torch.equal(found[1], keypoints[1, 16:].expand(17, 2))  # everybody on the only one


@each_coordinates
def test_where_missing_keypoints_are_does_not_matter(make_sample: Make, coordinates: str) -> None:
    sample = hide(make_sample(H36M_17), (0, 0), (1, 5), (2, 16), (3, 8))
    expected = condition(sample, H36M_17, coordinates)
    sample["joints_2d_px"][sample["confidence"] == 0] = torch.tensor([-4000.0, 77.0], dtype=torch.float64)
    found = condition(sample, H36M_17, coordinates)
    assert torch.equal(found.keypoints, expected.keypoints)
    assert torch.equal(found.rotmat, expected.rotmat)


@each_coordinates
@each_dtype
def test_nobody_seen_is_finite(make_sample: Make, coordinates: str, dtype: torch.dtype) -> None:
    sample = hide(make_sample(H36M_17, dtype=dtype), *((0, joint) for joint in range(17)))
    sample = hide(sample, *((1, joint) for joint in range(17) if joint != 9))
    keypoints, rotmat = condition(sample, H36M_17, coordinates)
    assert keypoints.isfinite().all()
    assert keypoints[:2].abs().max() < 1
    assert rotmat.isfinite().all()
    alone = condition(make_sample(H36M_17, dtype=dtype), H36M_17, coordinates)
    assert torch.equal(keypoints[2:], alone.keypoints[2:])  # the others do not notice


def test_person_coordinates_keep_their_precision_under_autocast(make_sample: Make) -> None:
    sample = make_sample(H36M_17, dtype=torch.float32)
    expected = condition(sample, H36M_17, "person")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = condition(sample, H36M_17, "person")
    assert torch.equal(found.keypoints, expected.keypoints)


def test_refuses(make_sample: Make) -> None:
    sample = make_sample(H36M_17)
    # Past the signature's check of types, which refuses first in tests.
    with pytest.raises(ValueError, match="unknown coordinates 'pixels', expected one of"):
        inspect.unwrap(condition)(sample, H36M_17, "pixels")
    for coordinates, key in (("image", "image_size"), ("person", "K")):
        rest = PoseSample(**{name: value for name, value in sample.items() if name != key})
        with pytest.raises(ValueError, match=f"coordinates '{coordinates}' need the key {key}, which the data do not"):
            condition(rest, H36M_17, coordinates)
        other = "person" if coordinates == "image" else "image"
        condition(rest, H36M_17, other)  # and what it does not need may be missing
