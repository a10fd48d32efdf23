"""The core: body layer against smplx, alignment against three other ways, reading of data."""

import contextlib
import dataclasses
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import roma
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.device import place
from benchmarks.timing import OURS, Case, Variant
from posecore.body.files import BodyModel, load_body_model
from posecore.body.skeletons import BODY_25, SMPL_24
from posecore.body.smpl import SMPLLayer
from posecore.data.base import PoseTable
from posecore.data.cmu_mocap import load_cmu_motions
from posecore.data.crops import PersonCrops
from posecore.data.sample import take
from posecore.data.shard_writer import write_shards
from posecore.data.shards import Shards
from posecore.data.synthetic import SyntheticMotion
from posecore.geometry.alignment import align
from posecore.geometry.rotation import random_rotmat

_Inputs = tuple[Tensor, Tensor, Tensor]  # betas, body_pose, global_orient
_Reduce = Callable[[Tensor, Tensor], Tensor]  # of vertices and kinematic joints, to what is wanted


def smpl_cases(quick: bool) -> Iterator[Case]:
    """The open body, forward and with gradients, whole or only the joints that are wanted; smplx has one way for all.

    ``44 joints`` stands for the sets of the fitting methods: 24 kinematic joints, 11 landmarks on the mesh and 9
    regressed from it. ``25 joints`` are OpenPose's. The open body has no pose blend shapes and our layer saves their
    product; the last rows give it random ones, so that it works as hard as for SMPL.
    """
    body = load_body_model()
    assert body.J_regressor_h36m is not None
    kinematic, landmarks = _body_25(body)
    picked, regressed = body.landmark_regressor(landmarks), body.J_regressor_h36m[:9]
    picks = picked.argmax(dim=-1).tolist()
    placed = place(regressed)
    whole, generator = SMPLLayer(body), torch.Generator().manual_seed(0)
    correctives = torch.randn(body.posedirs.shape, generator=generator) * 1e-3
    corrected = dataclasses.replace(body, posedirs=correctives)
    all_joints = list(range(24))
    # What is made, our layer for it, and what smplx's output has to be reduced by.
    parts: list[tuple[str, BodyModel, SMPLLayer, _Reduce]] = [
        ("mesh", body, SMPLLayer(body, joints=()), lambda vertices, _: vertices),
        ("24 joints", body, whole.subset(all_joints), lambda _, joints: joints[:, :24]),
        (
            "44 joints",
            body,
            whole.subset(all_joints, regressor=torch.cat([picked, regressed])),
            lambda vertices, joints: torch.cat([joints[:, :24], vertices[:, picks], placed @ vertices], dim=1),
        ),
        (
            "25 joints",
            body,
            whole.subset(kinematic, regressor=picked),
            lambda vertices, joints: torch.cat([joints[:, kinematic], vertices[:, picks]], dim=1),
        ),
        ("mesh with pose blend shapes", corrected, SMPLLayer(corrected, joints=()), lambda vertices, _: vertices),
    ]
    for name, model, layer, reduce in parts:
        reference, note = _smplx_layer(model)
        theirs = None if reference is None else _smplx_part(reference, reduce)
        for batch in (1, 4) if quick else (1, 32, 128):
            rotmat = place(random_rotmat((batch, 24), generator))
            inputs = (place(torch.randn(batch, 10, generator=generator)), rotmat[:, 1:], rotmat[:, 0])
            for gradients in (False, True):
                do = _with_gradients if gradients else _forward
                variants = {
                    OURS: Variant(do(_our_part(place(layer)), inputs)),
                    "smplx": Variant(None if theirs is None else do(theirs, inputs), note=note),
                }
                what = "forward+backward" if gradients else "forward"
                yield Case("smpl", f"{name}, {what}, B={batch}", variants, "relative" if gradients else "m")


def _body_25(body: BodyModel) -> tuple[list[int], list[str]]:
    """OpenPose's 25 joints on a body of SMPL's kind: kinematic joints, and landmarks by name."""
    names = ["pelvis" if name == "mid_hip" else name for name in BODY_25.joint_names]
    landmarks = [name for name in names if name in body.landmark_names]
    return [SMPL_24.index(name) for name in names if name not in landmarks], landmarks


