"""What is said about the final mesh, the centre it is made of, and the samples."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from hmdiff.mesh import full_joint_regressor
from hmdiff.true_meshes import TrueMeshes
from posecore.body.files import BodyModel
from posecore.body.skeletons import JointSet, get_joint_set
from posecore.data.base import PoseDataset
from posecore.data.known_bodies import has_bodies, known_bodies, own_joints
from posecore.data.sample import PoseSample
from posecore.geometry.precision import full_precision
from posecore.metrics.pose import ProtocolMetric
from posecore.metrics.protocols import Protocol


class ImagesPerSecond(Metric):
    """Images by the seconds that a network took for them; of several processes, by those of the slowest."""

    full_state_update = False
    images: Tensor
    seconds: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("images", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("seconds", torch.zeros(()), dist_reduce_fx="max")

    def update(self, images: int, seconds: float) -> None:
        """Adds a batch."""
        self.images += images
        self.seconds += seconds

    def compute(self) -> Tensor:
        """Over all batches, the first and slowest too."""
        return self.images / self.seconds


class Scores(nn.Module):
    """Metrics of every validation and test set.

    =====================  ============================================================================================
    name                   of
    =====================  ============================================================================================
    ``<metric>``           the final mesh h_m
    ``centre_<metric>``    the mean of the samples, before the final MLP (test only)
    ``min_<metric>``       the least value among the samples' joints, which the truth chooses (test only, not of meshes)
    ``prior_mpjpe``        the mean pose of U, by the coarse mesh's regressor, as it is trained
    ``spread``             mean distance of the samples' joints to their mean, mm (test only)
    ``images_per_second``  speed from the crop to the final mesh, without reading and scoring (test only, Table 6)
    =====================  ============================================================================================

    Joints of a prediction are regressed from its full mesh. Those of the truth are regressed from the true mesh
    likewise, but for ``smpl24`` the true body's own kinematic joints are taken, as for every method that is scored by
    these. A set that knows no body, such as SPIN's Human3.6M, is scored by its own joints, without meshes.

    Args:
        protocol: How a mesh is scored.
        truth: Gives true meshes.
        upsample: Makes full meshes of coarse ones.
        model: The body of the predictions.
    """

    def __init__(
        self, protocol: Protocol, truth: TrueMeshes, upsample: Callable[[Tensor], Tensor], model: BodyModel
    ) -> None:
        super().__init__()
        self.protocol = protocol
        self.joint_set: JointSet = get_joint_set(protocol.joint_set)
        # A reference, not a part: the module has it already.
        self._truth = [truth]
        self.upsample = upsample
        self.register_buffer("full_regressor", full_joint_regressor(model, self.joint_set), persistent=False)
        self.metrics = nn.ModuleDict()
        self._without_bodies: set[str] = set()

    def make(self, val_sets: Mapping[str, PoseDataset], test_sets: Mapping[str, PoseDataset]) -> None:
        """Makes the metrics of these sets."""
        stages = {"val": val_sets, "test": test_sets}
        self._without_bodies = {
            f"{stage}/{name}" for stage, sets in stages.items() for name, data in sets.items() if not has_bodies(data)
        }
        of_joints = tuple(m for m in self.protocol.metrics if m in ("mpjpe", "pa_mpjpe", "n_mpjpe"))
        one = replace(self.protocol, hypotheses="first")
        for path in (f"{stage}/{name}" for stage, sets in stages.items() for name in sets):
            self.metrics[f"{path}/prior_mpjpe"] = MeanMetric()
        for name in val_sets:
            self.metrics[f"val/{name}/final"] = ProtocolMetric(one)
        for name in test_sets:
            self.metrics[f"test/{name}/final"] = ProtocolMetric(one)
            self.metrics[f"test/{name}/centre"] = ProtocolMetric(one)
            self.metrics[f"test/{name}/spread"] = MeanMetric()
            self.metrics[f"test/{name}/images_per_second"] = ImagesPerSecond()
            self.metrics[f"test/{name}/min"] = ProtocolMetric(
                replace(self.protocol, hypotheses="min", metrics=of_joints)
            )

    def update(
        self,
        path: str,
        batch: PoseSample,
        final: Float[Tensor, "rows vertices 3"],
        samples: Float[Tensor, "rows n vertices 3"],
    ) -> tuple[Float[Tensor, "rows 1 joints 3"], Float[Tensor, "rows n joints 3"] | None]:
        """Adds a batch of coarse meshes to the metrics of ``<stage>/<set>``.

        Returns:
            Joints of the final mesh, and of every sample where these were scored.
        """
        true_joints, mask, vertices = self._true(path, batch)
        found: dict[str, Tensor] = {"final": final[:, None]}
        if path.startswith("test/"):
            found |= {"centre": samples.mean(dim=1, keepdim=True)}
        pred = true_joints
        for label, coarse in reversed(found.items()):
            full = self.upsample(coarse)
            pred = self._joints(full)
            self._metric(f"{path}/{label}").update(
                pred, true_joints, mask, None if vertices is None else full, vertices
            )
        each = None
        if path.startswith("test/") and samples.shape[1] > 1:
            # One sample after the other: 25 full meshes of each person at once are too many.
            each = torch.stack([self._joints(self.upsample(one)) for one in samples.unbind(1)], dim=1)
            self._metric(f"{path}/min").update(each, true_joints, mask)
            each = each - each[:, :, list(self.protocol.root)].mean(dim=2, keepdim=True)
            distance = (each - each.mean(dim=1, keepdim=True)).norm(dim=-1).mean(dim=(1, 2))
            cast(MeanMetric, self.metrics[f"{path}/spread"]).update(1000 * distance)
        return pred, each

    @contextmanager
    def timed(self, path: str, images: Tensor) -> Iterator[None]:
        """Adds the seconds of what is done inside to a test set's ``images_per_second``."""
        start = _now(images.device)
        yield
        if f"{path}/images_per_second" in self.metrics:
            cast(ImagesPerSecond, self.metrics[f"{path}/images_per_second"]).update(
                len(images), _now(images.device) - start
            )

    def update_prior(self, path: str, batch: PoseSample, pose: Float[Tensor, "rows joints 3"]) -> None:
        """Adds the mean poses of U, metres relative to the root, to a set's ``prior_mpjpe`` where bodies are known."""
        if path in self._without_bodies:
            return
        truth = self._truth[0]
        true = truth.mesh.joints(truth.coarse_of_level(truth.level_vertices(batch)))
        error = 1000 * (pose - true + true[:, :1]).norm(dim=-1).mean(dim=-1)
        known = known_bodies(batch)
        weight = torch.ones_like(error) if known is None else known.to(error)
        cast(MeanMetric, self.metrics[f"{path}/prior_mpjpe"]).update(torch.where(weight > 0, error, 0.0), weight)

    def compute(self, stage: str) -> dict[str, Tensor]:
        """All metrics of a stage by the names they are logged under, and resets them."""
        values = {}
        for path, metric in self.metrics.items():
            if not (path.startswith(f"{stage}/") and metric.update_called):
                continue
            place, _, label = path.rpartition("/")
            found = metric.compute()  # type: ignore[operator]
            if isinstance(found, Tensor):  # spread, prior_mpjpe, images_per_second
                values[path] = found
            else:
                named = {name if label == "final" else f"{label}_{name}": value for name, value in found.items()}
                values |= {f"{place}/{name}": value for name, value in named.items()}
            metric.reset()  # type: ignore[operator]
        return values

    def _true(self, path: str, batch: PoseSample) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Joints, which of them are known, and meshes."""
        if path in self._without_bodies:
            return *own_joints(batch, self.joint_set), None
        vertices, joints = self._truth[0].full(batch)
        if joints is None or self.joint_set.name != "smpl24":
            joints = self._joints(vertices)
        known = known_bodies(batch)
        return joints, None if known is None else known[:, None].expand(joints.shape[:2]), vertices

    @full_precision  # a score to 3 digits would be one to millimetres
    def _joints(self, vertices: Float[Tensor, "*batch full_vertices 3"]) -> Float[Tensor, "*batch joints 3"]:
        joints: Tensor = cast(Tensor, self.full_regressor).to(vertices) @ vertices
        return joints

    def _metric(self, path: str) -> ProtocolMetric:
        return cast(ProtocolMetric, self.metrics[path])


def _now(device: torch.device) -> float:
    """Seconds of a clock, after all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
