import inspect
import math
from collections.abc import Callable

import numpy as np
import pytest
import roma
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from posecore.geometry import rotation

ORDERS = ("columns", "interleaved", "rows")
BATCH_SHAPES = ((), (2,), (2, 3))
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-11}

each_batch = pytest.mark.parametrize("batch_shape", BATCH_SHAPES, ids=str)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
each_order = pytest.mark.parametrize("order", ORDERS)


def scipy_of(rotmat: Tensor) -> Rotation:
    return Rotation.from_matrix(rotmat.double().reshape(-1, 3, 3).numpy())


def assert_rotation(rotmat: Tensor, tolerance: float) -> None:
    eye = torch.eye(3, dtype=rotmat.dtype).expand_as(rotmat)
    torch.testing.assert_close(rotmat @ rotmat.transpose(-1, -2), eye, atol=tolerance, rtol=0)
    assert (torch.linalg.det(rotmat) > 0).all()


def test_each_6d_order_reads_the_entries_its_name_says() -> None:
    rotmat = torch.arange(9.0).reshape(3, 3)  # the entry in row r, column c is 3 r + c
    assert rotation.rotmat_to_rot6d(rotmat, "columns").tolist() == [0, 3, 6, 1, 4, 7]
    assert rotation.rotmat_to_rot6d(rotmat, "interleaved").tolist() == [0, 1, 3, 4, 6, 7]
    assert rotation.rotmat_to_rot6d(rotmat, "rows").tolist() == [0, 1, 2, 3, 4, 5]
    assert rotation.rotmat_to_rot6d(rotmat).tolist() == rotation.rotmat_to_rot6d(rotmat, "columns").tolist()


