"""The prior U: a distribution of 3D poses made of heatmaps, its samples, its loss (Secs. 4.2, 4.3).

The paper has "an xy heatmap and a depth heatmap of J x 56 x 56 each" and no more. Read here: E_xy is the probability
of a joint's place in the crop, E_z that of its column and its depth, so a sample is (x, y) ~ E_xy and z ~ E_z( . | x).
With the camera ``K`` and the crop's side in metres at the root, a sample becomes metres in the camera's axes, relative
to the root: the unit and the frame of the meshes.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from posecore.diffusion.noise import NoiseSource, uniform
from posecore.geometry.camera import normalize_points
from posecore.geometry.precision import full_precision


@dataclass(frozen=True)
class PoseDistribution:
    """Heatmaps of a batch of crops.

    Attributes:
        xy: Logits of E_xy over the rows (y) and columns (x) of the crop.
        z: Logits of E_z over the depth (rows, from -depth_range to depth_range, metres behind the root) and the columns
            of the crop.
        side: Metres that the crop's side is at the root's depth.
        depth_range: Metres.
    """

    xy: Float[Tensor, "batch joints size size"]
    z: Float[Tensor, "batch joints size size"]
    side: Float[Tensor, " batch"]
    depth_range: float

    def take(self, images: slice) -> "PoseDistribution":
        """Some of the images."""
        return PoseDistribution(self.xy[images], self.z[images], self.side[images], self.depth_range)

    def sample(self, num_samples: int, generator: NoiseSource | None = None) -> Float[Tensor, "batch n joints 3"]:
        """Draws of (x, y, z): pixels by the crop's side, in [0, 1], and metres behind the root.

        Places are uniform within a heatmap's cell. Joints are drawn one by one: heatmaps hold nothing about the joints
        together.

        Args:
            num_samples: n.
            generator: Source of all draws.
        """
        batch, joints, size = self.xy.shape[:3]
        drawn = uniform((batch, num_samples, joints, 5), self.xy, generator).permute(3, 0, 2, 1).contiguous()
        cells = _draw(self.xy.flatten(2).softmax(-1), drawn[0])
        rows, columns = cells // size, cells % size
        index = columns[:, :, None].expand(-1, -1, size, -1)
        depths = _draw_columns(self.z.softmax(dim=2).gather(3, index), drawn[1])
        x, y, z = ((cell + inside) / size for cell, inside in zip((columns, rows, depths), drawn[2:], strict=True))
        return torch.stack((x, y, self.depth_range * (2 * z - 1)), dim=-1).transpose(1, 2)

    def mode(self) -> Float[Tensor, "batch 1 joints 3"]:
        """The single pose u_c that is detected: each joint's likeliest cell (Table 5), in the units of `sample`."""
        size = self.xy.shape[-1]
        cells = self.xy.flatten(2).argmax(-1)
        rows, columns = cells // size, cells % size
        at_column = self.z.gather(3, columns[..., None, None].expand(-1, -1, size, 1))[..., 0]
        depths = at_column.argmax(-1)
        x, y, z = ((cell + 0.5) / size for cell in (columns, rows, depths))
        return torch.stack((x, y, self.depth_range * (2 * z - 1)), dim=-1)[:, None]

    @full_precision  # 16 bits would place a joint to half a pixel of the crop
    def mean(self) -> Float[Tensor, "batch joints 3"]:
        """The expected place of each joint, in the units of `sample`."""
        size = self.xy.shape[-1]
        middles = (torch.arange(size, device=self.xy.device, dtype=self.xy.dtype) + 0.5) / size
        xy = self.xy.flatten(2).softmax(-1).unflatten(2, (size, size))
        of_columns = xy.sum(dim=2)
        given_column = torch.einsum("z,bjzx->bjx", middles, self.z.softmax(dim=2))
        x = of_columns @ middles
        y = xy.sum(dim=3) @ middles
        z = (of_columns * given_column).sum(-1)
        return torch.stack((x, y, self.depth_range * (2 * z - 1)), dim=-1)

    @full_precision
    def in_metres(
        self, places: Float[Tensor, "batch n joints 3"], K: Float[Tensor, "batch 3 3"], image_size: int
    ) -> Float[Tensor, "batch n joints 3"]:
        """Poses in metres, camera axes, relative to the root: what DAT compares with joints of a mesh.

        A joint lies on the ray through its place in the crop, at the root's depth and its own behind it. Relative to
        the root means relative to the mean root of the given poses: one drawn anew would move all joints.

        Args:
            places: As of `sample`.
            K: Intrinsics of the crop, pixels.
            image_size: Side of the crop, pixels.
        """
        root_depth = K[:, 0, 0] * self.side / image_size
        plane = normalize_points(places[..., :2] * image_size, K[:, None])
        depth = root_depth[:, None, None] + places[..., 2]
        joints = torch.cat((plane, torch.ones_like(plane[..., :1])), dim=-1) * depth.clamp_min(0.1)[..., None]
        root: Tensor = joints[:, :, :1].mean(dim=1, keepdim=True)
        return joints - root

    @full_precision
    def losses(
        self,
        joints_cam: Float[Tensor, "batch joints 3"],
        places: Float[Tensor, "batch joints 2"],
        K: Float[Tensor, "batch 3 3"],
        image_size: int,
        known: Tensor | None = None,
        sigma: float = 1.0,
    ) -> dict[str, Tensor]:
        """What phi_I and phi_P are trained with, a mean over the people: ``xy``, ``z`` and ``side``.

        Cross-entropy with a Gaussian about the truth, so that a heatmap becomes the distribution of what is not known,
        as DAT needs it; the usual squared error of heatmaps gives no distribution. Joints outside are taken to lie at
        the edge.

        Args:
            joints_cam: True joints, metres, camera frame, the root first.
            places: Their projections, by the crop's side, in [0, 1] inside of it.
            K: Intrinsics of the crop, pixels.
            image_size: Side of the crop, pixels.
            known: People whose joints are known; all where None.
            sigma: Of the Gaussian, in cells.
        """
        size = self.xy.shape[-1]
        z = (joints_cam[..., 2] - joints_cam[:, :1, 2]) / self.depth_range / 2 + 0.5
        x, y, z = (_gaussian(values, size, sigma) for values in (places[..., 0], places[..., 1], z))
        terms = {
            "xy": _cross_entropy(self.xy, y, x).mean(dim=-1),
            "z": _cross_entropy(self.z, z, x).mean(dim=-1),
            "side": (self.side.log() - (joints_cam[:, 0, 2] * image_size / K[:, 0, 0]).clamp_min(1e-3).log()).abs(),
        }
        if known is None:
            return {name: value.mean() for name, value in terms.items()}
        count = known.sum().clamp_min(1)
        return {name: torch.where(known, value, 0.0).sum() / count for name, value in terms.items()}


