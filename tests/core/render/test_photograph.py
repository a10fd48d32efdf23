import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from posecore.body.files import BodyModel, load_body_model
from posecore.body.skeletons import SMPL_24
from posecore.geometry.camera import project
from posecore.geometry.rotation import axis_angle_to_rotmat
from posecore.render import photograph
from posecore.render.outfit import Measures, Outfit
from posecore.render.photograph import FLESH, Photograph, Studio
from posecore.render.rasterizer import rasterize

SIZE = 64
CAMERA = torch.tensor([[90.0, 0.0, 31.7], [0.0, 90.0, 32.3], [0.0, 0.0, 1.0]])
WRISTS = [SMPL_24.index("l_wrist"), SMPL_24.index("r_wrist")]
FEET = [SMPL_24.index("l_foot"), SMPL_24.index("r_foot")]


@pytest.fixture(scope="module")
def model() -> BodyModel:
    return load_body_model()


def person(model: BodyModel, degrees: float = 0.0) -> tuple[Tensor, Tensor]:
    """Vertices and joints of somebody in rest pose 3 m away, who faces the camera and has turned to his left."""
    upright = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    turn = upright @ axis_angle_to_rotmat(torch.tensor([0.0, math.radians(degrees), 0.0]))
    joints = model.J_regressor @ model.v_template
    middle = model.v_template.mean(dim=0)
    return tuple(((x - middle) @ turn.T + torch.tensor([0.0, 0.0, 3.0])).float() for x in (model.v_template, joints))


def shoot(studio: Studio, seed: int, K: Tensor = CAMERA, size: int = SIZE, degrees: float = 0.0) -> Photograph:
    vertices, joints = person(studio.model, degrees)
    return studio.take(vertices, K, size, joints, np.random.default_rng(seed))


def naked(model: BodyModel, shade: float) -> Outfit:
    """One colour all over, as tight as skin."""
    drawn = Outfit.draw(np.random.default_rng(0), Measures.of(model))
    return replace(drawn, skin=np.full(3, shade), hem=10.0, leg=10.0, shoe=-10.0, hair_end=10.0, slack=0.0)


