from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from posecore.body.pyramid import MeshPyramid, build_pyramid

SIZES = (642, 162, 42)


def _bumpy_sphere() -> tuple[np.ndarray, np.ndarray]:
    mesh = trimesh.creation.icosphere(subdivisions=3)
    vertices = np.asarray(mesh.vertices)
    return vertices * (1 + 0.1 * np.sin(3 * vertices[:, :1]) * vertices[:, 1:2]), np.asarray(mesh.faces)


def _bent(vertices: np.ndarray, num: int, seed: int) -> np.ndarray:
    """Smoothly deformed copies: a random affine map and a bend each."""
    rng = np.random.default_rng(seed)
    affine = np.eye(3) + 0.3 * rng.normal(size=(num, 3, 3))
    bend = 0.2 * rng.normal(size=(num, 3, 3))
    return np.einsum("nij,vj->nvi", affine, vertices) + np.einsum("nij,vj->nvi", bend, vertices**2)


@pytest.fixture(scope="module")
def pyramid() -> MeshPyramid:
    return build_pyramid(*_bumpy_sphere(), sizes=SIZES[1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_down_after_up_gives_the_coarse_vertices_back(
    pyramid: MeshPyramid, batch: tuple[int, ...], dtype: torch.dtype
) -> None:
    coarse = torch.randn(*batch, SIZES[-1], 3, dtype=dtype, generator=torch.Generator().manual_seed(0))
    fine = pyramid.upsample(coarse)
    assert fine.shape == (*batch, SIZES[0], 3)
    assert fine.dtype == dtype
    torch.testing.assert_close(pyramid.downsample(fine), coarse)


def test_levels_compose(pyramid: MeshPyramid) -> None:
    fine = torch.randn(2, SIZES[0], 3, generator=torch.Generator().manual_seed(1))
    middle = pyramid.downsample(fine, target=1)
    assert middle.shape == (2, SIZES[1], 3)
    torch.testing.assert_close(pyramid.downsample(middle, source=1), pyramid.downsample(fine))
    coarse = pyramid.downsample(fine)
    in_steps = pyramid.upsample(pyramid.upsample(coarse, target=1), source=1)
    torch.testing.assert_close(in_steps, pyramid.upsample(coarse))
    assert pyramid.upsample(coarse, target=-1) is coarse


@pytest.mark.parametrize("fitted", [False, True])
def test_upsampling_commutes_with_affine_maps(fitted: bool) -> None:
    vertices, faces = _bumpy_sphere()
    pyramid = build_pyramid(vertices, faces, SIZES[1:], samples=_bent(vertices, 20, 0) if fitted else None)
    coarse = pyramid.downsample(torch.as_tensor(vertices))
    affine, shift = torch.randn(3, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    torch.testing.assert_close(pyramid.upsample(coarse @ affine + shift), pyramid.upsample(coarse) @ affine + shift)


def test_barycentric_upsampling_gives_the_closest_point_of_the_coarse_surface() -> None:
    vertices, faces = _bumpy_sphere()
    pyramid = build_pyramid(vertices, faces, [162])
    coarse = pyramid.downsample(torch.as_tensor(vertices))
    ours = (pyramid.upsample(coarse) - torch.as_tensor(vertices)).norm(dim=-1).numpy()
    surface = trimesh.Trimesh(coarse.numpy(), pyramid.faces(1).numpy(), process=False)
    _, reference, _ = trimesh.proximity.closest_point_naive(surface, vertices)
    np.testing.assert_allclose(ours, reference, atol=1e-9)


def test_fitted_upsampling_beats_the_closest_point_on_unseen_shapes() -> None:
    vertices, faces = _bumpy_sphere()
    unseen = torch.as_tensor(_bent(vertices, 10, 1))
    error = {}
    for name, samples in (("closest", None), ("fitted", _bent(vertices, 30, 0))):
        pyramid = build_pyramid(vertices, faces, SIZES[1:], samples=samples)
        error[name] = (pyramid.upsample(pyramid.downsample(unseen)) - unseen).norm(dim=-1).mean().item()
    assert error["fitted"] < 0.4 * error["closest"]


def test_gradients_pass_and_input_is_left_alone(pyramid: MeshPyramid) -> None:
    coarse = torch.randn(SIZES[-1], 3, requires_grad=True)
    before = coarse.detach().clone()
    pyramid.upsample(coarse).sum().backward()
    assert coarse.grad is not None
    assert coarse.grad.sum().item() == pytest.approx(3 * SIZES[0], rel=1e-4)  # rows of weights sum to 1
    assert torch.equal(coarse.detach(), before)


def test_nothing_goes_into_checkpoints(pyramid: MeshPyramid) -> None:
    assert pyramid.state_dict() == {}


def test_saved_pyramid_is_the_same_and_its_bytes_repeat(pyramid: MeshPyramid, tmp_path: Path) -> None:
    pyramid.save(tmp_path / "a.npz")
    pyramid.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    loaded = MeshPyramid.load(tmp_path / "a.npz")
    assert loaded.sizes == pyramid.sizes == SIZES
    coarse = torch.randn(SIZES[-1], 3, dtype=torch.float64)
    torch.testing.assert_close(loaded.upsample(coarse), pyramid.upsample(coarse), atol=1e-6, rtol=0)
    for level in range(3):
        assert torch.equal(loaded.faces(level), pyramid.faces(level))


def test_very_small_meshes_are_fitted_with_fewer_neighbours() -> None:
    mesh = trimesh.creation.icosphere(subdivisions=1)
    vertices = np.asarray(mesh.vertices)
    pyramid = build_pyramid(vertices, np.asarray(mesh.faces), [6], samples=_bent(vertices, 5, 0))
    assert pyramid.upsample(torch.zeros(6, 3)).shape == (42, 3)


def test_open_surface_as_of_a_hand() -> None:
    closed, faces = _bumpy_sphere()
    faces = faces[(closed[faces][:, :, 2] > -0.5).all(1)]
    used = np.unique(faces)
    index = np.full(len(closed), -1)
    index[used] = np.arange(len(used))
    vertices = closed[used]
    pyramid = build_pyramid(vertices, index[faces], [len(used) // 4, len(used) // 16], samples=_bent(vertices, 30, 0))
    unseen = torch.as_tensor(_bent(vertices, 10, 1))
    assert (pyramid.upsample(pyramid.downsample(unseen)) - unseen).norm(dim=-1).mean() < 0.05


def test_a_file_that_is_no_pyramid(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", vertices=np.zeros(3))
    with pytest.raises(ValueError, match=r"other.npz has the keys \['vertices'\], expected those of MeshPyramid.save"):
        MeshPyramid.load(tmp_path / "other.npz")


def test_parts_that_do_not_fit_together() -> None:
    with pytest.raises(ValueError, match="got 1 faces, 0 kept, 0 up_indices and 0 up_weights; expected one more faces"):
        MeshPyramid([np.zeros((1, 3), dtype=np.int64)], [], [], [])


def test_sizes_that_do_not_fall() -> None:
    vertices, faces = _bumpy_sphere()
    with pytest.raises(ValueError, match=r"sizes is \(100, 100\), expected falling numbers below 642"):
        build_pyramid(vertices, faces, (100, 100))


def test_wrong_levels_and_vertices(pyramid: MeshPyramid) -> None:
    fine, coarse = torch.zeros(SIZES[0], 3), torch.zeros(SIZES[-1], 3)
    with pytest.raises(ValueError, match="target is 3, expected a level between 0 and 2"):
        pyramid.downsample(fine, target=3)
    with pytest.raises(ValueError, match="vertices has 42 vertices, level 0 has 642"):
        pyramid.downsample(coarse)
    with pytest.raises(ValueError, match="target level 0 is finer than source level 2; use upsample"):
        pyramid.downsample(coarse, source=2, target=0)
    with pytest.raises(ValueError, match="target level 2 is coarser than source level 0; use downsample"):
        pyramid.upsample(fine, source=0, target=2)
    with pytest.raises(ValueError, match="level is 5, expected"):
        pyramid.faces(5)
