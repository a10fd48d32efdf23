"""The pose estimator head phi_P: heatmaps of the joints in the picture and in depth (Sec. 4.3)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hmdiff.pose_distribution import PoseDistribution
from posecore.geometry.precision import autocast_off


class PoseHead(nn.Module):
    """Three deconvolutions from f_c to E_xy and E_z: of 7 x 7 cells, heatmaps of 56 x 56.

    The paper leaves the meaning of E_z's second axis and the unit of a pose open. Here E_xy lies over the crop, E_z
    over the crop's columns and the depth relative to the root (see `PoseDistribution`), and one more number says how
    many metres the crop's side is at the root, without which no heatmap over a picture is a pose in metres.

    Deviation: that number; the paper does not say how poses of a heatmap and meshes come to the same unit.

    Args:
        in_channels: Of f_c.
        num_joints: J.
        channels: Of the deconvolutions; 256 is usual, the paper names none.
        depth_range: Half the extent of E_z, metres.

    Raises:
        ValueError: ``depth_range`` is not above 0.
    """

    def __init__(self, in_channels: int, num_joints: int, channels: int = 256, depth_range: float = 1.0) -> None:
        super().__init__()
        if depth_range <= 0:
            raise ValueError(f"depth_range must be above 0 m, got {depth_range}")
        layers: list[nn.Module] = []
        for given in (in_channels, channels, channels):
            layers += [
                nn.ConvTranspose2d(given, channels, kernel_size=4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            ]
        self.deconvolutions = nn.Sequential(*layers)
        self.heatmaps = nn.Conv2d(channels, 2 * num_joints, kernel_size=1)
        self.side = nn.Linear(in_channels, 1)
        self.num_joints = num_joints
        self.depth_range = depth_range
        nn.init.normal_(self.heatmaps.weight, std=0.001)
        nn.init.zeros_(self.heatmaps.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.side.weight)
        nn.init.constant_(self.side.bias, 0.7)  # 2 m: a person and some room

    def forward(self, f_c: Float[Tensor, "batch dim h w"]) -> PoseDistribution:
        """The distribution of poses U.

        Args:
            f_c: Features of the crops.
        """
        hidden = self.deconvolutions(f_c.contiguous(memory_format=torch.channels_last))
        with autocast_off():
            logits = self.heatmaps(hidden.float()).contiguous()
            log_side = self.side(f_c.float().mean(dim=(2, 3)))[:, 0]
        return PoseDistribution(
            logits[:, : self.num_joints], logits[:, self.num_joints :], log_side.exp(), self.depth_range
        )