def _our_part(layer: SMPLLayer) -> Callable[[_Inputs], Tensor]:
    def part(inputs: _Inputs) -> Tensor:
        output = layer(*inputs)
        made: Tensor = output.joints if output.joints.shape[-2] else output.vertices
        return made

    return part


def _smplx_layer(body: BodyModel) -> tuple[Any | None, str]:
    """The reference layer of the same body; None and why where smplx is not installed."""
    try:
        import smplx
    except ImportError as error:
        return None, f"not run: {error}"
    tables = {
        "v_template": body.v_template.numpy(),
        "shapedirs": body.shapedirs.numpy(),
        "posedirs": body.posedirs.numpy(),
        "J_regressor": body.J_regressor.numpy(),
        "kintree_table": np.stack([body.parents.numpy(), np.arange(len(body.parents))]),
        "weights": body.lbs_weights.numpy(),
        "f": body.faces.numpy(),
    }
    with contextlib.redirect_stdout(io.StringIO()):  # it warns of 10 shape components, which are all there are
        return place(smplx.SMPLLayer("", data_struct=smplx.utils.Struct(**tables), num_betas=10)), ""


def _smplx_part(layer: Any, reduce: _Reduce) -> Callable[[_Inputs], Tensor]:
    def part(inputs: _Inputs) -> Tensor:
        betas, body_pose, global_orient = inputs
        output = layer(betas=betas, body_pose=body_pose, global_orient=global_orient[:, None], pose2rot=False)
        return reduce(output.vertices, output.joints)

    return part


def _forward(part: Callable[[_Inputs], Tensor], inputs: _Inputs) -> Callable[[], Tensor]:
    def run() -> Tensor:
        with torch.no_grad():
            return part(inputs)

    return run


def _with_gradients(part: Callable[[_Inputs], Tensor], inputs: _Inputs) -> Callable[[], Tensor]:
    def run() -> Tensor:
        betas, body_pose, global_orient = (x.clone().requires_grad_() for x in inputs)
        loss = part((betas, body_pose, global_orient)).square().sum()
        gradients = torch.autograd.grad(loss, (betas, body_pose, global_orient))
        return torch.cat([gradient.flatten(1) for gradient in gradients], dim=1)

    return run


def alignment_cases(quick: bool) -> Iterator[Case]:
    """Similarity alignment of many poses at once."""
    poses, looped = (2000, 200) if quick else (100_000, 2000)
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(poses, 17, 3, generator=generator)
    target = source @ random_rotmat((poses,), generator) + 0.1 * torch.randn(source.shape, generator=generator)
    some = source[:looped].numpy(), target[:looped].numpy()
    source, target = place(source), place(target)

    def loop() -> Tensor:
        return place(torch.from_numpy(np.stack([_numpy_align(s, t) for s, t in zip(*some, strict=True)])))

    variants = {
        OURS: Variant(lambda: align(source, target)),
        "torch SVD": Variant(lambda: _align_by(_svd_rotation, source, target)),
        "roma": Variant(lambda: _align_by(roma.special_procrustes, source, target)),
        "numpy loop": Variant(loop, poses / looped, f"extrapolated from {looped} of {poses} poses"),
    }
    yield Case("alignment", f"Procrustes of {poses} poses of 17 joints", variants)


def _align_by(
    nearest_rotation: Callable[[Tensor], Tensor],
    source: Float[Tensor, "poses joints 3"],
    target: Float[Tensor, "poses joints 3"],
) -> Float[Tensor, "poses joints 3"]:
    source_mean, target_mean = source.mean(1, keepdim=True), target.mean(1, keepdim=True)
    source, target = source - source_mean, target - target_mean
    covariance = target.mT @ source
    rotation = nearest_rotation(covariance)
    scale = (rotation * covariance).sum((-1, -2)) / source.square().sum((-1, -2))
    aligned: Tensor = scale[:, None, None] * source @ rotation.mT + target_mean
    return aligned


def _svd_rotation(covariance: Float[Tensor, "poses 3 3"]) -> Float[Tensor, "poses 3 3"]:
    U, _, Vh = torch.linalg.svd(covariance)
    signs = torch.ones_like(covariance[:, 0])
    signs[:, 2] = torch.linalg.det(U @ Vh).sign()
    rotation: Tensor = (U * signs[:, None]) @ Vh
    return rotation


