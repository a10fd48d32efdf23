"""Evaluation protocols by name: what exactly a printed number is the number of.

Every paper scores other joints, another root, another alignment and another rule over hypotheses. Numbers of different
protocols must not be compared; each number this project prints names its protocol.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from posecore.body.skeletons import get_joint_set
from posecore.geometry.alignment import align
from posecore.metrics import functional

MetricName = Literal["mpjpe", "pa_mpjpe", "n_mpjpe", "pck", "auc", "acceleration", "pve", "pa_pve", "f5", "f15"]
UNITS: dict[str, str] = {
    **dict.fromkeys(("mpjpe", "pa_mpjpe", "n_mpjpe", "pve", "pa_pve"), "mm"),
    "acceleration": "mm/frame^2",
    **dict.fromkeys(("pck", "auc", "f5", "f15"), "share"),
}
"""Unit of each metric; a share is 0..1 and the only kind where more is better."""
AVERAGED_OVER = {"frame": "frames", "action": "actions", "subject_action": "pairs of subject and action"}
"""What each value of ``Protocol.averaging`` takes the mean over."""
_CHOSEN_BY = {"min": "mpjpe", "min_by_mpjpe": "mpjpe", "min_by_pa_mpjpe": "pa_mpjpe"}
_RULE_NOTES = {
    "min": " per metric",
    "min_by_mpjpe": ", every metric of the hypothesis of least MPJPE",
    "min_by_pa_mpjpe": ", every metric of the hypothesis of least PA-MPJPE",
}


@dataclass(frozen=True)
class Protocol:
    """One way to score predictions.

    Attributes:
        name: Key in ``PROTOCOLS``.
        joint_set: Joint set of predictions and truth as they are handed in.
        metrics: What is computed.
        joints: Joints of ``joint_set`` that are scored and aligned; all where None.
        root: Joints of ``joint_set`` whose mean is subtracted for every metric without Procrustes alignment, from
            vertices too.
        center_prediction: Whether the prediction's own root is subtracted from it too. Where not, predictions must come
            relative to the root, and their error at the root counts.
        reflection: Whether Procrustes alignment may mirror a pose.
        hypotheses: ``min``: the least value of each metric on its own (PCK, AUC and F: of the hypothesis of least
            MPJPE), so two metrics may be of two hypotheses; ``min_by_mpjpe``, ``min_by_pa_mpjpe``: every metric of the
            one hypothesis of least MPJPE or PA-MPJPE; ``mean``: mean value; ``first``: of the first one;
            ``aggregate``: value of the mean pose (and mean mesh).
        averaging: ``frame``: mean over poses; ``action``: mean over the actions' means; ``subject_action``: mean over
            the means of each action of each subject.
        stride: One frame in so many of the test set is scored.
        regressor: How joints are had from a mesh, where that is what is scored.
        reference: Where the options are from.

    Raises:
        ValueError: If a joint or root index is outside the joint set.
    """

    name: str
    joint_set: str
    metrics: tuple[MetricName, ...]
    joints: tuple[int, ...] | None = None
    root: tuple[int, ...] = (0,)
    center_prediction: bool = True
    reflection: bool = False
    hypotheses: Literal["min", "min_by_mpjpe", "min_by_pa_mpjpe", "mean", "first", "aggregate"] = "first"
    averaging: Literal["frame", "action", "subject_action"] = "frame"
    stride: int = 1
    regressor: str | None = None
    reference: str = ""

    def __post_init__(self) -> None:
        count = get_joint_set(self.joint_set).num_joints
        for what, joints in (("joints", self.joints), ("root", self.root)):
            if joints is not None and not (joints and all(0 <= joint < count for joint in joints)):
                raise ValueError(f"{what} of protocol {self.name!r} must lie in 0..{count - 1}, got {joints}")

    @property
    def _centered(self) -> str:
        return "prediction and truth" if self.center_prediction else "the truth only, prediction not re-centred"

    @property
    def num_joints(self) -> int:
        """How many joints are scored."""
        return get_joint_set(self.joint_set).num_joints if self.joints is None else len(self.joints)

    @property
    def scored_joints(self) -> tuple[int, ...]:
        """Their indices in the joint set."""
        return tuple(range(self.num_joints)) if self.joints is None else self.joints

    @property
    def group_keys(self) -> tuple[str, ...]:
        """Labels of a sample that make the groups whose means are averaged; none where poses are."""
        return () if self.averaging == "frame" else tuple(self.averaging.split("_"))

    def is_scored(self, mask: Bool[Tensor, "*batch joints"]) -> Bool[Tensor, "*batch"]:
        """Which poses have a value: the root is known, and at least one scored joint is."""
        return mask[..., list(self.root)].all(dim=-1) & mask[..., list(self.scored_joints)].any(dim=-1)

    def describe(self) -> str:
        """All options in one line, to be printed next to the numbers."""
        names = get_joint_set(self.joint_set).joint_names
        parts = [
            f"{self.name}: {', '.join(f'{metric} [{UNITS[metric]}]' for metric in self.metrics)}",
            f"{self.num_joints} joints of {self.joint_set}",
            f"root {'+'.join(names[joint] for joint in self.root)} of {self._centered}",
            f"PA {'with' if self.reflection else 'without'} reflection",
            f"hypotheses: {self.hypotheses}{_RULE_NOTES.get(self.hypotheses, '')}",
            f"mean over {AVERAGED_OVER[self.averaging]}",
            "every frame" if self.stride == 1 else f"one frame in {self.stride}",
        ]
        if self.regressor:
            parts.append(f"joints by {self.regressor}")
        return "; ".join(parts)


def evaluate(
    protocol: Protocol,
    pred: Float[Tensor, "batch hypotheses joints 3"],
    target: Float[Tensor, "batch joints 3"],
    mask: Bool[Tensor, "batch joints"] | None = None,
    pred_vertices: Float[Tensor, "batch hypotheses vertices 3"] | None = None,
    target_vertices: Float[Tensor, "batch vertices 3"] | None = None,
) -> dict[str, Float[Tensor, " _"]]:
    """Scores a batch; one value per pose and metric, to be averaged as ``protocol.averaging`` says.

    Args:
        protocol: How. Its ``stride`` and ``averaging`` are the caller's to apply (``ProtocolMetric`` averages).
        pred: Joints of ``protocol.joint_set``, m; relative to the root where the protocol does not centre them.
        target: Truth, m.
        mask: Joints whose truth is known.
        pred_vertices: Meshes, m, in the frame of ``pred``; mesh metrics are left out where there are none.
        target_vertices: True meshes, in the frame of ``target``.

    Returns:
        A tensor of length ``batch`` per metric; of length ``batch - 2`` for ``acceleration``, which takes the batch as
        one clip in the order of time and is computed after root alignment. NaN for poses that ``protocol.is_scored``
        leaves out. Units as in ``UNITS``.

    Raises:
        ValueError: If the number of joints is not that of the protocol's joint set, only one of the meshes is given,
            there are no hypotheses, or ``acceleration`` is asked of fewer than 3 frames.
    """
    count = pred.shape[1]
    return evaluate_prefixes(protocol, (count,), pred, target, mask, pred_vertices, target_vertices)[count]


def evaluate_prefixes(
    protocol: Protocol,
    counts: Sequence[int],
    pred: Float[Tensor, "batch hypotheses joints 3"],
    target: Float[Tensor, "batch joints 3"],
    mask: Bool[Tensor, "batch joints"] | None = None,
    pred_vertices: Float[Tensor, "batch hypotheses vertices 3"] | None = None,
    target_vertices: Float[Tensor, "batch vertices 3"] | None = None,
) -> dict[int, dict[str, Float[Tensor, " _"]]]:
    """Scores the first n hypotheses of one draw for several n, each hypothesis being compared with the truth only once.

    Args:
        protocol: How.
        counts: The n, e.g. 1, 5, 10, 25.
        pred: As for ``evaluate``, like all that follow.
        target: Truth.
        mask: Known joints.
        pred_vertices: Meshes.
        target_vertices: True meshes.

    Returns:
        For each n what ``evaluate`` gives for ``pred[:, :n]``.

    Raises:
        ValueError: If a count is not in 1..hypotheses or there is none, and as ``evaluate``.
    """
    if not counts or not all(1 <= count <= pred.shape[1] for count in counts):
        raise ValueError(f"counts must be one or more numbers of hypotheses in 1..{pred.shape[1]}, got {tuple(counts)}")
    errors = _hypothesis_errors(protocol, counts, pred, target, mask, pred_vertices, target_vertices)
    scores: dict[int, dict[str, Tensor]] = {}
    for column, count in enumerate(counts):
        kept = slice(column, column + 1) if protocol.hypotheses == "aggregate" else slice(count)
        prefix = {metric: values[:, kept] for metric, values in errors.items()}
        scores[count] = {metric: _reduce(protocol, metric, prefix) for metric in protocol.metrics if metric in prefix}
    return scores


def _hypothesis_errors(
    protocol: Protocol,
    counts: Sequence[int],
    pred: Tensor,
    target: Tensor,
    mask: Tensor | None,
    pred_vertices: Tensor | None,
    target_vertices: Tensor | None,
) -> dict[str, Tensor]:
    """(batch, columns): errors of each hypothesis up to the last that ``counts`` needs, or of the mean per prefix."""
    count = get_joint_set(protocol.joint_set).num_joints
    if pred.shape[-2] != count:
        raise ValueError(
            f"protocol {protocol.name!r} scores the {count} joints of {protocol.joint_set}, got {pred.shape[-2]} joints"
        )
    if (pred_vertices is None) != (target_vertices is None):
        raise ValueError("evaluate needs both pred_vertices and target_vertices, or neither")
    joints, root = list(protocol.scored_joints), list(protocol.root)
    pred = pred[:, : max(counts)]
    target_root = target[..., root, :].mean(dim=-2, keepdim=True)
    pred_root = pred[..., root, :].mean(dim=-2, keepdim=True)
    if not protocol.center_prediction:
        pred_root = torch.zeros_like(pred_root)
    pred = _combine(protocol, counts, pred - pred_root)[..., joints, :]
    target = (target - target_root)[..., joints, :]
    known = None
    if mask is not None:
        known = (mask[..., joints] & protocol.is_scored(mask)[..., None])[:, None].expand(pred.shape[:-1])
    target = target[:, None].expand_as(pred)

    per_hypothesis: dict[str, Callable[[], Tensor]] = {
        "mpjpe": lambda: functional.mpjpe(pred, target, None, known),
        "pa_mpjpe": lambda: functional.pa_mpjpe(pred, target, known, protocol.reflection),
        "n_mpjpe": lambda: functional.n_mpjpe(pred, target, None, known),
        "pck": lambda: functional.pck(pred, target, root=None, mask=known),
        "auc": lambda: functional.auc(pred, target, root=None, mask=known),
        "acceleration": lambda: _over_time(pred, target, known),
    }
    if pred_vertices is not None and target_vertices is not None:
        meshes = _combine(protocol, counts, pred_vertices[:, : max(counts)] - pred_root)
        true_meshes = (target_vertices - target_root)[:, None].expand_as(meshes)
        scored = None if mask is None else protocol.is_scored(mask)[:, None]

        def of_scored(values: Tensor) -> Tensor:
            return values if scored is None else torch.where(scored, values, torch.nan)

        def f_score(threshold_mm: float) -> Tensor:
            aligned = align(meshes, true_meshes, reflection=protocol.reflection)
            return of_scored(functional.f_score(aligned, true_meshes, threshold_mm))

        per_hypothesis |= {
            "pve": lambda: of_scored(functional.pve(meshes, true_meshes)),
            "pa_pve": lambda: of_scored(functional.pa_pve(meshes, true_meshes, protocol.reflection)),
            "f5": lambda: f_score(5.0),
            "f15": lambda: f_score(15.0),
        }
    wanted = {*protocol.metrics, _CHOSEN_BY.get(protocol.hypotheses)}
    return {metric: errors() for metric, errors in per_hypothesis.items() if metric in wanted}


def _combine(protocol: Protocol, counts: Sequence[int], points: Tensor) -> Tensor:
    if protocol.hypotheses != "aggregate":
        return points
    return torch.stack([points[:, :count].mean(dim=1) for count in counts], dim=1)


def _over_time(pred: Tensor, target: Tensor, known: Tensor | None) -> Tensor:
    known = None if known is None else known.transpose(0, 1)
    errors = functional.acceleration_error(pred.transpose(0, 1), target.transpose(0, 1), mask=known)
    return errors.transpose(0, 1)


def _reduce(protocol: Protocol, metric: str, errors: dict[str, Tensor]) -> Tensor:
    values, rule = errors[metric], protocol.hypotheses
    if rule == "aggregate":
        return values[:, 0]
    if rule == "mean" or rule == "first" or (rule == "min" and UNITS[metric] != "share"):
        return functional.reduce_hypotheses(values, rule)
    best = errors[_CHOSEN_BY[rule]].argmin(dim=1)
    return functional.select_hypothesis(values, best[1:-1] if metric == "acceleration" else best)


# Pelvis, spine and nose left out of Human3.6M's 17: the 14 that LSP has too.
_H36M_LSP_14 = (1, 2, 3, 4, 5, 6, 8, 10, 11, 12, 13, 14, 15, 16)
# The 12 limb joints and neck of LSP, and the head of Human3.6M.
_JOINTS44_LSP_14 = (*range(25, 38), 43)
_PELVIS_44 = (39,)
_POSE: tuple[MetricName, ...] = ("mpjpe", "pa_mpjpe")
_MESH: tuple[MetricName, ...] = ("mpjpe", "pa_mpjpe", "pve")

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "open_h36m17",
            "h36m17",
            ("mpjpe", "pa_mpjpe", "n_mpjpe", "pck", "auc"),
            hypotheses="min",
            reference="this project, open data: 17 joints, pelvis-aligned",
        ),
        Protocol(
            "open_h36m16",
            "h36m16",
            ("mpjpe", "pa_mpjpe", "n_mpjpe", "pck", "auc"),
            hypotheses="min",
            reference="this project, open data: 16 joints (without neck/nose), pelvis-aligned",
        ),
        Protocol(
            "open_h36m17_clip",
            "h36m17",
            ("mpjpe", "pa_mpjpe", "acceleration"),
            reference="this project, open data: one clip in the order of time",
        ),
        Protocol(
            "open_mesh24",
            "smpl24",
            _MESH,
            hypotheses="min",
            reference="this project, open data: kinematic joints and mesh, pelvis-aligned",
        ),
        Protocol(
            "open_mesh24_by_mpjpe",
            "smpl24",
            _MESH,
            hypotheses="min_by_mpjpe",
            reference="this project, open data: kinematic joints and mesh, pelvis-aligned",
        ),
        Protocol(
            "open_smpl24_fit",
            "smpl24",
            _POSE,
            reference="this project, open data: kinematic joints of a fitted body",
        ),
        Protocol(
            "open_smpl24_video",
            "smpl24",
            ("mpjpe", "pa_mpjpe", "acceleration"),
            reference="this project, open data: kinematic joints of a fitted body, one clip in the order of time",
        ),
        Protocol(
            "zedo_h36m",
            "h36m17",
            _POSE,
            center_prediction=False,
            reflection=True,
            hypotheses="min",
            averaging="action",
            stride=640,
            reference="ZeDO, Table 2 and its released program: 886 poses of S9 and S11",
        ),
        Protocol(
            "zedo_3dpw_17",
            "h36m17",
            _POSE,
            center_prediction=False,
            reflection=True,
            hypotheses="min",
            stride=35,
            reference="ZeDO, 3DPW with J = 17 and its released program: 1015 poses",
        ),
        Protocol(
            "zedo_3dpw_14",
            "h36m17",
            _POSE,
            joints=_H36M_LSP_14,
            center_prediction=False,
            reflection=True,
            hypotheses="min",
            stride=35,
            reference="ZeDO, 3DPW with J = 14 and its released program: 1015 poses",
        ),
        Protocol(
            "zedo_3dhp",
            "h36m17",
            ("mpjpe", "pa_mpjpe", "pck", "auc"),
            center_prediction=False,
            reflection=True,
            hypotheses="min",
            averaging="action",
            stride=3,
            reference="ZeDO, MPI-INF-3DHP and its released program: 959 poses",
        ),
        Protocol(
            "diffupose_h36m",
            "h36m16",
            ("mpjpe", "pa_mpjpe", "n_mpjpe"),
            hypotheses="aggregate",
            averaging="action",
            reference="DiffuPose, Table 1, root-relative and without its release's use of the true depth",
        ),
        Protocol(
            "diffupose_h36m_gt",
            "h36m17",
            ("mpjpe", "pa_mpjpe", "n_mpjpe"),
            hypotheses="aggregate",
            averaging="action",
            reference="DiffuPose, Table 3: 2D ground truth, 17 joints, without its release's use of the true depth",
        ),
        Protocol(
            "diffupose_humaneva",
            "humaneva15",
            ("pa_mpjpe",),
            hypotheses="aggregate",
            averaging="subject_action",
            reference="DiffuPose, Table 5",
        ),
        Protocol(
            "scorehmr_3dpw",
            "joints44",
            _POSE,
            joints=_JOINTS44_LSP_14,
            root=_PELVIS_44,
            regressor="the 19 x 6890 extra regressor; truth from the gendered, prediction from the neutral mesh",
            reference="ScoreHMR, Tables 1 and 2 (PA-MPJPE)",
        ),
        Protocol(
            "scorehmr_multiview",
            "joints44",
            _POSE,
            joints=_JOINTS44_LSP_14,
            root=_PELVIS_44,
            regressor="the 19 x 6890 extra regressor",
            reference="ScoreHMR, Table 3, Human3.6M",
        ),
        Protocol(
            "scorehmr_video",
            "joints44",
            ("pa_mpjpe", "acceleration"),
            joints=_JOINTS44_LSP_14,
            root=_PELVIS_44,
            regressor="the 19 x 6890 extra regressor; truth from the gendered, prediction from the neutral mesh",
            reference="ScoreHMR, Table 4, 3DPW; the paper prints mm/s^2, its release computes mm/frame^2",
        ),
        Protocol(
            "scorehmr_emdb",
            "smpl24",
            ("pa_mpjpe",),
            reference="ScoreHMR, Table 2, EMDB 1; the release has no script for it",
        ),
        Protocol(
            "scorehmr_emdb_video",
            "smpl24",
            ("pa_mpjpe", "acceleration"),
            reference="ScoreHMR, Table 4, EMDB 1; the release has no script for it",
        ),
        Protocol(
            "hmdiff_3dpw",
            "h36m17",
            _MESH,
            joints=_H36M_LSP_14,
            regressor="the Human3.6M regressor on the full mesh",
            reference="HMDiff, 3DPW (METRO's protocol)",
        ),
        Protocol(
            "hmdiff_h36m",
            "h36m17",
            _POSE,
            joints=_H36M_LSP_14,
            regressor="the Human3.6M regressor on the full mesh",
            reference="HMDiff, Human3.6M P2: S9 and S11, frontal camera (METRO's protocol)",
        ),
        # FreiHAND's program aligns by scipy's orthogonal_procrustes, which may mirror.
        Protocol(
            "hmdiff_freihand",
            "mano21",
            ("pa_mpjpe", "pa_pve", "f5", "f15"),
            reflection=True,
            regressor="the MANO regressor and finger tip vertices",
            reference="HMDiff, FreiHAND and its evaluation program: joints and mesh aligned apart, F-scores after it",
        ),
        # Diff-HMR does not say how its PVE is aligned. SPIN's program scores no mesh, VIBE's leaves both meshes where
        # the body model puts them. Here both are moved to the regressed pelvis, as the joints are.
        Protocol(
            "spin_3dpw",
            "h36m17",
            _MESH,
            joints=_H36M_LSP_14,
            hypotheses="min",
            regressor="the Human3.6M regressor on the full mesh, gendered for the truth, neutral for the prediction",
            reference="SPIN, 3DPW; Diff-HMR, Table 1, does not say if min is per metric, nor how PVE is aligned",
        ),
        # SPIN scores these 17 joints against the data set's own, whose neck stands for Human3.6M's thorax.
        Protocol(
            "spin_mpi_inf_3dhp",
            "h36m17",
            ("pa_mpjpe",),
            hypotheses="min",
            regressor="the Human3.6M regressor on the full mesh; truth: the data set's own joints",
            reference="SPIN, MPI-INF-3DHP; Diff-HMR, Table 2, names neither the joints nor the number of hypotheses",
        ),
    )
}
"""Every option set that the five papers print numbers for, and this project's own on open data."""


def get_protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        ValueError: If there is none.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"unknown protocol {name!r}, expected one of {sorted(PROTOCOLS)}")
    return PROTOCOLS[name]
