"""Initial poses ``P_init`` (Sec. 5.1, Table 7): K-means centres, random poses, draws from the prior, or a file's."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

AnchorSource = Literal["kmeans", "random", "generated"]
LARGEST_REACH = 3.0  # Metres from the root to a joint; no person is as large, and poses in millimetres are larger.


def kmeans_poses(
    poses: Float[Tensor, "poses joints 3"],
    num_clusters: int,
    generator: torch.Generator | None = None,
    num_iterations: int = 50,
    root: int = 0,
) -> Float[Tensor, "num_clusters joints 3"]:
    """Centres of Lloyd's K-means over whole poses, started by k-means++; the most representative poses.

    Args:
        poses: Training poses, root-relative metres.
        num_clusters: S, the number of hypotheses.
        generator: Source of the start.
        num_iterations: At most this many; stops when no pose changes its cluster.
        root: Joint that every centre is made relative to.

    Returns:
        The centres, largest cluster first.

    Raises:
        ValueError: More clusters than poses, or none.
    """
    if not 1 <= num_clusters <= len(poses):
        raise ValueError(f"num_clusters must be in 1..{len(poses)} (the number of poses), got {num_clusters}")
    points = poses.flatten(1)
    centres = points[torch.randint(len(points), (1,), generator=generator)]
    nearest = torch.full((len(points),), torch.inf, dtype=points.dtype, device=points.device)
    for _ in range(num_clusters - 1):
        nearest = torch.minimum(nearest, (points - centres[-1]).square().sum(-1))
        chance = (nearest if bool(nearest.any()) else torch.ones_like(nearest)).cpu()  # where generators live
        centres = torch.cat([centres, points[torch.multinomial(chance, 1, generator=generator)]])
    cluster = torch.full((len(points),), -1, device=points.device)
    for _ in range(num_iterations):
        previous, cluster = cluster, torch.cdist(points, centres).argmin(-1)
        if bool((previous == cluster).all()):
            break
        sums = torch.zeros_like(centres).index_add_(0, cluster, points)
        counts = cluster.bincount(minlength=num_clusters)[:, None]
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    order = cluster.bincount(minlength=num_clusters).argsort(descending=True, stable=True)
    centres = centres[order].unflatten(-1, poses.shape[1:])
    anchors: Tensor = centres - centres[:, root, None]
    return anchors


def random_poses(
    poses: Float[Tensor, "poses joints 3"], num_poses: int, generator: torch.Generator | None = None
) -> Float[Tensor, "num_poses joints 3"]:
    """Training poses drawn without replacement (Table 7, "Random Sampling").

    Raises:
        ValueError: More poses asked for than there are.
    """
    if not 1 <= num_poses <= len(poses):
        raise ValueError(f"num_poses must be in 1..{len(poses)} (the number of poses), got {num_poses}")
    return poses[torch.randperm(len(poses), generator=generator)[:num_poses]]


def read_poses(path: Path, num_poses: int, num_joints: int, root: int = 0) -> Float[Tensor, "num_poses joints 3"]:
    """Poses of a NumPy file, as the release distributes its centres (``clusters/h36m_cluster50.npy``).

    Args:
        path: ``.npy`` of shape (poses, joints, 3): metres, camera axes.
        num_poses: S, the number of hypotheses; the file must have as many.
        num_joints: Joints of a pose.
        root: Joint that every pose is made relative to.

    Returns:
        The poses, float32.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such array, or holds something that is not finite or not in metres.
    """
    if not path.is_file():
        raise FileNotFoundError(f"anchors_file: there is no file {path}")
    try:
        poses = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"anchors_file: {path} is no whole NumPy file of numbers ({error})") from error
    if not isinstance(poses, np.ndarray) or poses.dtype.kind not in "fiu":
        raise ValueError(f"anchors_file: {path} holds no array of numbers")
    if poses.shape != (num_poses, num_joints, 3):
        raise ValueError(
            f"anchors_file: {path} has shape {poses.shape}, expected {(num_poses, num_joints, 3)}: num_hypotheses is "
            f"{num_poses}, and a pose has {num_joints} joints"
        )
    poses = poses.astype(np.float64)
    relative = poses - poses[:, [root]]
    reach = np.linalg.norm(relative, axis=-1).max()
    if not 0 < reach < LARGEST_REACH:  # also where it is not a number
        raise ValueError(
            f"anchors_file: {path} has joints up to {reach:.3g} from the root, expected metres, below {LARGEST_REACH:g}"
        )
    return torch.from_numpy(relative).float()
