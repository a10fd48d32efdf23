"""What rendered people wear: the colour of each point of a body's surface, drawn at random.

A point is known by where it lies on the mean body in rest pose, arms sideways (metres, y up, facing +z), so clothes
have sharp hems on any mesh and move with the body.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from posecore.body.files import BodyModel
from posecore.body.skeletons import SMPL_24

Rest = Float[np.ndarray, "points 3"]
Pattern = Literal["plain", "rings", "stripes", "checks", "blots", "fade", "print"]

PATTERNS: tuple[Pattern, ...] = ("plain", "plain", "rings", "stripes", "checks", "blots", "fade", "print")
_SKIN = np.array([(0.96, 0.84, 0.74), (0.87, 0.68, 0.53), (0.72, 0.51, 0.37), (0.52, 0.35, 0.24), (0.30, 0.20, 0.14)])
_HAIR = np.array([(0.06, 0.05, 0.05), (0.22, 0.13, 0.08), (0.45, 0.29, 0.16), (0.80, 0.65, 0.40), (0.62, 0.60, 0.58)])


@dataclass(frozen=True)
class Measures:
    """Places of the body in rest pose that hems are drawn between; metres."""

    shoulder: float
    elbow: float
    wrist: float
    pelvis: float
    knee: float
    ankle: float
    neck: float
    eyes: Float[np.ndarray, "2 3"]

    @classmethod
    def of(cls, model: BodyModel) -> "Measures":
        """Takes measure of a body whose rest pose has the arms sideways."""
        joints = (model.J_regressor @ model.v_template).double().numpy()
        x, y = (dict(zip(SMPL_24.joint_names, joints[:, axis].tolist(), strict=True)) for axis in (0, 1))
        return cls(
            shoulder=x["l_shoulder"],
            elbow=x["l_elbow"],
            wrist=x["l_wrist"],
            pelvis=y["pelvis"],
            knee=y["l_knee"],
            ankle=y["l_ankle"],
            neck=y["neck"],
            eyes=(model.landmark_regressor(("l_eye", "r_eye")) @ model.v_template).float().numpy(),
        )


@dataclass(frozen=True)
class Cloth:
    """One piece's two colours and how they alternate over the body.

    Attributes:
        colors: Two colours, linear in [0, 1].
        pattern: How they alternate.
        pitch: Length of a period, metres.
        phase: Shift, periods.
        waves: For blots: directions and lengths of four waves, 1/metres.
    """

    colors: Float[np.ndarray, "2 3"]
    pattern: Pattern
    pitch: float
    phase: float
    waves: Float[np.ndarray, "4 3"]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Cloth":
        """A random piece."""
        colors = random_colors(rng, 2)
        pitch, waves = rng.uniform(0.03, 0.2), rng.normal(0, 25, (4, 3))
        return cls(colors, PATTERNS[rng.integers(len(PATTERNS))], pitch, rng.uniform(), waves)

    def at(self, rest: Rest) -> Float[np.ndarray, "points 3"]:
        """Colours of points."""
        x, y = rest[:, 0] / self.pitch + self.phase, rest[:, 1] / self.pitch + self.phase
        if self.pattern == "plain":
            share = np.zeros(len(rest))
        elif self.pattern == "rings":
            share = _alternate(y)
        elif self.pattern == "stripes":
            share = _alternate(x)
        elif self.pattern == "checks":
            share = np.abs(_alternate(x) - _alternate(y))
        elif self.pattern == "fade":
            share = 0.5 + 0.5 * np.sin(2 * y / 3)
        elif self.pattern == "print":  # one blot on the front
            share = np.logical_and(np.hypot(rest[:, 0], rest[:, 1] - 0.3) < 1.2 * self.pitch, rest[:, 2] > 0).astype(
                float
            )
        else:
            share = (np.sin(rest @ self.waves.T + self.phase * 6).sum(axis=1) > 0.4).astype(float)
        mixed: np.ndarray = self.colors[0] + share[:, None] * (self.colors[1] - self.colors[0])
        return mixed


@dataclass(frozen=True)
class Outfit:
    """Skin, hair and clothes of one person.

    Attributes:
        skin: Colour.
        hair: Colour.
        hairline: A point of the head is hair where its height above the eyes, plus this share of how far it lies
            behind them, passes ``fringe``.
        fringe: Metres above the eyes.
        hair_end: Height at which hair ends, at the back.
        shirt: Upper piece.
        trousers: Lower piece.
        shoes: Colour.
        sleeve: How far along the arm the shirt reaches, |x|.
        hem: Height at which the shirt ends.
        leg: Height at which the trousers end.
        shoe: Height at which the shoes begin.
        collar: Height of the neckline at the middle.
        slack: How far cloth stands off the body, metres.
        folds: Waves that vary it, 1/metres.
    """

    skin: Float[np.ndarray, "3"]
    hair: Float[np.ndarray, "3"]
    hairline: float
    fringe: float
    hair_end: float
    shirt: Cloth
    trousers: Cloth
    shoes: Float[np.ndarray, "3"]
    sleeve: float
    hem: float
    leg: float
    shoe: float
    collar: float
    slack: float
    folds: Float[np.ndarray, "4 3"]
    measures: Measures

    @classmethod
    def draw(cls, rng: np.random.Generator, measures: Measures) -> "Outfit":
        """A random outfit: sleeves of any length, shorts or trousers, short or long hair, bare feet now and then."""
        m = measures
        long_sleeve, long_legs = rng.uniform() < 0.45, rng.uniform() < 0.65
        return cls(
            skin=_between(rng, _SKIN) * rng.uniform(0.9, 1.05),
            hair=_between(rng, _HAIR) if rng.uniform() < 0.9 else random_colors(rng, 1)[0],
            hairline=rng.uniform(0.8, 1.6),
            fringe=rng.uniform(0.02, 0.07) if rng.uniform() < 0.92 else 1.0,
            hair_end=m.neck + (rng.uniform(-0.15, 0.0) if rng.uniform() < 0.35 else rng.uniform(0.02, 0.08)),
            shirt=Cloth.draw(rng),
            trousers=Cloth.draw(rng),
            shoes=random_colors(rng, 1)[0],
            sleeve=rng.uniform(0.9 * m.wrist, m.wrist) if long_sleeve else rng.uniform(m.shoulder - 0.01, m.elbow),
            hem=m.pelvis + rng.uniform(-0.12, 0.13),
            leg=rng.uniform(m.ankle, m.ankle + 0.1) if long_legs else rng.uniform(m.knee - 0.1, m.pelvis - 0.12),
            shoe=m.ankle + rng.uniform(-0.02, 0.12) if rng.uniform() < 0.85 else -10.0,
            collar=m.neck - rng.uniform(-0.01, 0.12),
            slack=rng.uniform(0.0, 0.022),
            folds=rng.normal(0, 12, (4, 3)),
            measures=measures,
        )

    def colors(self, rest: Rest) -> Float[np.ndarray, "points 3"]:
        """Colours of points of the surface, in [0, 1] before light."""
        colors = np.broadcast_to(self.skin.astype(np.float32), rest.shape).copy()
        on_shirt, on_trousers = self._covered(rest)
        for on, cloth in ((on_shirt, self.shirt), (on_trousers, self.trousers)):
            colors[on] = cloth.at(rest[on])
        colors[rest[:, 1] < self.shoe] = self.shoes
        self._paint_head(colors, rest)
        return colors

    def offsets(self, rest: Rest) -> Float[np.ndarray, " points"]:
        """How far cloth stands off the body at its vertices, metres; 0 on skin."""
        covered = np.logical_or(*self._covered(rest))
        ripple = 0.6 + 0.2 * np.sin(rest @ self.folds.T).sum(axis=1)
        away: np.ndarray = np.where(covered, self.slack * np.clip(ripple, 0.1, 1.4), 0.0).astype(np.float32)
        return away

    def _covered(self, rest: Rest) -> tuple[Bool[np.ndarray, " points"], Bool[np.ndarray, " points"]]:
        """Points under the shirt, and under the trousers."""
        m = self.measures
        across, height = np.abs(rest[:, 0]), rest[:, 1]
        neckline = np.where(rest[:, 2] > 0, self.collar, m.neck - 0.02) + 0.6 * np.clip(across - 0.05, 0, 0.1)
        shirt = (height >= self.hem) & (across <= self.sleeve) & (height < neckline)
        trousers = (height < self.hem) & (height >= self.leg) & (across < 0.6 * m.wrist)
        return shirt, trousers

    def _paint_head(self, colors: Float[np.ndarray, "points 3"], rest: Rest) -> None:
        m = self.measures
        eye = m.eyes.mean(axis=0)
        head = np.flatnonzero((rest[:, 1] > self.hair_end) & (np.abs(rest[:, 0]) < 0.16))
        place = rest[head]
        above, behind = place[:, 1] - eye[1], eye[2] - place[:, 2]
        # Behind the ears hair reaches down to its end; on the face it begins above the forehead.
        hair = (above + self.hairline * (behind - 0.06) > self.fringe) & ((above > 0) | (behind > 0.1))
        colors[head[hair]] = self.hair
        near = np.linalg.norm(place[:, None] - m.eyes[None], axis=2).min(axis=1)
        colors[head[near < 0.02]] = (0.9, 0.9, 0.88)
        colors[head[near < 0.011]] = (0.08, 0.06, 0.05)
        mouth = np.abs(place - eye - np.array((0.0, -0.075, 0.01), dtype=np.float32)) < (0.028, 0.009, 0.04)
        colors[head[mouth.all(axis=1)]] = self.skin * (0.85, 0.45, 0.45)


def random_colors(rng: np.random.Generator, count: int) -> Float[np.ndarray, "count 3"]:
    """Colours of any hue, greys among them."""
    hue, value = rng.uniform(0, 1, (count, 1)), rng.uniform(0.05, 1, (count, 1))
    saturation = rng.uniform(0, 1, (count, 1)) ** 1.5
    wheel = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    mixed: np.ndarray = value * (1 - saturation * (1 - wheel))
    return mixed


def _between(rng: np.random.Generator, stops: Float[np.ndarray, "stops 3"]) -> Float[np.ndarray, "3"]:
    place = rng.uniform(0, len(stops) - 1)
    low = int(place)
    mixed: np.ndarray = stops[low] + (place - low) * (stops[min(low + 1, len(stops) - 1)] - stops[low])
    return mixed


def _alternate(periods: Float[np.ndarray, " points"]) -> Float[np.ndarray, " points"]:
    """0 over the first half of each period, 1 over the second."""
    return (periods % 1 >= 0.5).astype(float)
