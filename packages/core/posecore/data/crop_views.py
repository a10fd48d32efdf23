"""The square of the picture that a network's crop shows: its pixels, and the samples as its camera sees them."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional

from posecore.body.skeletons import SMPL_24, JointSet
from posecore.data.sample import PoseSample
from posecore.data.transforms import flip_sample, rotate_joints


@dataclass(frozen=True)
class CropViews:
    """Squares that are shifted, scaled and turned against people's boxes, and mirrored last.

    Coordinates in a crop or raw crop are -1 and 1 at its edges.

    Attributes:
        turn: Rotations from directions of the picture to those of the crop.
        scale: Side of the square by that of the box.
        shift: Middle of the square minus that of the box, by the side of the box.
        mirrored: Whether the crop's left and right are exchanged.
    """

    turn: Float[Tensor, "batch 2 2"]
    scale: Float[Tensor, " batch"]
    shift: Float[Tensor, "batch 2"]
    mirrored: Bool[Tensor, " batch"]

    @classmethod
    def of_boxes(cls, rows: int, device: torch.device) -> "CropViews":
        """The boxes themselves."""
        zero = torch.zeros(rows, 2, device=device)
        return cls(turns(zero[:, 0]), 1 + zero[:, 0], zero, zero[:, 0] > 0)

    def in_raw_crop(self, places: Float[Tensor, "batch n 2"], margin: float) -> Float[Tensor, "batch n 2"]:
        """Coordinates in the raw crop, ``margin`` boxes wide, of those in the crop."""
        affine = self._to_raw_crop(margin)
        return places @ affine[..., :2].mT + affine[:, None, :, 2]

    def cut(self, raw: UInt8[Tensor, "batch 3 raw raw"], size: int, margin: float) -> Float[Tensor, "batch 3 _ _"]:
        """The crops, sRGB in [0, 1]; black outside the raw crops.

        Raw crops of more than ``size * margin`` pixels are first shrunk to that, smoothly, so that the bilinear
        sampling after it shrinks by ``scale`` alone.

        Args:
            raw: Crops ``margin`` boxes wide, sRGB.
            size: Side of the crops, pixels.
            margin: Side of the raw crops by that of the boxes.
        """
        pixels = raw.float()
        enough = round(size * margin)
        if raw.shape[-1] > enough:
            pixels = functional.interpolate(pixels, (enough, enough), mode="bilinear", antialias=True)
        grid = functional.affine_grid(self._to_raw_crop(margin), [len(raw), 3, size, size], align_corners=False)
        return functional.grid_sample(pixels, grid, padding_mode="zeros", align_corners=False).div_(255)

    def seen(self, batch: PoseSample, joint_set: JointSet, size: int) -> PoseSample:
        """The samples as the crops' cameras see them, which are turned and mirrored with the crops.

        All of the camera frame and of the picture's pixels follows but ``image``, image features and start estimates.

        Args:
            batch: With ``box`` where anything is in pixels, and ``joints_smpl24_cam`` where there is ``transl``.
            joint_set: The batch's joints.
            size: Side of the crops, pixels.
        """
        out = cast(dict[str, Any], self.turned(batch, size))
        flipped = cast(dict[str, Any], flip_sample(cast(PoseSample, out), joint_set))
        if "smpl24_visible" in batch:
            flipped["smpl24_visible"] = batch["smpl24_visible"][:, list(SMPL_24.flip)]
        for key, value in flipped.items():
            if value is not out[key]:
                out[key] = torch.where(self.mirrored.reshape(-1, *(1,) * (value.dim() - 1)), value, out[key])
        if "transl" in batch:  # SMPL turns about its pelvis, which stays where it is in the rest pose.
            rest_pelvis = batch["joints_smpl24_cam"][:, 0] - batch["transl"]
            out["transl"] = out["joints_smpl24_cam"][:, 0] - rest_pelvis
        return cast(PoseSample, out)

    def turned(self, batch: PoseSample, size: int) -> PoseSample:
        """As :meth:`seen`, of crops before they are mirrored; ``transl`` stays as it is."""
        out: dict[str, Any] = dict(batch)
        turn = self.turn
        if "box" in batch:
            center, side = batch["box"].split((2, 1), dim=-1)
            center = (center + self.shift * side)[:, None]
            zoom = turn * (size / (side * self.scale[:, None]))[..., None]
            for key in ("joints_2d_px", "joints_2d_true_px"):
                if key in batch:
                    out[key] = (out[key] - center) @ zoom.mT + size / 2
            if "joints_2d_px" in batch and "confidence" in batch:  # A missing joint stays at (0, 0).
                out["joints_2d_px"] = torch.where(batch["confidence"][..., None] > 0, out["joints_2d_px"], 0.0)
            if "K" in batch:
                # zoom K = K' turn', K' upper triangular. One focal length in x and y gives the turn of the picture.
                product = zoom @ batch["K"][:, :2, :2]
                sine, cosine = functional.normalize(product[:, 1], dim=-1).unbind(-1)
                turn = _rotations(cosine, sine)
                out["K"] = batch["K"].clone()
                out["K"][:, :2, :2] = (product @ turn.mT).triu()
                out["K"][:, :2, 2:] = zoom @ (batch["K"][:, :2, 2:] - center.mT) + size / 2
            out["box"] = torch.tensor([size / 2, size / 2, size], device=side.device).repeat(len(side), 1)
        out["image_size"] = torch.full((len(turn), 2), float(size), device=turn.device)
        rotmat = functional.pad(turn, (0, 1, 0, 1))
        rotmat[:, 2, 2] = 1
        for key in ("joints_cam", "joints_rel", "joints_smpl24_cam", "vertices_cam"):
            if key in batch:
                out[key] = rotate_joints(out[key], rotmat)
        for key in ("global_orient", "R_world_to_cam"):
            if key in batch:
                out[key] = rotmat @ out[key]
        if "t_world_to_cam" in batch:
            out["t_world_to_cam"] = (rotmat @ out["t_world_to_cam"][..., None])[..., 0]
        return cast(PoseSample, out)

    def _to_raw_crop(self, margin: float) -> Float[Tensor, "batch 2 3"]:
        """Affine map of coordinates in the crop to those in the raw crop."""
        x, y = (self.turn.mT * (self.scale / margin)[:, None, None]).unbind(-1)
        return torch.stack((torch.where(self.mirrored[:, None], -x, x), y, self.shift * (2 / margin)), dim=-1)


def turns(angle: Float[Tensor, " batch"]) -> Float[Tensor, "batch 2 2"]:
    """Rotations in the picture, radians; from x (right) to y (down)."""
    return _rotations(angle.cos(), angle.sin())


def _rotations(cosine: Float[Tensor, " batch"], sine: Float[Tensor, " batch"]) -> Float[Tensor, "batch 2 2"]:
    return torch.stack((cosine, -sine, sine, cosine), dim=-1).reshape(-1, 2, 2)
