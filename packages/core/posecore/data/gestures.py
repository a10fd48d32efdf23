"""Everyday movements as curves of anatomical joint angles, and those angles as SMPL rotations.

Angles are in degrees, by anatomical name; 0 is a person who stands upright with hanging arms. ``l_`` and ``r_`` angles
mean the same on both sides (abduction moves away from the body, rotation turns outward). Amplitudes of gait follow
textbook curves (Winter, Biomechanics and Motor Control of Human Movement).
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from posecore.body.skeletons import SMPL_24
from posecore.geometry.rotation import axis_angle_to_rotmat

Angles = dict[str, Float[np.ndarray, " frames"]]

# Range of motion of a healthy adult, degrees (least, greatest).
LIMITS: Mapping[str, tuple[float, float]] = {
    "hip_flexion": (-25, 125), "hip_abduction": (-20, 45), "hip_rotation": (-35, 40), "knee_flexion": (0, 145),
    "ankle_flexion": (-45, 35), "arm_flexion": (-50, 175), "arm_abduction": (-10, 170), "arm_rotation": (-80, 90),
    "elbow_flexion": (0, 145), "wrist_flexion": (-60, 60), "spine_flexion": (-25, 75), "spine_lean": (-30, 30),
    "spine_turn": (-45, 45), "neck_flexion": (-40, 45), "neck_lean": (-35, 35), "neck_turn": (-70, 70),
    "pelvis_pitch": (-30, 60), "pelvis_lean": (-15, 15), "pelvis_turn": (-20, 20),
}  # fmt: skip
_SIDED = ("hip", "knee", "ankle", "arm", "elbow", "wrist")
ANGLE_NAMES: tuple[str, ...] = tuple(
    f"{side}{name}" for name in LIMITS for side in (("l_", "r_") if name.startswith(_SIDED) else ("",))
)


class Gesture:
    """One movement over ``seconds``: angle curves, forward speed (None: the feet stay) and height of both feet."""

    def __init__(self, seconds: Float[np.ndarray, " frames"], rng: np.random.Generator) -> None:
        self.seconds = seconds
        self.rng = rng
        self.angles: Angles = {name: np.zeros_like(seconds) for name in ANGLE_NAMES}
        self.speed: float | None = None
        self.flight = np.zeros_like(seconds)
        self.stand_idly()

    def draw(self, low: float | int, high: float | int) -> float:
        """A uniform random number."""
        return float(self.rng.uniform(low, high))

    def slow_noise(self, amplitude: float | int) -> Float[np.ndarray, " frames"]:
        """A smooth wander of about ``amplitude`` (three slow oscillations of random phase)."""
        rates = self.rng.uniform(0.1, 0.6, size=3)
        phases = self.rng.uniform(0, 2 * np.pi, size=3)
        waves: np.ndarray = np.sin(2 * np.pi * rates * self.seconds[:, None] + phases)
        return 1.4 * amplitude * np.asarray(waves.mean(axis=1))

    def cycle(self, hertz: float) -> Float[np.ndarray, " frames"]:
        """Phase of a repeated movement, in turns, from a random start."""
        return hertz * self.seconds + self.draw(0, 1)

    def stand_idly(self) -> None:
        """What every movement starts from: a posture of its own, never quite still."""
        for name in ANGLE_NAMES:
            if not name.endswith(("knee_flexion", "ankle_flexion", "hip_flexion")):
                self.angles[name] += self.rng.normal(0, 2.5) + self.slow_noise(2.5)
        width = self.draw(-4, 6)  # The rest pose's legs are some 5 degrees apart already.
        elbow, arm = self.draw(8, 30), self.draw(6, 16)
        for side in ("l_", "r_"):
            self.angles[side + "hip_abduction"] += width
            self.angles[side + "hip_rotation"] += self.draw(0, 12)
            self.angles[side + "arm_abduction"] += arm
            self.angles[side + "elbow_flexion"] += elbow
        self.angles["spine_flexion"] += self.draw(-3, 10)

    def legs_on_floor(
        self,
        knee: Float[np.ndarray, " frames"],
        ankle: Float[np.ndarray, " frames"],
        pitch: Float[np.ndarray, " frames"],
    ) -> None:
        """Both legs bent so that the soles stay level: hip = pitch + knee - ankle."""
        self.angles["pelvis_pitch"] += pitch
        for side in ("l_", "r_"):
            self.angles[side + "knee_flexion"] += knee
            self.angles[side + "ankle_flexion"] += ankle
            self.angles[side + "hip_flexion"] += pitch + knee - ankle


def _bump(phase: Float[np.ndarray, " frames"], center: float, width: float) -> Float[np.ndarray, " frames"]:
    """A periodic bell of height 1 (von Mises); phase, center and width in turns."""
    return np.asarray(np.exp((np.cos(2 * np.pi * (phase - center)) - 1) / (2 * np.pi * width) ** 2))


def _smooth_step(x: Float[np.ndarray, " frames"]) -> Float[np.ndarray, " frames"]:
    """0 below 0, 1 above 1, the minimum-jerk curve between."""
    x = np.clip(x, 0, 1)
    return np.asarray(x**3 * (10 - 15 * x + 6 * x**2))


def walk(g: Gesture) -> None:
    """Walking; phase 0 of a leg is heel strike, toe-off at 0.62 of the stride."""
    hertz, reach, lift = g.draw(0.7, 1.1), g.draw(0.7, 1.2), g.draw(0.85, 1.1)
    phase, swing, bend = g.cycle(hertz), g.draw(8, 25), g.draw(10, 35)
    for side, p in (("l_", phase), ("r_", phase + 0.5)):
        g.angles[side + "hip_flexion"] += 9 + 21 * reach * np.cos(2 * np.pi * (p + 0.03))
        g.angles[side + "knee_flexion"] += 5 + lift * (12 * _bump(p, 0.14, 0.06) + 56 * _bump(p, 0.73, 0.085))
        g.angles[side + "ankle_flexion"] += (
            9 * _bump(p, 0.42, 0.1) - 18 * _bump(p, 0.63, 0.06) - 4 * _bump(p, 0.07, 0.04)
        )
        g.angles[side + "hip_abduction"] -= 3
        g.angles[side + "arm_flexion"] += 3 - swing * np.cos(2 * np.pi * p)
        g.angles[side + "elbow_flexion"] += bend * (0.6 - 0.4 * np.cos(2 * np.pi * p))
    g.angles["pelvis_turn"] += -4 * reach * np.cos(2 * np.pi * phase)
    g.angles["spine_turn"] += 8 * reach * np.cos(2 * np.pi * phase)
    g.angles["pelvis_lean"] += 3 * np.sin(2 * np.pi * phase)
    g.angles["pelvis_pitch"] += g.draw(0, 6)
    g.speed = 4 * 0.83 * np.sin(np.deg2rad(21 * reach)) * hertz  # two steps of 2 L sin(angle) a stride


def run(g: Gesture) -> None:
    """Running, with two flights a stride."""
    hertz, reach = g.draw(1.25, 1.6), g.draw(0.8, 1.15)
    phase, swing, bend = g.cycle(hertz), g.draw(25, 45), g.draw(75, 105)
    for side, p in (("l_", phase), ("r_", phase + 0.5)):
        g.angles[side + "hip_flexion"] += 16 + 34 * reach * np.cos(2 * np.pi * (p + 0.08))
        g.angles[side + "knee_flexion"] += 14 + 26 * _bump(p, 0.14, 0.07) + 85 * reach * _bump(p, 0.66, 0.11)
        g.angles[side + "ankle_flexion"] += 18 * _bump(p, 0.17, 0.07) - 25 * _bump(p, 0.38, 0.07) - 5
        g.angles[side + "hip_abduction"] -= 4
        g.angles[side + "arm_flexion"] += 2 - swing * np.cos(2 * np.pi * p)
        g.angles[side + "elbow_flexion"] += bend - 12 * np.cos(2 * np.pi * p)
        g.angles[side + "arm_abduction"] += 8
    g.angles["pelvis_turn"] += -6 * np.cos(2 * np.pi * phase)
    g.angles["spine_turn"] += 14 * np.cos(2 * np.pi * phase)
    g.angles["pelvis_pitch"] += g.draw(6, 14)
    g.flight += 0.06 * np.clip(np.sin(4 * np.pi * (phase - 0.16)), 0, None) ** 2 * reach
    g.speed = 2.2 * reach * hertz


def squat(g: Gesture) -> None:
    """Knee bends of random depth, arms stretched forward or hanging."""
    depth = g.draw(0.5, 1.0) * (1 - np.cos(2 * np.pi * g.cycle(g.draw(0.2, 0.45)))) / 2
    g.legs_on_floor(knee=120 * depth, ankle=30 * depth, pitch=g.draw(20, 38) * depth)
    g.angles["spine_flexion"] += g.draw(5, 25) * depth
    g.angles["neck_flexion"] -= 15 * depth
    arms = g.draw(0, 95)
    for side in ("l_", "r_"):
        g.angles[side + "hip_abduction"] += 10 * depth
        g.angles[side + "arm_flexion"] += arms * depth
        g.angles[side + "elbow_flexion"] *= 1 - 0.7 * depth


def reach(g: Gesture) -> None:
    """Reaching for things high, low and to the side, with one hand or both."""
    sides = [("l_",), ("r_",), ("l_", "r_")][g.rng.integers(3)]
    when, pace = 0.0, 0.0
    while when < g.seconds[-1]:
        pace, hold = g.draw(0.7, 1.3), g.draw(0.1, 0.8)
        out = _smooth_step((g.seconds - when) / pace) * (1 - _smooth_step((g.seconds - when - pace - hold) / pace))
        flexion, abduction, low = g.draw(30, 150), g.draw(-5, 60), g.draw(0, 1) ** 2
        g.angles["spine_flexion"] += 45 * low * out
        g.angles["spine_turn"] += g.draw(-25, 25) * out
        g.legs_on_floor(knee=55 * low * out, ankle=15 * low * out, pitch=25 * low * out)
        for side in sides:
            g.angles[side + "arm_flexion"] += (flexion - 60 * low) * out
            g.angles[side + "arm_abduction"] += abduction * out
            # The elbow bends on the way and stretches at the goal.
            g.angles[side + "elbow_flexion"] += 4 * out * (1 - out) * g.draw(30, 70) - 0.6 * out * g.draw(5, 25)
        when += 2 * pace + hold + g.draw(0.1, 0.6)


def wave(g: Gesture) -> None:
    """Waving with a raised arm, standing or walking."""
    if g.rng.random() < 0.4:
        walk(g)
    side = ("l_", "r_")[g.rng.integers(2)]
    up = _smooth_step((g.seconds - g.draw(0, 1)) / g.draw(0.5, 1.0))
    beat = np.sin(2 * np.pi * g.cycle(g.draw(1.0, 2.2)))
    goal = {
        "arm_abduction": g.draw(60, 110) + 5 * beat, "arm_flexion": g.draw(0, 40) + 0 * beat,
        "arm_rotation": g.draw(65, 85) + 5 * beat, "elbow_flexion": g.draw(60, 95) + g.draw(15, 30) * beat,
    }  # fmt: skip
    for name, curve in goal.items():
        g.angles[side + name] = (1 - up) * g.angles[side + name] + up * curve


def jump(g: Gesture) -> None:
    """Jumps on the spot: crouch, push off, flight, landing."""
    period = g.draw(1.2, 1.8)
    phase, strength = g.cycle(1 / period) % 1.0, g.draw(0.5, 1.0)
    crouch = np.clip(strength * (_bump(phase, 0.2, 0.07) + 0.7 * _bump(phase, 0.72, 0.06)), 0, 1)
    g.legs_on_floor(knee=85 * crouch, ankle=25 * crouch, pitch=25 * crouch)
    air = np.clip((phase - 0.33) / 0.3, 0, 1)
    g.flight += 9.81 / 8 * (0.3 * period) ** 2 * 4 * air * (1 - air)  # a throw: h = g T^2 / 8
    toes = 4 * air * (1 - air)
    for side in ("l_", "r_"):
        g.angles[side + "ankle_flexion"] -= 30 * toes
        g.angles[side + "arm_flexion"] += strength * (120 * _bump(phase, 0.42, 0.12) - 40 * _bump(phase, 0.15, 0.06))
    g.angles["spine_flexion"] += 20 * crouch


def sit(g: Gesture) -> None:
    """Sitting down on a chair, sitting, getting up."""
    start, pace = g.draw(0, 1.5), g.draw(1.0, 1.8)
    stay = g.draw(0.5, 1.0) * g.seconds[-1]
    down = _smooth_step((g.seconds - start) / pace) * (1 - _smooth_step((g.seconds - start - pace - stay) / pace))
    if g.rng.random() < 0.4:  # Sits from the first frame to the last.
        down = np.ones_like(down)
    lean = 4 * down * (1 - down)  # The trunk bends forward to keep the balance on the way.
    g.legs_on_floor(
        knee=g.draw(80, 100) * down, ankle=g.draw(-5, 12) * down + 8 * lean, pitch=g.draw(-12, 8) * down + 30 * lean
    )
    g.angles["spine_flexion"] += 20 * lean + g.draw(0, 25) * down
    for side in ("l_", "r_"):
        g.angles[side + "hip_abduction"] += g.draw(0, 14) * down
        g.angles[side + "arm_flexion"] += g.draw(5, 45) * down + 25 * lean
        g.angles[side + "elbow_flexion"] += g.draw(10, 75) * down


GESTURES: Mapping[str, Callable[[Gesture], None]] = {
    "walk": walk, "run": run, "squat": squat, "reach": reach, "wave": wave, "jump": jump, "sit": sit,
}  # fmt: skip


def within_limits(angles: Angles) -> Angles:
    """Angles clipped to the range of motion."""
    return {name: np.clip(curve, *LIMITS[name.removeprefix("l_").removeprefix("r_")]) for name, curve in angles.items()}


def _turn(axis: int, degrees: Float[np.ndarray, " frames"] | float, frames: int) -> Float[Tensor, "frames 3 3"]:
    vector = torch.zeros(frames, 3, dtype=torch.float64)
    vector[:, axis] = torch.as_tensor(np.deg2rad(degrees))
    return axis_angle_to_rotmat(vector)


def local_rotations(angles: Angles) -> Float[Tensor, "frames 24 3 3"]:
    """SMPL-24 local rotations of anatomical angles; joint 0 is the pelvis of a person who faces +z.

    The rest pose is SMPL's: y up, facing +z, left = +x, arms along x. A right-hand rotation is the mirror image of the
    left-hand one: turns about y and z change their sign.
    """
    frames = len(next(iter(angles.values())))
    rotations = torch.eye(3, dtype=torch.float64).repeat(frames, 24, 1, 1)

    def put(joint: str, *turns: tuple[int, Float[np.ndarray, " frames"]]) -> None:
        for axis, degrees in turns:
            j = SMPL_24.index(joint)
            rotations[:, j] = rotations[:, j] @ _turn(axis, degrees, frames)

    x, y, z = 0, 1, 2
    put("pelvis", (y, angles["pelvis_turn"]), (x, angles["pelvis_pitch"]), (z, angles["pelvis_lean"]))
    for joint in ("spine1", "spine2", "spine3"):
        put(joint, *((axis, angles[f"spine_{n}"] / 3) for axis, n in ((x, "flexion"), (y, "turn"), (z, "lean"))))
    for joint in ("neck", "head"):
        put(joint, *((axis, angles[f"neck_{n}"] / 2) for axis, n in ((x, "flexion"), (y, "turn"), (z, "lean"))))
    for side, sign in (("l_", 1.0), ("r_", -1.0)):
        a = {name: angles[side + name] for name in LIMITS if name.startswith(_SIDED)}
        put(
            f"{side}hip",
            (x, -a["hip_flexion"]), (z, sign * a["hip_abduction"]), (y, sign * a["hip_rotation"]),
        )  # fmt: skip
        put(f"{side}knee", (x, a["knee_flexion"]))
        put(f"{side}ankle", (x, -a["ankle_flexion"]))
        # The collar bone sinks with a hanging arm and rises with a lifted one.
        raised = np.maximum(a["arm_abduction"], a["arm_flexion"])
        put(f"{side}collar", (z, sign * (0.15 * raised - 10)))
        hang = sign * (a["arm_abduction"] - 90)
        put(f"{side}shoulder", (x, -a["arm_flexion"]), (z, hang), (x, -a["arm_rotation"]))
        put(f"{side}elbow", (y, -sign * a["elbow_flexion"]))
        put(f"{side}wrist", (z, -sign * a["wrist_flexion"]))
    return rotations
