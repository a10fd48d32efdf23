"""Fit the pose prior that `posecore.fitting` ships to CMU motion capture.

    python tools/fit_pose_prior.py --data FOLDER     # FOLDER holds cmu_mocap/; writes the asset

Needs the extra `prior` (scikit-learn). The poses are every second frame of the split `train`, retargeted to SMPL, and
their mirror images, so that left and right are equally likely. Two densities are fitted: SMPLify's mixture of 8
Gaussians with full covariances in axis-angle, and one Gaussian in 6D.

Some joints hardly move in the data (collars about their axis, hands), and the clips are of few people: 0.01 square
radians are added to every covariance's diagonal, so that no direction's standard deviation is below 0.1 radians.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from posecore.body.skeletons import SMPL_24
from posecore.data.cmu_mocap import load_cmu_motions
from posecore.export.files import write_bytes
from posecore.fitting.priors import POSE_PRIOR_CMU
from posecore.geometry.rotation import rotmat_to_axis_angle, rotmat_to_rot6d

COMPONENTS = 8
STRIDE = 2
REGULARISATION = 0.01
"""Added to the diagonal of every covariance: square radians, and the square of 6D's unit."""
SOURCE = (
    "Fitted to motion from the CMU Graphics Lab Motion Capture Database. The data used in this project was obtained "
    "from mocap.cs.cmu.edu. The database was created with funding from NSF EIA-0196217. BVH conversion by B. Hahne "
    "(cgspeed). The motion itself is not part of this file."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the database, or that holds cmu_mocap/")
    parser.add_argument("--output", type=Path, default=POSE_PRIOR_CMU, help="file to write")
    parser.add_argument("--seed", type=int, default=0, help="of the mixture's start")
    args = parser.parse_args(arguments)
    motions = load_cmu_motions(args.data, "train")
    poses = with_mirrored(torch.cat([motion.body_pose[::STRIDE] for motion in motions]).double())
    arrays = fit(poses, args.seed)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_bytes(args.output, buffer.getvalue())
    shares = ", ".join(f"{share:.3f}" for share in arrays["weights"])
    print(f"{len(poses)} poses of {len(motions)} clips; shares of the components: {shares}")
    print(f"{args.output.name}: {args.output.stat().st_size / 1e3:.0f} kB")
    return 0


def with_mirrored(body_pose: Float[Tensor, "poses 23 3 3"]) -> Float[Tensor, "twice_poses 23 3 3"]:
    """The poses, then their mirror images: left and right joints change places, and M R M mirrors x."""
    partner = torch.tensor(SMPL_24.flip)[1:] - 1
    mirror = body_pose.new_tensor((-1.0, 1.0, 1.0))
    return torch.cat((body_pose, body_pose[:, partner] * mirror[:, None] * mirror))


def fit(body_pose: Float[Tensor, "poses 23 3 3"], seed: int) -> dict[str, np.ndarray]:
    """Mixture in axis-angle, and mean and covariance in 6D; the arrays of the asset, float32."""
    from sklearn.mixture import GaussianMixture

    axis_angle = rotmat_to_axis_angle(body_pose).flatten(1).numpy()
    mixture = GaussianMixture(COMPONENTS, reg_covar=REGULARISATION, max_iter=300, random_state=seed).fit(axis_angle)
    if not mixture.converged_:
        raise ValueError(f"the mixture did not converge in {mixture.n_iter_} iterations")
    rot6d = rotmat_to_rot6d(body_pose).flatten(1).numpy()
    arrays = {
        "means": mixture.means_,
        "covariances": mixture.covariances_,
        "weights": mixture.weights_,
        "mean_rot6d": rot6d.mean(axis=0),
        "covariance_rot6d": np.cov(rot6d, rowvar=False) + REGULARISATION * np.eye(rot6d.shape[1]),
    }
    return {name: array.astype(np.float32) for name, array in arrays.items()} | {"source": np.array(SOURCE)}


if __name__ == "__main__":
    sys.exit(main())