def _gaussian(values: Float[Tensor, "batch joints"], size: int, sigma: float) -> Float[Tensor, "batch joints size"]:
    """Probabilities of the cells about a place in [0, 1]."""
    middles = torch.arange(size, device=values.device, dtype=values.dtype) + 0.5
    place = (values * size).clamp(0.5, size - 0.5)
    return (-0.5 * ((middles - place[..., None]) / sigma).square()).softmax(-1)


def _cross_entropy(
    logits: Float[Tensor, "batch joints size size"],
    of_rows: Float[Tensor, "batch joints size"],
    of_columns: Float[Tensor, "batch joints size"],
) -> Float[Tensor, "batch joints"]:
    """Of a target that is a product, which is never made."""
    agreement = torch.einsum("bjr,bjrc,bjc->bj", of_rows, logits, of_columns)
    return logits.flatten(2).logsumexp(-1) - agreement


def _draw(probabilities: Float[Tensor, "*batch cells"], uniform: Float[Tensor, "*batch n"]) -> Tensor:
    """Cells by the inverse of the distribution function."""
    cumulative = probabilities.cumsum(-1)
    cells = torch.searchsorted(cumulative, (uniform * cumulative[..., -1:]).contiguous(), right=True)
    return cells.clamp_max(probabilities.shape[-1] - 1)


def _draw_columns(
    probabilities: Float[Tensor, "batch joints size n"], uniform: Float[Tensor, "batch joints n"]
) -> Tensor:
    """A row for each column that was drawn."""
    flat = probabilities.transpose(2, 3).flatten(0, 2)
    return _draw(flat, uniform.reshape(-1, 1)).view(uniform.shape)
