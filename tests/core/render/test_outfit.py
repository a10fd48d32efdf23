from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from posecore.body.files import BodyModel, load_body_model
from posecore.body.skeletons import SMPL_24
from posecore.body.smpl import SMPLLayer
from posecore.render.outfit import PATTERNS, Cloth, Measures, Outfit, random_colors

RED, BLUE, GREEN = (np.array(color, dtype=float) for color in ((1, 0, 0), (0, 0, 1), (0, 1, 0)))
SEEDS = range(40)


@pytest.fixture(scope="module")
def model() -> BodyModel:
    return load_body_model()


@pytest.fixture(scope="module")
def measures(model: BodyModel) -> Measures:
    return Measures.of(model)


@pytest.fixture(scope="module")
def rest(model: BodyModel) -> np.ndarray:
    return model.v_template.float().numpy()


def drawn(seed: int, measures: Measures) -> Outfit:
    return Outfit.draw(np.random.default_rng(seed), measures)


def plain(color: np.ndarray) -> Cloth:
    return Cloth(np.stack((color, 1 - color)), "plain", 0.1, 0.0, np.zeros((4, 3)))


def test_measures_are_those_of_the_rest_pose(measures: Measures, model: BodyModel, rest: np.ndarray) -> None:
    joints = SMPLLayer(model, vertices=()).rest_joints(model.v_template.new_zeros(1, 10))[0].numpy()
    for name, joint, axis in (
        ("shoulder", "shoulder", 0), ("elbow", "elbow", 0), ("wrist", "wrist", 0), ("knee", "knee", 1),
        ("ankle", "ankle", 1),
    ):  # fmt: skip
        np.testing.assert_allclose(getattr(measures, name), joints[SMPL_24.index(f"l_{joint}"), axis], atol=1e-5)
    np.testing.assert_allclose(measures.pelvis, joints[0, 1], atol=1e-5)
    assert 0 < measures.shoulder < measures.elbow < measures.wrist
    assert measures.ankle < measures.knee < measures.pelvis < measures.neck < measures.eyes[:, 1].min()
    left, right = measures.eyes
    assert right[0] < 0 < left[0]
    assert np.linalg.norm(rest[:, None] - measures.eyes, axis=2).min(axis=0).max() < 0.01, "eyes lie on the face"
    # In front of the head's middle.
    head = rest[np.abs(rest[:, 1] - left[1]) < 0.03]
    assert measures.eyes[:, 2].min() > head[:, 2].mean() + 0.05


def test_repeatable_by_seed(measures: Measures, rest: np.ndarray) -> None:
    first, again = (drawn(3, measures) for _ in range(2))
    np.testing.assert_array_equal(first.colors(rest), again.colors(rest))
    np.testing.assert_array_equal(first.offsets(rest), again.offsets(rest))
    assert first.slack > 0
    other = drawn(4, measures)
    assert (first.colors(rest) != other.colors(rest)).any(axis=1).mean() > 0.9
    assert (first.offsets(rest) != other.offsets(rest)).mean() > 0.2


def test_every_outfit_is_of_this_world(measures: Measures, rest: np.ndarray) -> None:
    sleeves, legs = [], []
    for seed in SEEDS:
        outfit = drawn(seed, measures)
        colors = outfit.colors(rest)
        assert colors.shape == rest.shape
        assert colors.min() >= 0
        assert colors.max() <= 1.01  # the palest skin
        assert measures.shoulder - 0.01 <= outfit.sleeve <= measures.wrist
        assert measures.ankle <= outfit.leg <= outfit.hem <= measures.neck
        sleeves.append(outfit.sleeve > measures.elbow)
        legs.append(outfit.leg < measures.knee - 0.11)
    assert 0.2 < np.mean(sleeves) < 0.8
    assert 0.4 < np.mean(legs) < 0.9


def test_hems_obey_the_outfit(measures: Measures, rest: np.ndarray) -> None:
    across, height = np.abs(rest[:, 0]), rest[:, 1]
    for seed in SEEDS:
        outfit = replace(drawn(seed, measures), shirt=plain(RED), trousers=plain(BLUE), shoes=GREEN)
        colors = outfit.colors(rest)
        shirt, trousers, shoes = ((colors == color).all(axis=1) for color in (RED, BLUE, GREEN))
        assert across[shirt].max() <= outfit.sleeve
        assert height[shirt].min() >= outfit.hem
        assert (height[trousers] < outfit.hem).all()
        assert (height[trousers] >= outfit.leg).all()
        np.testing.assert_array_equal(shoes, height < outfit.shoe)
        # No hole: the belly is dressed, and so are the thighs.
        belly = (height >= outfit.hem) & (height < measures.neck - 0.2) & (across < 0.1)
        assert shirt[belly].all()
        thighs = (height < outfit.hem) & (height >= max(outfit.leg, outfit.shoe)) & (across < 0.25)
        assert trousers[thighs].all()
        assert not shirt[across > measures.wrist + 0.01].any(), "hands are bare"


def test_cloth_stands_off_and_skin_does_not(measures: Measures, rest: np.ndarray) -> None:
    for seed in SEEDS:
        outfit = drawn(seed, measures)
        offsets = outfit.offsets(rest)
        assert offsets.dtype == np.float32
        bare = (outfit.colors(rest) == outfit.skin.astype(np.float32)).all(axis=1)
        assert bare.sum() > 100
        assert (offsets[bare] == 0).all()
        assert (offsets[np.abs(rest[:, 0]) > measures.wrist + 0.01] == 0).all()
        assert (offsets[rest[:, 1] > measures.neck + 0.06] == 0).all()
        cloth = offsets[offsets != 0]
        assert len(cloth) > 500
        assert cloth.min() >= 0.099 * outfit.slack
        assert cloth.max() <= 1.401 * outfit.slack <= 0.031
    assert (replace(outfit, slack=0.0).offsets(rest) == 0).all()