@each_order
@each_batch
@each_dtype
def test_6d_round_trip(
    order: rotation.Rot6dOrder, batch_shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> None:
    rotmat = rotation.random_rotmat(batch_shape, generator, dtype=dtype)
    again = rotation.rot6d_to_rotmat(rotation.rotmat_to_rot6d(rotmat, order), order)
    assert again.dtype == dtype
    torch.testing.assert_close(again, rotmat, atol=TOLERANCE[dtype], rtol=0)


@each_order
@each_batch
@each_dtype
def test_any_six_numbers_give_romas_gram_schmidt(
    order: rotation.Rot6dOrder, batch_shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> None:
    rot6d = torch.randn(*batch_shape, 6, generator=generator, dtype=dtype)
    rotmat = rotation.rot6d_to_rotmat(rot6d, order)
    assert_rotation(rotmat, TOLERANCE[dtype])
    if order == "interleaved":
        expected = roma.special_gramschmidt(rot6d.unflatten(-1, (3, 2)))
    else:
        expected = roma.special_gramschmidt(rot6d.unflatten(-1, (2, 3)).transpose(-1, -2))
        if order == "rows":
            expected = expected.transpose(-1, -2)
    torch.testing.assert_close(rotmat, expected, atol=10 * TOLERANCE[dtype], rtol=0)


@each_order
def test_degenerate_6d_gives_a_rotation_and_finite_gradients(order: rotation.Rot6dOrder) -> None:
    x, diagonal, zero = [1.0, 0.0, 0.0], [1.0, -2.0, 3.0], [0.0, 0.0, 0.0]
    tiny = [1e-30, 2e-30, -1e-30]
    pairs = [(zero, zero), (zero, x), (x, zero), (x, x), (diagonal, diagonal), (diagonal, [-2.0, 4.0, -6.0])]
    vectors = torch.tensor([*pairs, (tiny, tiny), (zero, diagonal)])
    rot6d = vectors.transpose(-1, -2).flatten(-2) if order == "interleaved" else vectors.flatten(-2)
    rot6d.requires_grad_()
    rotmat = rotation.rot6d_to_rotmat(rot6d, order)
    assert_rotation(rotmat, 1e-6)
    torch.testing.assert_close(rotmat[0], torch.eye(3))
    (rotmat * torch.arange(9.0).reshape(3, 3)).sum().backward()
    assert rot6d.grad is not None
    assert rot6d.grad.isfinite().all()


def test_autocast_and_half_inputs_keep_float32_digits(generator: torch.Generator) -> None:
    rot6d, other = torch.randn(2, 50, 6, generator=generator), torch.randn(2, 50, 6, generator=generator)
    plain = rotation.rot6d_to_rotmat(rot6d)
    distance = rotation.geodesic_distance(plain, rotation.rot6d_to_rotmat(other))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = rotation.rot6d_to_rotmat(rot6d)
        assert torch.equal(rotation.geodesic_distance(cast, rotation.rot6d_to_rotmat(other)), distance)
    assert torch.equal(cast, plain)
    from_half = rotation.rot6d_to_rotmat(rot6d.bfloat16())
    assert from_half.dtype == torch.float32
    assert_rotation(from_half, 2e-6)


def test_inputs_stay_as_they_were(generator: torch.Generator) -> None:
    rot6d = torch.randn(4, 6, generator=generator)
    before = rot6d.clone()
    rotmat = rotation.rot6d_to_rotmat(rot6d)
    rotmat_before = rotmat.clone()
    rotation.rotmat_to_quat_wxyz(rotmat)
    rotation.rotmat_to_axis_angle(rotmat)
    assert torch.equal(rot6d, before)
    assert torch.equal(rotmat, rotmat_before)


@pytest.mark.parametrize("function", [rotation.rot6d_to_rotmat, rotation.rotmat_to_rot6d])
def test_unknown_order_is_refused(function: Callable[..., Tensor]) -> None:
    argument = torch.eye(3) if function is rotation.rotmat_to_rot6d else torch.zeros(6)
    # Unwrapped, because the tests' type checker refuses the word before the function can.
    with pytest.raises(ValueError, match=r"order is 'column'; valid are 'columns', 'interleaved', 'rows'"):
        inspect.unwrap(function)(argument, "column")


@each_batch
@each_dtype
def test_axis_angle_against_scipy(batch_shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> None:
    axis_angle = torch.randn(*batch_shape, 3, generator=generator, dtype=dtype)
    expected = Rotation.from_rotvec(axis_angle.double().reshape(-1, 3).numpy())
    rotmat = rotation.axis_angle_to_rotmat(axis_angle)
    assert rotmat.shape == (*batch_shape, 3, 3)
    assert rotmat.dtype == dtype
    np.testing.assert_allclose(rotmat.reshape(-1, 3, 3), expected.as_matrix(), atol=TOLERANCE[dtype])
    back = rotation.rotmat_to_axis_angle(rotmat)
    np.testing.assert_allclose(back.reshape(-1, 3), expected.as_rotvec(), atol=5 * TOLERANCE[dtype])


@each_batch
@each_dtype
def test_quaternions_against_scipy(
    batch_shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> None:
    rotmat = rotation.random_rotmat(batch_shape, generator, dtype=dtype)
    quat = rotation.rotmat_to_quat_wxyz(rotmat)
    assert quat.shape == (*batch_shape, 4)
    expected = scipy_of(rotmat).as_quat(canonical=True, scalar_first=True)
    np.testing.assert_allclose(quat.reshape(-1, 4), expected, atol=TOLERANCE[dtype])
    torch.testing.assert_close(rotation.quat_wxyz_to_rotmat(-3 * quat), rotmat, atol=TOLERANCE[dtype], rtol=0)
    axis_angle = rotation.quat_wxyz_to_axis_angle(5 * quat)
    np.testing.assert_allclose(axis_angle.reshape(-1, 3), scipy_of(rotmat).as_rotvec(), atol=5 * TOLERANCE[dtype])
    again = rotation.axis_angle_to_quat_wxyz(axis_angle)
    torch.testing.assert_close(again, quat, atol=5 * TOLERANCE[dtype], rtol=0)


@each_dtype
def test_small_and_half_turns_against_scipy(dtype: torch.dtype, generator: torch.Generator) -> None:
    axis = torch.nn.functional.normalize(torch.randn(20, 3, generator=generator, dtype=dtype), dim=-1)
    for angle in (0.0, 1e-8, 1e-5, 1e-2, math.pi - 1e-2, math.pi - 1e-5, math.pi):
        expected = Rotation.from_rotvec((angle * axis).double().numpy())
        rotmat = rotation.axis_angle_to_rotmat(angle * axis)
        np.testing.assert_allclose(rotmat, expected.as_matrix(), atol=TOLERANCE[dtype])
        # Compared as rotations: at pi both signs of the axis are right.
        back = Rotation.from_rotvec(rotation.rotmat_to_axis_angle(rotmat).double().numpy())
        assert (back.inv() * expected).magnitude().max() < 5 * TOLERANCE[dtype]


def test_zero_quaternion_is_the_identity_and_conversions_have_finite_gradients_at_it() -> None:
    zero = torch.zeros(4, requires_grad=True)
    torch.testing.assert_close(rotation.quat_wxyz_to_rotmat(zero), torch.eye(3))
    assert rotation.quat_wxyz_to_axis_angle(zero).tolist() == [0, 0, 0]
    axis_angle = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    rotmat = rotation.axis_angle_to_rotmat(axis_angle)
    (rotmat[2, 1] + 2 * rotmat[0, 2] + 3 * rotmat[1, 0]).backward()
    assert axis_angle.grad is not None
    np.testing.assert_allclose(axis_angle.grad, [1, 2, 3])  # an infinitesimal turn is the cross product matrix
    for function in (rotation.rotmat_to_axis_angle, rotation.rotmat_to_quat_wxyz):
        identity = torch.eye(3, requires_grad=True)
        function(identity).sum().backward()
        assert identity.grad is not None
        assert identity.grad.isfinite().all()


@each_batch
@each_dtype
def test_geodesic_distance_against_scipy(
    batch_shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> None:
    a, b = (rotation.random_rotmat(batch_shape, generator, dtype=dtype) for _ in range(2))
    distance = rotation.geodesic_distance(a, b)
    assert distance.shape == batch_shape
    expected = (scipy_of(a).inv() * scipy_of(b)).magnitude()
    np.testing.assert_allclose(distance.reshape(-1), expected, atol=TOLERANCE[dtype])


def test_geodesic_distance_keeps_its_digits_and_gradients_at_both_ends(generator: torch.Generator) -> None:
    axis = torch.nn.functional.normalize(torch.randn(20, 3, generator=generator), dim=-1)
    for angle in (0.0, 1e-6, 1e-4, 1.0, math.pi - 1e-4, math.pi - 1e-6, math.pi):
        a = rotation.random_rotmat((20,), generator).requires_grad_()
        b = (a.detach() @ rotation.axis_angle_to_rotmat(angle * axis)).requires_grad_()
        distance = rotation.geodesic_distance(a, b)
        torch.testing.assert_close(distance, torch.full((20,), angle), atol=1e-6, rtol=0)
        distance.sum().backward()
        assert a.grad is not None
        assert b.grad is not None
        assert a.grad.isfinite().all()
        assert b.grad.isfinite().all()
    same = torch.eye(3, requires_grad=True)
    rotation.geodesic_distance(same, torch.eye(3)).backward()
    assert same.grad is not None
    assert same.grad.abs().max() == 0


def test_random_rotmat_is_uniform_and_repeats_with_its_seed() -> None:
    first = rotation.random_rotmat((20_000,), torch.Generator().manual_seed(1), dtype=torch.float64)
    again = rotation.random_rotmat((20_000,), torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.equal(first, again)
    assert_rotation(first, 1e-12)
    # Under the Haar measure every entry has mean 0 and variance 1/3, and the angle has density (1 - cos a) / pi.
    assert first.mean(dim=0).abs().max() < 0.02
    assert (first.square().mean(dim=0) - 1 / 3).abs().max() < 0.02
    angle = rotation.geodesic_distance(first, torch.eye(3, dtype=torch.float64).expand_as(first))
    for bound in (0.5, 1.5, 2.5):
        share = (angle < bound).double().mean().item()
        assert share == pytest.approx((bound - math.sin(bound)) / math.pi, abs=0.02)


@each_batch
@each_dtype
def test_slerp_turns_with_constant_speed(
    batch_shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> None:
    a, b = (rotation.random_rotmat(batch_shape, generator, dtype=dtype) for _ in range(2))
    tolerance = 5 * TOLERANCE[dtype]
    torch.testing.assert_close(rotation.slerp(a, b, 0.0), a, atol=tolerance, rtol=0)
    torch.testing.assert_close(rotation.slerp(a, b, 1), b, atol=tolerance, rtol=0)
    t = torch.rand(batch_shape, generator=generator, dtype=dtype)
    middle = rotation.slerp(a, b, t)
    whole = rotation.geodesic_distance(a, b)
    torch.testing.assert_close(rotation.geodesic_distance(a, middle), t * whole, atol=tolerance, rtol=0)
    torch.testing.assert_close(rotation.geodesic_distance(middle, b), (1 - t) * whole, atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    "function", [rotation.rot6d_to_rotmat, rotation.axis_angle_to_rotmat, rotation.quat_wxyz_to_rotmat]
)
def test_gradients_to_a_matrix(function: Callable[[Tensor], Tensor], generator: torch.Generator) -> None:
    width = {rotation.rot6d_to_rotmat: 6, rotation.axis_angle_to_rotmat: 3, rotation.quat_wxyz_to_rotmat: 4}[function]
    value = torch.randn(3, width, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, value)
