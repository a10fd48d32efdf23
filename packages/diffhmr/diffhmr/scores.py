"""What is said about many bodies per person: the pick, the mean, the nearest of n, spread and calibration."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from posecore.body.files import BodyModel, Gender, load_body_model
from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import get_joint_set
from posecore.body.smpl import SMPLLayer
from posecore.data.base import PoseDataset
from posecore.data.known_bodies import has_bodies, known_bodies, own_joints
from posecore.data.sample import PoseSample
from posecore.metrics.pose import ProtocolMetric
from posecore.metrics.protocols import Protocol
from posecore.metrics.visibility import SpreadByVisibility

_BODIES_AT_ONCE = 256  # Bounds the memory of the skinned meshes.
_MESH_METRICS = frozenset({"pve", "pa_pve"})


class Scorer(nn.Module):
    """Joints in the protocol's joint set, and vertices where it scores them, of one body model."""

    def __init__(self, protocol: Protocol, model: BodyModel) -> None:
        super().__init__()
        self.joints = NamedJoints(get_joint_set(protocol.joint_set), model)
        self.mesh = SMPLLayer(model, joints=()) if _MESH_METRICS & set(protocol.metrics) else None

    def forward(
        self, betas: Float[Tensor, "people 10"], pose: Float[Tensor, "people n 24 3 3"], with_mesh: bool
    ) -> tuple[Float[Tensor, "people n joints 3"], Float[Tensor, "people n vertices 3"] | None]:
        """At SMPL's own origin, metres."""
        betas = betas[:, None].expand(-1, pose.shape[1], -1).reshape(-1, betas.shape[-1])
        pose, shape = pose.flatten(0, 1), pose.shape[:2]
        joints = self.joints(betas, pose[:, 1:], pose[:, 0]).unflatten(0, shape)
        if not with_mesh or self.mesh is None:
            return joints, None
        parts = zip(betas.split(_BODIES_AT_ONCE), pose.split(_BODIES_AT_ONCE), strict=True)
        return joints, torch.cat([self.mesh(b, p[:, 1:], p[:, 0]).vertices for b, p in parts]).unflatten(0, shape)


