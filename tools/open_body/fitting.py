"""Shape space, joint regressors and landmarks of the open body."""

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import nnls

_SPREAD = 0.01  # metres of error that concentrating a regressor on one vertex is worth
_TEMPLATE_WEIGHT = 30.0  # the template's own joint counts as many bodies
_SUM_WEIGHT = 10.0  # metres of error for a sum of weights that is off by 1, before it is made exact


def shape_space(
    bodies: Float[np.ndarray, "bodies vertices 3"], num_betas: int = 10
) -> tuple[Float[np.ndarray, "vertices 3"], Float[np.ndarray, "vertices 3 betas"]]:
    """Mean body and principal components in units of one standard deviation; a positive beta makes the body taller."""
    mean = bodies.mean(0)
    centred = (bodies - mean).reshape(len(bodies), -1)
    _, values, rows = np.linalg.svd(centred, full_matrices=False)
    components = (rows[:num_betas] * values[:num_betas, None] / np.sqrt(len(bodies) - 1)).reshape(num_betas, -1, 3)
    growth = components[:, mean[:, 1].argmax(), 1] - components[:, mean[:, 1].argmin(), 1]
    return mean, np.moveaxis(components * np.where(growth < 0, -1, 1)[:, None, None], 0, -1)


def fit_regressor(
    bodies: Float[np.ndarray, "bodies vertices 3"],
    points: Float[np.ndarray, "bodies points 3"],
    mirror: Int[np.ndarray, " vertices"],
    mirrored_points: list[int],
    num_candidates: int = 1500,
) -> Float[np.ndarray, "points vertices"]:
    """Non-negative weights, rows sum to 1, that give the points of all bodies from nearby vertices.

    The two sides get mirrored weights, points on the midline symmetric ones. A small ridge spreads each row over many
    vertices, so that no single one matters.

    Args:
        bodies: the first is the template, which counts more than the others.
        points: what to regress.
        mirror: left/right partner of each vertex.
        mirrored_points: left/right partner of each point.
        num_candidates: how many vertices are tried for each point: those nearest to it on the template.
    """
    importance = np.ones(len(bodies))
    importance[0] = _TEMPLATE_WEIGHT
    importance = np.sqrt(importance / importance.sum())
    regressor = np.zeros((points.shape[1], bodies.shape[1]))
    for j, partner in enumerate(mirrored_points):
        if partner < j:
            regressor[j] = regressor[partner][mirror]
            continue
        distance = np.linalg.norm(bodies[0] - points[0, j], axis=1)
        near = np.argsort(distance, kind="stable")[:num_candidates]
        if partner == j:
            near = np.unique(np.concatenate([near, mirror[near]]))
            near = near[near <= mirror[near]]
            columns = 0.5 * (bodies[:, near] + bodies[:, mirror[near]])
        else:
            columns = bodies[:, near]
        centred = (columns - points[:, j, None]) * importance[:, None, None]
        matrix = np.concatenate(
            [
                np.swapaxes(centred, 1, 2).reshape(-1, len(near)),
                _SPREAD * np.eye(len(near)),
                np.full((1, len(near)), _SUM_WEIGHT),
            ]
        )
        right = np.zeros(len(matrix))
        right[-1] = _SUM_WEIGHT
        weights, _ = nnls(matrix, right)
        np.add.at(regressor[j], near, 0.5 * weights)
        np.add.at(regressor[j], mirror[near] if partner == j else near, 0.5 * weights)
        regressor[j] /= regressor[j].sum()
    return regressor


def landmark_vertices(
    template: Float[np.ndarray, "vertices 3"],
    weights: Float[np.ndarray, "vertices 24"],
    anchors: dict[str, Float[np.ndarray, "3"]],
    mirror: Int[np.ndarray, " vertices"],
    joint_names: list[str],
) -> dict[str, int]:
    """Vertices of the named points (smplx's names) that 2D keypoint sets use and the 24 joints lack.

    Args:
        template: T-posed mean body.
        weights: its skinning weights.
        anchors: `leye`, the left toes and fingertips on the template, where the nearest vertex is wanted.
        mirror: left/right partner of each vertex.
        joint_names: SMPL's names of the 24 joints.
    """
    x, y, z = template.T

    def best(score: Float[np.ndarray, " vertices"], allowed: np.ndarray) -> int:
        return int(np.where(allowed, score, -np.inf).argmax())

    head, heel = (weights[:, joint_names.index(name)] > 0.5 for name in ("head", "left_ankle"))
    left = {name: best(-np.linalg.norm(template - anchor, axis=1), x > 0) for name, anchor in anchors.items()}
    left["lear"] = best(x, head)
    left["LHeel"] = best(-z, heel & (y < y.min() + 0.03))
    right = {name.replace("l", "r", 1) if name[0] == "l" else "R" + name[1:]: mirror[v] for name, v in left.items()}
    return {"nose": best(z, head & (mirror == np.arange(len(x)))), **left, **{n: int(v) for n, v in right.items()}}
