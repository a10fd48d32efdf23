"""From raw crops to a network's images, with everything in the camera frame and in pixels moved along.

A raw crop (:class:`posecore.data.crops.PersonCrops` with a margin) covers more than the person's box, so that a turned,
shifted or enlarged box finds its pixels. The network's crop is cut from it with a single bilinear sampling, for the
whole batch at once, on the device of the batch.
"""

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from posecore.body.skeletons import JointSet
from posecore.data.crop_views import CropViews, turns
from posecore.data.crops import IMAGENET_MEAN, IMAGENET_STD
from posecore.data.sample import PoseSample
from posecore.geometry.camera import project

_IN_PIXELS = ("joints_2d_px", "joints_2d_true_px", "K")
_OF_THE_PICTURE = ("features", "start_global_orient", "start_body_pose", "start_betas", "start_transl")
_OF_JOINTS = ("joints_cam", "joints_rel", "joints_known", "joints_2d_px", "confidence", "joints_2d_true_px")
_GREY = (0.299, 0.587, 0.114)  # Share of red, green and blue in the grey that saturation 0 leaves (Rec. 601).
_OCCLUDER_SIDES = (0.1, 0.5)  # By the crop's side.


@dataclass(frozen=True)
class CropAugmentation:
    """Random views of people for training an image network, and the plain view for using it.

    The defaults are SPIN's, whose order is kept: the box is scaled and turned, cut out, mirrored, and its colours
    change last.

    Deviation: SPIN neither shifts boxes nor has occluders, and its only change of colour is ``pixel_noise``; ``shift``,
    ``occlusion_prob`` and ``color_jitter`` are additions, off by default. SPIN cuts from the whole picture, here
    everything farther from the person than the raw crop's margin is black: at most the corners of turned, large boxes.

    Args:
        size: Side of the network's crop, pixels.
        margin: Side of the raw crops by that of the boxes, the ``crop_margin`` of the data sets. Raw crops of more than
            ``size * margin`` pixels are shrunk to that with an antialiasing filter first, so the sampling itself never
            shrinks by more than ``1 + scale``, which needs none.
        rotation_degrees: Standard deviation of the turn in the picture, clipped to twice that.
        rotation_prob: Share of people that are turned at all.
        scale: Standard deviation of the box's side by its true side, about 1 and clipped to one deviation.
        flip_prob: Share of people that are mirrored.
        pixel_noise: Red, green and blue are multiplied by numbers from 1 - ``pixel_noise`` to 1 + ``pixel_noise``.
        shift: Standard deviation of the box's middle in x and y, by its side, clipped to twice that.
        occlusion_prob: Share of people with an occluder, a rectangle or ellipse of one colour with random grain.
        color_jitter: Brightness, contrast and saturation change by factors from 1 - ``color_jitter`` to
            1 + ``color_jitter``.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Kolotouros et al., Learning to Reconstruct 3D Human Pose and Shape via Model-fitting in the Loop, ICCV 2019.
    """

    size: int = 224
    margin: float = 1.5
    rotation_degrees: float = 30.0
    rotation_prob: float = 0.4
    scale: float = 0.25
    flip_prob: float = 0.5
    pixel_noise: float = 0.4
    shift: float = 0.0
    occlusion_prob: float = 0.0
    color_jitter: float = 0.0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size: must be at least 1 px, got {self.size}")
        if self.margin < 1:
            raise ValueError(f"margin: must be at least 1, the box itself, got {self.margin}")
        for name in ("rotation_prob", "flip_prob", "occlusion_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: must lie in [0, 1], got {getattr(self, name)}")
        for name in ("scale", "pixel_noise", "color_jitter"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: must lie in [0, 1), got {getattr(self, name)}")
        for name in ("rotation_degrees", "shift"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: must be finite and not negative, got {getattr(self, name)}")

    def train(self, batch: PoseSample, joint_set: JointSet, generator: torch.Generator) -> PoseSample:
        """A random view of each person.

        The camera turns about its own axis with the picture and is mirrored with it, so joints, rotations and
        translations of the camera frame change, ``betas`` do not. ``transl`` keeps the pelvis where it belongs, since
        SMPL turns about its pelvis. Keypoints that leave the crop keep their confidence, as in SPIN; ``smpl24_visible``
        becomes False outside the crop and behind occluders. A world frame is mirrored with the picture. So is
        ``vertices_cam``, vertex by vertex: a right hand becomes a left one, so right hands need ``flip_prob`` 0.

        Args:
            batch: With ``image``, a raw crop; ``box`` where anything is in pixels. On any device.
            joint_set: The batch's joints.
            generator: On the CPU. How much is drawn from it depends on the number of rows, ``size`` and whether there
                are occluders.

        Returns:
            The batch with ``image`` (3, size, size), normalised by ImageNet's mean and deviation; ``K``, keypoints,
            ``image_size`` and ``box`` are those of the crop.

        Raises:
            ValueError: If there is no raw crop, a key is there that cannot follow (image features and start estimates
                of the unchanged picture) or lacks another one that it needs, or the number of joints is not that of
                ``joint_set``.
        """
        if stuck := [key for key in _OF_THE_PICTURE if key in batch]:
            raise ValueError(f"batch: {', '.join(stuck)} belong to the unchanged picture and cannot follow its turns")
        if "transl" in batch and "joints_smpl24_cam" not in batch:
            raise ValueError("batch: transl turns about the pelvis, so it needs the key joints_smpl24_cam")
        _check(batch, joint_set)
        rows, device = len(batch["image"]), batch["image"].device
        drawn = (torch.rand(rows, 19, generator=generator), torch.randn(rows, 4, generator=generator))
        uniform, normal = torch.cat(drawn, dim=1).to(device).split((19, 4), dim=1)
        views = self._views(uniform[:, :2], normal)
        occluders = None
        if self.occlusion_prob:
            grain = torch.rand(3, self.size, self.size, generator=generator).to(device)
            occluders = _Occluders.from_uniform(uniform[:, 2:13], grain, self.occlusion_prob)
        strength = uniform.new_tensor(3 * [self.color_jitter] + 3 * [self.pixel_noise])
        factors = 1 + strength * (2 * uniform[:, 13:] - 1)
        with torch.autocast(device.type, enabled=False):  # Pixels do not survive half precision.
            out = views.seen(batch, joint_set, self.size)
            image = _recoloured(views.cut(batch["image"], self.size, self.margin), factors)
            if occluders is not None:
                image = occluders.painted(image)
            return self._finished(out, image, views, occluders)

    def evaluate(self, batch: PoseSample, joint_set: JointSet) -> PoseSample:
        """The view of each person's box, without any change: the crop that :func:`posecore.data.crops.crop` makes.

        The camera frame stays, and with it all that :meth:`train` would move there or refuse. ``smpl24_visible``
        becomes False outside the crop.

        Args:
            batch: As for :meth:`train`.
            joint_set: The batch's joints.

        Raises:
            ValueError: If there is no raw crop, a key lacks another one that it needs, or the number of joints is not
                that of ``joint_set``.
        """
        _check(batch, joint_set)
        image = batch["image"]
        views = CropViews.of_boxes(len(image), image.device)
        with torch.autocast(image.device.type, enabled=False):
            return self._finished(views.turned(batch, self.size), views.cut(image, self.size, self.margin), views)

    def _views(self, uniform: Float[Tensor, "batch 2"], normal: Float[Tensor, "batch 4"]) -> CropViews:
        angle = torch.deg2rad(self.rotation_degrees * normal[:, 0].clamp(-2, 2))
        angle = torch.where(uniform[:, 0] < self.rotation_prob, angle, 0.0)
        return CropViews(
            turn=turns(angle),
            scale=1 + (self.scale * normal[:, 1]).clamp(-self.scale, self.scale),
            shift=self.shift * normal[:, 2:].clamp(-2, 2),
            mirrored=uniform[:, 1] < self.flip_prob,
        )

    def _finished(
        self, out: PoseSample, image: Tensor, views: CropViews, occluders: "_Occluders | None" = None
    ) -> PoseSample:
        mean, std = (image.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        out["image"] = image.sub_(mean).div_(std)
        if "smpl24_visible" in out:
            places = 2 / self.size * project(out["joints_smpl24_cam"], out["K"]) - 1
            for seen_by in (places, views.in_raw_crop(places, self.margin)):
                out["smpl24_visible"] = out["smpl24_visible"] & (seen_by.abs() <= 1).all(dim=-1)
            if occluders is not None:
                out["smpl24_visible"] = out["smpl24_visible"] & ~occluders.cover(places)
        return out


@dataclass(frozen=True)
class _Occluders:
    """A rectangle or ellipse in each crop that has one, in coordinates whose -1 and 1 are the crop's edges."""

    present: Bool[Tensor, " batch"]
    is_round: Bool[Tensor, " batch"]
    center: Float[Tensor, "batch 2"]
    half_sides: Float[Tensor, "batch 2"]
    turn: Float[Tensor, "batch 2 2"]
    color: Float[Tensor, "batch 3"]
    roughness: Float[Tensor, " batch"]
    grain: Float[Tensor, "3 size size"]

    @classmethod
    def from_uniform(
        cls, uniform: Float[Tensor, "batch 11"], grain: Float[Tensor, "3 size size"], prob: float
    ) -> "_Occluders":
        """Occluders from numbers in [0, 1); one pattern of grain serves all, in their own colours."""
        present, is_round, angle, roughness = uniform[:, :4].unbind(-1)
        center, sides, color = uniform[:, 4:].split((2, 2, 3), dim=-1)
        low, high = _OCCLUDER_SIDES
        return cls(
            present=present < prob,
            is_round=is_round < 0.5,
            center=2 * center - 1,
            half_sides=low + (high - low) * sides,
            turn=turns(torch.pi * angle),
            color=color,
            roughness=roughness,
            grain=grain,
        )

    def cover(self, places: Float[Tensor, "batch n 2"]) -> Bool[Tensor, "batch n"]:
        """Which places lie behind the occluder."""
        own_axes = self.turn / self.half_sides[:, None]
        x, y = torch.baddbmm(-self.center[:, None] @ own_axes, places, own_axes).unbind(-1)
        distance = torch.where(self.is_round[:, None], x.square() + y.square(), torch.maximum(x.abs(), y.abs()))
        return self.present[:, None] & (distance <= 1)

    def painted(self, image: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch 3 size size"]:
        """The images with their occluders, sRGB in [0, 1]."""
        size = image.shape[-1]
        middles = (2 * torch.arange(size, device=image.device) + 1) / size - 1
        places = torch.stack(torch.meshgrid(middles, middles, indexing="xy"), dim=-1).reshape(1, -1, 2)
        hidden = self.cover(places.expand(len(image), -1, 2)).reshape(-1, 1, size, size)
        paint = torch.addcmul(self.color[..., None, None], self.roughness[:, None, None, None], self.grain - 0.5)
        return torch.where(hidden, paint.clamp_(0, 1), image)


def _check(batch: PoseSample, joint_set: JointSet) -> None:
    image = batch.get("image")
    if image is None or image.dtype != torch.uint8 or image.dim() != 4 or image.shape[1] != 3:
        found = "none" if image is None else f"{image.dtype} of shape {tuple(image.shape)}"
        raise ValueError(f"batch: image must be raw crops, uint8 of shape (rows, 3, S, S) (crop_margin), got {found}")
    if image.shape[2] != image.shape[3]:
        raise ValueError(f"batch: image must be square, got {tuple(image.shape)}")
    if "box" not in batch and (needs := [key for key in _IN_PIXELS if key in batch]):
        raise ValueError(f"batch: {', '.join(needs)} need the key box, where the crop lies in the picture")
    if "smpl24_visible" in batch and (lacks := [key for key in ("joints_smpl24_cam", "K") if key not in batch]):
        raise ValueError(
            f"batch: smpl24_visible needs the keys joints_smpl24_cam and K, but {', '.join(lacks)} is missing"
        )
    for key in _OF_JOINTS:
        if key in batch and (count := cast(dict[str, Tensor], batch)[key].shape[1]) != joint_set.num_joints:
            raise ValueError(f"batch: {joint_set.name} has {joint_set.num_joints} joints, got {count} in {key}")


def _recoloured(
    image: Float[Tensor, "batch 3 size size"], factors: Float[Tensor, "batch 6"]
) -> Float[Tensor, "batch 3 size size"]:
    """Changes brightness, contrast, saturation, red, green and blue by factors, then clips to [0, 1].

    All of it is linear, so it is one matrix and offset for each image.
    """
    brightness, contrast, saturation = factors[:, :3].unbind(-1)
    grey = image.new_tensor(_GREY)
    mean = brightness * (image.mean(dim=(2, 3)) @ grey)
    saturate = saturation[:, None, None] * torch.eye(3, device=image.device)
    saturate = saturate + (1 - saturation)[:, None, None] * grey
    channels = factors[:, 3:, None]
    matrix = channels * (brightness * contrast)[:, None, None] * saturate
    offset = channels * ((1 - contrast) * mean)[:, None, None]
    changed: Tensor = torch.baddbmm(offset, matrix, image.flatten(2)).clamp_(0, 1)
    return changed.view_as(image)
