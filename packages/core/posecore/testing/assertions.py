"""For tests and tools only: what every dataset promises, asserted."""

import numpy as np
import torch
from torch import Tensor

from posecore.data.base import PoseDataset
from posecore.data.sample import SAMPLE_KEYS
from posecore.geometry.camera import project, world_to_cam


def assert_pose_dataset(dataset: PoseDataset, rows: int = 8) -> None:
    """Checks what every `PoseDataset` promises: keys, shapes, units, batches, and that K projects joints to the 2D.

    Args:
        dataset: any pose dataset with at least one row.
        rows: how many rows, spread over the dataset, are looked at.

    Raises:
        AssertionError: if a promise is broken.
    """
    indices = np.linspace(0, len(dataset) - 1, min(rows, len(dataset))).round().astype(int).tolist()
    batch = dataset.__getitems__(indices)
    n, joints = len(indices), dataset.joint_set.num_joints
    assert not set(batch) - set(SAMPLE_KEYS), f"unknown keys {set(batch) - set(SAMPLE_KEYS)}"
    shapes: dict[str, tuple[int, ...] | None] = {
        "joints_cam": (n, joints, 3), "joints_rel": (n, joints, 3), "joints_2d_px": (n, joints, 2),
        "confidence": (n, joints), "joints_2d_true_px": (n, joints, 2), "K": (n, 3, 3), "image_size": (n, 2),
        "R_world_to_cam": (n, 3, 3), "t_world_to_cam": (n, 3), "global_orient": (n, 3, 3),
        "body_pose": (n, 23, 3, 3), "betas": (n, 10), "transl": (n, 3), "frame": (n,), "view": (n,), "fps": (n,),
        "joints_smpl24_cam": (n, 24, 3), "joints_known": (n, joints), "has_pose": (n,), "has_betas": (n,),
        "start_global_orient": (n, 3, 3), "start_body_pose": (n, 23, 3, 3), "start_betas": (n, 10),
        "start_transl": (n, 3), "box": (n, 3), "smpl24_visible": (n, 24), "vertices_cam": None, "image": None,
        "features": None,
    }  # fmt: skip
    values: dict[str, Tensor] = {key: value for key, value in batch.items() if isinstance(value, Tensor)}
    for key, value in values.items():
        shape = shapes[key] or (n, *value.shape[1:])
        assert value.shape == shape, f"{key}: {tuple(value.shape)}, expected {shape}"
        assert bool(torch.isfinite(value).all()), f"{key}: not finite"
    for position, index in enumerate(indices):
        single = dataset[index]
        assert set(single) == set(batch)
        for key, value in values.items():
            assert torch.equal(single[key], value[position]), f"{key}: batch and single row differ"  # type: ignore[literal-required]
    if "joints_rel" in batch:
        root = batch["joints_rel"][:, list(dataset.joint_set.root)].mean(dim=1)
        torch.testing.assert_close(root, torch.zeros_like(root), atol=1e-5, rtol=0)
        reach = batch["joints_rel"].norm(dim=-1)
        assert 0.3 < float(reach.amax()) < 1.6, f"joints_rel: reach {float(reach.amax()):.2f} is not in metres"
    if {"joints_cam", "K", "joints_2d_true_px"} <= set(batch):
        assert float(batch["joints_cam"][..., 2].min()) > 0, "joints_cam: a joint lies behind the camera"
        torch.testing.assert_close(project(batch["joints_cam"], batch["K"]), batch["joints_2d_true_px"])
    if "confidence" in batch:
        assert 0 <= float(batch["confidence"].min()) <= float(batch["confidence"].max()) <= 1
    for key in {"R_world_to_cam", "global_orient", "body_pose"} & set(batch):
        eye = torch.eye(3).expand_as(values[key])
        torch.testing.assert_close(values[key] @ values[key].transpose(-1, -2), eye, atol=1e-4, rtol=0)
    if {"R_world_to_cam", "t_world_to_cam", "joints_cam"} <= set(batch):
        origin = world_to_cam(torch.zeros(n, 1, 3), batch["R_world_to_cam"], batch["t_world_to_cam"])
        torch.testing.assert_close(origin[:, 0], batch["t_world_to_cam"])