class Scores(nn.Module):
    """Metrics of every validation and test set.

    =====================  ============================================================================================
    name                   of
    =====================  ============================================================================================
    ``<metric>``           the pick, which no truth chose
    ``mean_<metric>``      the mean over the hypotheses, joint by joint and vertex by vertex
    ``min<n>_<metric>``    the least value among the first n, each metric on its own (Table 1)
    ``best<n>_<metric>``   the hypothesis of least MPJPE among the first n
    ``spread_visible``     and the like: `posecore.metrics.visibility.SpreadByVisibility`, where the data say what the
                           picture shows
    =====================  ============================================================================================

    Validation has the pick and ``min_<metric>`` of all its hypotheses, without meshes.

    The truth is the person's own body; rows whose pose or shape is not known are left out. A set that knows no body is
    scored by its own joints, without meshes.

    Args:
        protocol: How a pose is scored.
        model: The body of the predictions.
        body_model: SMPL's file or folder, for truth of gendered bodies.
        counts: The n; where there are none, neither ``min<n>`` nor ``best<n>``.
    """

    def __init__(
        self, protocol: Protocol, model: BodyModel, body_model: Path | None, counts: Iterable[int] = (1, 5, 10, 25)
    ) -> None:
        super().__init__()
        self.protocol = protocol
        self.joint_set = get_joint_set(protocol.joint_set)
        self.counts = tuple(counts)
        self.body_model = body_model
        self.scorer = Scorer(protocol, model)
        self.metrics = nn.ModuleDict()
        self._gendered: dict[str, Scorer] = {}
        self._without_bodies: set[str] = set()

    def make(self, val_sets: Mapping[str, PoseDataset], test_sets: Mapping[str, PoseDataset]) -> None:
        """Makes the metrics of these sets."""
        stages = {"val": val_sets, "test": test_sets}
        self._without_bodies = {
            f"{stage}/{name}" for stage, sets in stages.items() for name, data in sets.items() if not has_bodies(data)
        }
        errors = tuple(metric for metric in self.protocol.metrics if metric not in _MESH_METRICS)
        brief = replace(self.protocol, metrics=errors)
        for name in val_sets:
            self.metrics[f"val/{name}/pick"] = ProtocolMetric(replace(brief, hypotheses="first"))
            self.metrics[f"val/{name}/min"] = ProtocolMetric(replace(brief, hypotheses="min"))
        for name in test_sets:
            path = f"test/{name}"
            self.metrics[f"{path}/pick"] = ProtocolMetric(replace(self.protocol, hypotheses="first"))
            self.metrics[f"{path}/mean"] = ProtocolMetric(replace(self.protocol, hypotheses="aggregate"))
            for label, rule in (("min", "min"), ("best", "min_by_mpjpe")) if self.counts else ():
                protocol = replace(self.protocol, hypotheses=rule)  # type: ignore[arg-type]
                self.metrics[f"{path}/{label}"] = ProtocolMetric(protocol, counts=self.counts)
            self.metrics[f"{path}/spread"] = SpreadByVisibility(
                root=self.protocol.root, num_joints=self.joint_set.num_joints
            )

    def update(
        self,
        path: str,
        batch: PoseSample,
        pose_rotmat: Float[Tensor, "people n 24 3 3"],
        betas: Float[Tensor, "people 10"],
        best: Int[Tensor, " people"],
    ) -> Float[Tensor, "people n joints 3"]:
        """Adds a batch to the metrics of ``<stage>/<set>``; returns the joints that were scored."""
        in_full = path.startswith("test/")
        with_mesh = in_full and path not in self._without_bodies
        pred, vertices = self.scorer(betas, pose_rotmat, with_mesh)
        own = path in self._without_bodies
        target, known, true_vertices = (
            (*own_joints(batch, self.joint_set), None) if own else self._truth(batch, with_mesh)
        )
        rows = torch.arange(len(best), device=best.device)
        one = pred[rows, best][:, None], None if vertices is None else vertices[rows, best][:, None]
        self._metric(f"{path}/pick").update(one[0], target, known, one[1], true_vertices)
        for label in ("mean", "min", "best"):
            if f"{path}/{label}" in self.metrics:
                self._metric(f"{path}/{label}").update(pred, target, known, vertices, true_vertices)
        visible = batch.get("smpl24_visible")
        if in_full and visible is not None and self.joint_set.name == "smpl24" and pred.shape[1] > 1:
            cast(SpreadByVisibility, self.metrics[f"{path}/spread"]).update(pred, target, visible, known)
        scored: Tensor = pred
        return scored

    def compute(self, stage: str) -> dict[str, Tensor]:
        """All metrics of a stage by the names they are logged under, and resets them."""
        values = {}
        for path, metric in self.metrics.items():
            if not (path.startswith(f"{stage}/") and metric.update_called):
                continue
            place, _, label = path.rpartition("/")
            for name, value in metric.compute().items():  # type: ignore[operator]
                if label != "spread" or bool(torch.isfinite(value)):  # NaN there says that no such joint was seen
                    values[f"{place}/{_logged(label, name)}"] = value
            metric.reset()  # type: ignore[operator]
        return values

    def _metric(self, path: str) -> ProtocolMetric:
        return cast(ProtocolMetric, self.metrics[path])

    def _truth(self, batch: PoseSample, with_mesh: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Joints of the true bodies, which of them are known, and vertices."""
        pose = torch.cat((batch["global_orient"][:, None], batch["body_pose"]), dim=1)[:, None]
        genders = batch.get("gender") or ["neutral"] * len(pose)
        joints = pose.new_zeros(len(pose), self.joint_set.num_joints, 3)
        vertices = None
        for gender in dict.fromkeys(genders):
            rows = torch.tensor([g == gender for g in genders], device=pose.device)
            found, mesh = self._body(gender, pose.device)(batch["betas"][rows], pose[rows], with_mesh)
            joints[rows] = found[:, 0]
            if mesh is not None:
                vertices = pose.new_zeros(len(pose), *mesh.shape[2:]) if vertices is None else vertices
                vertices[rows] = mesh[:, 0]
        known = known_bodies(batch)
        return joints, None if known is None else known[:, None].expand(-1, joints.shape[1]), vertices

    def _body(self, gender: str, device: torch.device) -> Scorer:
        if gender == "neutral" or self.body_model is None:
            return self.scorer
        if gender not in self._gendered:
            model = load_body_model(self.body_model, cast(Gender, gender))
            self._gendered[gender] = Scorer(self.protocol, model)
        return self._gendered[gender].to(device)


def _logged(label: str, name: str) -> str:
    """``mpjpe`` of the pick, ``min5_mpjpe`` for ``mpjpe_n5`` of min, ``mean_mpjpe`` of mean."""
    if label in ("pick", "spread"):
        return name
    metric, numbered, count = name.rpartition("_n")
    return f"{label}{count}_{metric}" if numbered else f"{label}_{name}"