def test_the_face_has_eyes_and_a_mouth(measures: Measures) -> None:
    for seed in SEEDS:
        outfit = drawn(seed, measures)
        np.testing.assert_allclose(outfit.colors(measures.eyes), [(0.08, 0.06, 0.05)] * 2)
        for step in ((0.015, 0, 0), (-0.015, 0, 0), (0, 0.013, 0)):
            beside = measures.eyes + np.array(step, dtype=np.float32)
            np.testing.assert_allclose(outfit.colors(beside), [(0.9, 0.9, 0.88)] * 2)
        mouth = measures.eyes.mean(axis=0, keepdims=True) + np.array([[0, -0.075, 0.01]], dtype=np.float32)
        if outfit.hair_end < mouth[0, 1]:  # what lies lower is no head
            np.testing.assert_allclose(outfit.colors(mouth)[0], outfit.skin * (0.85, 0.45, 0.45), rtol=1e-6)
        cheeks = measures.eyes + np.array((0, -0.045, 0), dtype=np.float32)
        np.testing.assert_allclose(outfit.colors(cheeks), np.tile(outfit.skin, (2, 1)), rtol=1e-6)


def test_hair_grows_on_top_and_behind(measures: Measures, rest: np.ndarray) -> None:
    eye = measures.eyes.mean(axis=0)
    top = rest[rest[:, 1].argmax()][None]
    head = rest[np.abs(rest[:, 1] - eye[1] - 0.03) < 0.02]
    back = head[head[:, 2].argmin()][None]
    short = replace(drawn(0, measures), hair=GREEN, fringe=0.05, hair_end=measures.neck + 0.05)
    for place in (top, back):
        np.testing.assert_array_equal(short.colors(place)[0], GREEN)
        np.testing.assert_array_equal(replace(short, fringe=1.0).colors(place)[0], short.skin.astype(np.float32))
    assert not (short.colors(rest[rest[:, 1] < measures.neck]) == GREEN).all(axis=1).any()
    assert rest[(short.colors(rest) == GREEN).all(axis=1), 1].min() < eye[1]
    cropped = replace(short, hair_end=float(eye[1]) + 0.02)
    assert rest[(cropped.colors(rest) == GREEN).all(axis=1), 1].min() > eye[1] + 0.02
    below = rest[(replace(short, hairline=1.6, hair_end=-1.0).colors(rest) == GREEN).all(axis=1)]
    assert (below[below[:, 1] < eye[1], 2] < eye[2] - 0.1).all(), "none before the face"


def cloth(pattern: str, **changes: object) -> Cloth:
    waves = np.random.default_rng(0).normal(0, 25, (4, 3))
    made = Cloth(np.stack((RED, BLUE)), pattern, 0.1, 0.3, waves)  # type: ignore[arg-type]
    return replace(made, **changes)  # type: ignore[arg-type]


def test_patterns(rest: np.ndarray) -> None:
    across, up, turned = (np.array(step, dtype=np.float32) for step in ((0.1, 0, 0), (0, 0.1, 0), (0.02, 0, 0)))
    mixed = {pattern: cloth(pattern).at(rest) for pattern in set(PATTERNS)}
    for pattern, colors in mixed.items():
        share = colors[:, 2]
        np.testing.assert_allclose(colors, (1 - share[:, None]) * RED + share[:, None] * BLUE, atol=1e-12)
        if pattern != "fade":
            assert set(np.unique(share)) <= {0.0, 1.0}
        if pattern != "plain":
            assert 0.001 < share.mean() < 0.9, pattern
    assert (mixed["plain"] == RED).all()
    inner = rest[(np.abs((rest / 0.1 + 0.3) % 0.5 - 0.25) < 0.24)[:, :2].all(axis=1)]  # off the patterns' edges
    assert len(inner) > 0.8 * len(rest)
    rings, stripes, checks = (cloth(pattern) for pattern in ("rings", "stripes", "checks"))
    for piece, along, period in ((rings, turned, up), (stripes, turned[[1, 0, 2]], across)):
        np.testing.assert_array_equal(piece.at(inner + along), piece.at(inner))
        np.testing.assert_array_equal(piece.at(inner + period), piece.at(inner))
        np.testing.assert_array_equal(piece.at(inner + period / 2)[:, 0], 1 - piece.at(inner)[:, 0])
        np.testing.assert_array_equal(checks.at(inner + period / 2)[:, 0], 1 - checks.at(inner)[:, 0])
    front = cloth("print").at(rest)[:, 2] == 1
    assert (rest[front, 2] > 0).all()
    # A blot pattern turns with its waves.
    spin = Rotation.from_euler("xyz", (0.3, 1.0, -0.5)).as_matrix()
    blots = cloth("blots")
    same = replace(blots, waves=blots.waves @ spin.T).at(rest @ spin.T) == blots.at(rest)
    assert same.all(axis=1).mean() > 0.999


def test_colors_are_of_every_hue() -> None:
    colors = random_colors(np.random.default_rng(0), 3000)
    assert colors.shape == (3000, 3)
    assert colors.min() >= 0
    assert colors.max() <= 1
    assert np.bincount(colors.argmax(axis=1)).min() > 800
    assert (np.ptp(colors, axis=1) < 0.05).mean() > 0.05, "greys among them"
    np.testing.assert_array_equal(colors, random_colors(np.random.default_rng(0), 3000))