def _numpy_align(source: Float[np.ndarray, "joints 3"], target: Float[np.ndarray, "joints 3"]) -> np.ndarray:
    source_mean, target_mean = source.mean(0), target.mean(0)
    source, target = source - source_mean, target - target_mean
    U, sizes, Vh = np.linalg.svd(target.T @ source)
    if np.linalg.det(U @ Vh) < 0:
        U[:, 2] *= -1
        sizes[2] *= -1
    aligned: np.ndarray = sizes.sum() / (source**2).sum() * source @ (U @ Vh).T + target_mean
    return aligned


def data_cases(quick: bool) -> Iterator[Case]:
    """One pass over a data set in batches of 256, and loading of motion capture where HUMANDIFF_DATA names some."""
    dataset = SyntheticMotion(num_clips=2 if quick else 70)

    class RowByRow(Dataset[Any]):
        def __len__(self) -> int:
            return len(dataset)

        def __getitem__(self, index: int) -> Any:
            return dataset[index]

    def read(source: Dataset[Any], **options: Any) -> Tensor:
        return torch.cat([batch["joints_cam"] for batch in DataLoader(source, batch_size=256, **options)])

    variants = {
        OURS: Variant(lambda: read(dataset, collate_fn=lambda batch: batch)),
        "row by row": Variant(lambda: read(RowByRow()), note="__getitem__ and PyTorch's collation"),
    }
    yield Case("data", f"{len(dataset)} samples in batches of 256", variants)

    root, split = os.environ.get("HUMANDIFF_DATA"), "test_takes" if quick else "train"

    def load() -> Tensor:
        assert root is not None
        return torch.cat([motion.joints_world for motion in load_cmu_motions(Path(root), split)])

    cmu = Variant(load) if root else Variant(None, note="not run: HUMANDIFF_DATA is not set")
    yield Case("data", f"CMU motion capture, load split {split}", {OURS: cmu})
    yield from _shard_cases(quick)


def _shard_cases(quick: bool) -> Iterator[Case]:
    """Rows in random batches of 64 from shards, and from what these are made of: photographs, and labels in memory.

    A person fills half of a photograph of 1000 x 1000 pixels, as large as Human3.6M's; crops are of 224 px with a
    margin of 1.5. Pictures are read in this process.
    """
    rows, side, size = (64, 120, 24) if quick else (512, 1000, 224)
    generator, motion = torch.Generator().manual_seed(0), SyntheticMotion(num_clips=2)
    labels = take(motion.samples, torch.arange(rows) % len(motion))
    batches = torch.randperm(rows, generator=generator).split(64)

    def read(table: PoseTable) -> Tensor:
        return torch.cat([table.__getitems__(batch.tolist())["joints_cam"] for batch in batches])

    with tempfile.TemporaryDirectory() as name:
        paths = [Path(name) / f"{row}.jpg" for row in range(rows)]
        for path in paths:
            _photograph(side, generator).save(path, quality=90)
        crops = PersonCrops(paths, torch.full((rows, 2), side / 2), torch.full((rows,), side / 2), size, 1.5)
        for what, source in (
            ("with pictures", PoseTable(motion.joint_set, labels, crops)),
            ("of labels alone", PoseTable(motion.joint_set, labels)),
        ):
            write_shards(source, Path(name) / what, {})
            variants = {
                OURS: Variant(partial(read, Shards(Path(name), what)), note="from shards"),
                "source": Variant(partial(read, source), note="from photographs" if source.images else "from memory"),
            }
            yield Case("data", f"{rows} rows {what}, batches of 64", variants)


def _photograph(side: int, generator: torch.Generator) -> Image.Image:
    """Smooth colours with some noise, which JPEG compresses about as much as a real one."""
    colours = F.interpolate(torch.rand(1, 3, 12, 12, generator=generator), (side, side), mode="bilinear")[0]
    pixels = (colours + 0.03 * torch.randn(colours.shape, generator=generator)).clamp(0, 1) * 255
    return Image.fromarray(pixels.byte().permute(1, 2, 0).contiguous().numpy())
