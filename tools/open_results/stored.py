"""What finished runs found, and the errors of it by `posecore.metrics`."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from posecore.body.smpl import SMPLLayer
from posecore.geometry.hypotheses import medoid, pick
from posecore.metrics import functional
from posecore.metrics.protocols import Protocol, evaluate, get_protocol

SETS = ("test_subjects", "test_takes")
_SMOOTHED_OVER = 5  # frames

Poses = Float[Tensor, "rows n joints 3"]


@dataclass(frozen=True)
class Table:
    """The rows of one test set of one run: its arrays as tensors, its labels as lists."""

    columns: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.columns[name]

    @property
    def known(self) -> Tensor | None:
        """Which joints of the truth are known; None where all are."""
        return self.columns.get("known")

    def __len__(self) -> int:
        return len(self.columns["pose"])

    @property
    def hypotheses(self) -> Poses:
        """What was sampled."""
        found: Tensor = self.columns.get("samples_rel", self.columns["joints_rel"])
        return found

    @property
    def seconds_per_row(self) -> float:
        """Of the method's ``forward``."""
        return float(self.columns["seconds"].sum()) / len(self)

    def every(self, step: int) -> "Table":
        """Every so manieth row."""
        kept = {
            name: values if name == "seconds" else values[::step]  # lists and tensors alike
            for name, values in self.columns.items()
        }
        return Table(kept)

    def clips(self) -> list[Tensor]:
        """Rows of each video, in the order of time."""
        names = list(zip(self["clip"], self["view"].tolist(), strict=True))
        return [torch.tensor([i for i, name in enumerate(names) if name == one]) for one in dict.fromkeys(names)]


@dataclass(frozen=True)
class Stored:
    """A finished run.

    Attributes:
        folder: Where it is.
        about: Its ``run.json``.
    """

    folder: Path
    about: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "Stored":
        """The run in a folder; arrays are read when they are asked for.

        Raises:
            OSError: It is not there.
        """
        return cls(folder, json.loads((folder / "run.json").read_text(encoding="utf-8")))

    @property
    def protocol(self) -> Protocol:
        """How the method scores it."""
        return get_protocol(self.about["protocol_name"])

    @cached_property
    def tables(self) -> dict[str, Table]:
        """The rows of every test set."""
        return {name: _read(self.folder / f"{name}.npz") for name in SETS}

    def metric(self, test_set: str, name: str) -> float | None:
        """What the method's own `test` logged."""
        found: float | None = self.about["metrics"].get(f"test/{test_set}/{name}")
        return found


def _read(path: Path) -> Table:
    with np.load(path, allow_pickle=False) as content:
        columns: dict[str, Any] = {}
        for name in content.files:
            values = content[name]
            columns[name] = values.tolist() if values.dtype.kind == "U" else torch.from_numpy(values)
    return Table(columns)


def answer(table: Table) -> Poses:
    """The one pose that the method gives, which no truth chose."""
    return table["pose"][:, None]


def first(table: Table) -> Poses:
    """The first hypothesis."""
    return table.hypotheses[:, :1]


def start(table: Table) -> Poses:
    """Of ScoreHMR: what the fit begins with."""
    return table["joints_rel"][:, :1]


def mean_of(count: int | None = None) -> Callable[[Table], Poses]:
    """The mean of the first so many hypotheses."""
    return lambda table: table.hypotheses[:, :count].mean(dim=1, keepdim=True)


def medoid_of(count: int | None = None) -> Callable[[Table], Poses]:
    """The one of the first so many hypotheses that is nearest to the others."""

    def chosen(table: Table) -> Poses:
        few = table.hypotheses[:, :count]
        return pick(few, medoid(few))[:, None]

    return chosen


def best_of(count: int | None = None) -> Callable[[Table], Poses]:
    """The first so many hypotheses, of which the truth chooses the best for each metric."""
    return lambda table: table.hypotheses[:, :count]


def nearest(table: Table) -> Poses:
    """The hypothesis whose projection is nearest to the keypoints."""
    return pick(table.hypotheses, table["reprojection_px"].argmin(dim=1))[:, None]


def facing(table: Table) -> Poses:
    """A body at rest, of mean shape, upright and facing the camera, whatever is to be seen."""
    turned = torch.diag(torch.tensor([1.0, -1.0, -1.0])).expand(1, 3, 3)  # the camera's y points down, its z away
    joints = SMPLLayer()(torch.zeros(1, 10), torch.eye(3).expand(1, 23, 3, 3), turned).joints[:, None]
    return joints.expand(len(table), -1, -1, -1)


def smoothed_start(table: Table) -> Poses:
    """The start as a moving average over the frames of each video."""
    poses = start(table).clone()
    for rows in table.clips():
        clip = table["joints_rel"][rows, 0]
        padded = torch.cat(
            (clip[:1].expand(_SMOOTHED_OVER // 2, -1, -1), clip, clip[-1:].expand(_SMOOTHED_OVER // 2, -1, -1))
        )
        poses[rows, 0] = padded.unfold(0, _SMOOTHED_OVER, 1).mean(dim=-1)
    return poses


def mean_start_of_views(table: Table) -> Poses:
    """The mean of the starts of all views of an instant, turned by the known cameras."""
    R, joints = table["R_world_to_cam"], table["joints_rel"][:, 0]
    world = joints @ R  # the inverse of R @ joint
    poses = torch.empty_like(joints)
    instants = list(zip(table["clip"], table["frame"].tolist(), strict=True))
    for instant in dict.fromkeys(instants):
        rows = torch.tensor([i for i, other in enumerate(instants) if other == instant])
        poses[rows] = world[rows].mean(dim=0) @ R[rows].mT
    return poses[:, None]


def errors(table: Table, protocol: Protocol, rule: Callable[[Table], Poses]) -> dict[str, Float[Tensor, " _"]]:
    """One value per row (of acceleration, per inner frame) and metric of the protocol, mm; meshes are left out.

    Args:
        table: The rows.
        protocol: How; of several poses for a row, the best of each metric counts.
        rule: What is scored.
    """
    pred, target, known = rule(table).float(), table["target"].float(), table.known
    used = replace(protocol, hypotheses="min", metrics=tuple(m for m in protocol.metrics if m not in ("pve", "pa_pve")))
    if "acceleration" not in used.metrics:
        return evaluate(used, pred, target, known)
    parts = [evaluate(used, pred[rows], target[rows], None if known is None else known[rows]) for rows in table.clips()]
    return {metric: torch.cat([part[metric] for part in parts]) for metric in used.metrics}


def joint_errors(table: Table, protocol: Protocol, rule: Callable[[Table], Poses]) -> Float[Tensor, "rows joints"]:
    """Distance of each joint after root alignment, mm, of a rule that gives one pose."""
    return functional.joint_errors(rule(table)[:, 0].float(), table["target"].float(), protocol.root)