def undeveloped(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """No exposure, blur or grain, so that pixels can be compared one by one."""
    return (picture.clip(0, 1) * 255).astype(np.uint8)


def test_repeatable_by_seed(model: BodyModel) -> None:
    first, again, other = (shoot(Studio(model), seed) for seed in (5, 5, 6))
    assert first.pixels.shape == (SIZE, SIZE, 3)
    assert first.pixels.dtype == np.uint8
    np.testing.assert_array_equal(first.pixels, again.pixels)
    np.testing.assert_array_equal(first.visible, again.visible)
    assert (first.pixels != other.pixels).any(axis=2).mean() > 0.9


def test_from_front_and_back_all_joints_are_seen(model: BodyModel) -> None:
    studio = Studio(model, occluder_prob=0.0)
    for degrees in (0.0, 180.0):
        vertices, joints = person(model, degrees)
        taken = studio.take(vertices, CAMERA, SIZE, joints, np.random.default_rng(0), naked(model, 0.5))
        assert taken.visible.all()


@pytest.mark.parametrize(("degrees", "near"), [(90.0, 1), (-90.0, 0)])
def test_from_the_side_the_body_hides_an_arm(degrees: float, near: int, model: BodyModel) -> None:
    _, joints = person(model, degrees)
    assert joints[WRISTS[near], 2] < joints[WRISTS[1 - near], 2] - 1
    visible = shoot(Studio(model, occluder_prob=0.0), 0, degrees=degrees).visible
    assert visible[WRISTS[near]]
    assert not visible[WRISTS[1 - near]]
    assert visible[FEET].all()


def test_what_is_cut_off_is_not_seen(model: BodyModel) -> None:
    low = CAMERA.clone()
    low[1, 2] += 20
    _, joints = person(model)
    pixels = project(joints, low)
    inside = ((pixels >= 0) & (pixels < SIZE)).all(dim=1).numpy()
    assert 4 <= (~inside).sum() <= 12
    np.testing.assert_array_equal(shoot(Studio(model, occluder_prob=0.0), 0, K=low).visible, inside)


def test_what_an_occluder_covers_is_not_seen(model: BodyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photograph, "_develop", undeveloped)
    _, joints = person(model)
    column, row = project(joints, CAMERA).long().T.numpy()
    lost = 0
    for seed in range(8):
        free, blocked = (shoot(Studio(model, occluder_prob=prob), seed) for prob in (0.0, 1.0))
        changed = (free.pixels != blocked.pixels).any(axis=2)
        assert changed.any()
        np.testing.assert_array_equal(blocked.visible, free.visible & ~changed[row, column])
        lost += (free.visible & ~blocked.visible).sum()
    assert lost >= 16


def test_points_are_seen_down_to_the_bones(model: BodyModel) -> None:
    vertices, _ = person(model)
    depth = rasterize(vertices, model.faces, CAMERA, (SIZE, SIZE)).depth
    column, row = 32, 30
    surface = float(depth[row, column])
    assert np.isfinite(surface)
    assert depth[2, 60].isinf()
    rays = torch.linalg.inv(CAMERA) @ torch.tensor([[column + 0.5, row + 0.5, 1.0], [60.5, 2.5, 1.0]]).T
    z = [1.0, surface - 0.1, surface + FLESH - 0.05, surface + FLESH + 0.05, 9.0, -3.0]
    points = torch.cat((rays[:, 0] * torch.tensor(z)[:, None], 5 * rays[:, 1][None]))
    outfit = naked(model, 0.5)
    taken = Studio(model, occluder_prob=0.0).take(vertices, CAMERA, SIZE, points, np.random.default_rng(0), outfit)
    assert taken.visible.tolist() == [True, True, True, False, False, False, True]


@pytest.mark.parametrize("degrees", [0.0, 40.0])
def test_the_silhouette_is_the_body_s(degrees: float, model: BodyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes with the colour of the skin is the body."""
    monkeypatch.setattr(photograph, "_develop", undeveloped)
    vertices, joints = person(model, degrees)
    studio = Studio(model, occluder_prob=0.0)
    dark, light = (
        studio.take(vertices, CAMERA, SIZE, joints, np.random.default_rng(1), naked(model, shade)).pixels
        for shade in (0.0, 1.0)
    )
    twice = torch.diag(torch.tensor([2.0, 2.0, 1.0])) @ CAMERA
    samples = rasterize(vertices, model.faces, twice, (2 * SIZE, 2 * SIZE)).face >= 0
    covered = samples.reshape(SIZE, 2, SIZE, 2).any(dim=3).any(dim=1).numpy()
    assert 0.1 < covered.mean() < 0.5
    np.testing.assert_array_equal((dark != light).any(axis=2), covered)
    # Wholly covered pixels of a black body are black.
    whole = samples.reshape(SIZE, 2, SIZE, 2).all(dim=3).all(dim=1).numpy()
    assert (dark[whole] == 0).all()
    assert (light[whole].min(axis=1) > 20).all()


def test_cloth_is_wider_than_the_body(model: BodyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photograph, "_develop", undeveloped)
    vertices, joints = person(model)
    studio = Studio(model, occluder_prob=0.0)
    measures = Measures.of(model)
    worn = replace(naked(model, 0.3), hem=-10.0, collar=measures.neck, sleeve=measures.wrist, folds=np.zeros((4, 3)))
    areas = []
    for slack in (0.0, 0.02, 0.04):
        pictures = [
            studio.take(vertices, CAMERA, SIZE, joints, np.random.default_rng(1), outfit).pixels.astype(int)
            for outfit in (
                replace(worn, slack=slack, shirt=replace(worn.shirt, colors=np.full((2, 3), shade)))
                for shade in (0.0, 1.0)
            )
        ]
        areas.append(int((pictures[0] != pictures[1]).any(axis=2).sum()))
    assert areas[0] < areas[1] < areas[2] < 1.6 * areas[0]


def test_someone_outside_the_picture_leaves_the_room_empty(model: BodyModel) -> None:
    vertices, joints = person(model)
    away = torch.tensor([50.0, 0.0, 0.0])
    taken = Studio(model).take(vertices + away, CAMERA, SIZE, joints + away, np.random.default_rng(0))
    assert not taken.visible.any()
    assert taken.pixels.std() > 1


def test_tiny_pictures(model: BodyModel) -> None:
    """The least crop of the tool that renders data sets: 16 pixels, 24 with its margin."""
    K = torch.diag(torch.tensor([24 / SIZE, 24 / SIZE, 1.0])) @ CAMERA
    for seed in range(12):
        assert shoot(Studio(model), seed, K, size=24).pixels.shape == (24, 24, 3)


def test_errors(model: BodyModel) -> None:
    vertices, joints = person(model)
    studio, rng = Studio(model), np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"image_size is \(0, 0\)"):
        studio.take(vertices, CAMERA, 0, joints, rng)
    vertices[7, 1] = torch.nan
    with pytest.raises(ValueError, match="vertices_cam holds values that are not finite"):
        studio.take(vertices, CAMERA, SIZE, joints, rng)
