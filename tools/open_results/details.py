"""Tables that look closer: joint by joint, action by action, by visibility, and settings with few network calls."""

import re
from typing import Any

import torch
from torch import Tensor

from open_results.lines import JOINTS, SAMPLERS, Line, steps
from open_results.results import NOT_RUN, Results, error_table, markdown
from open_results.stored import SETS, Stored, Table, errors, joint_errors
from posecore.body.skeletons import JointSet, get_joint_set
from posecore.metrics.functional import CALIBRATION_LEVELS, calibration
from posecore.metrics.visibility import SpreadByVisibility

_SIDE = re.compile(r"^[lr]_")


def steps_tables(results: Results) -> dict[str, str]:
    """A table of every method's settings."""
    return {name: error_table(results, lines, [""], ("mpjpe", "pa_mpjpe")) for name, lines in steps().items()}


def joints_table(results: Results, task: str) -> str:
    """Mean error of each joint, left and right together, over both test sets."""
    columns = {name: errors_of_joints(results, line) for name, line in JOINTS[task].items()}
    names = list(dict.fromkeys(joint for found in columns.values() for joint in found))
    rows = [[joint, *(_number(found.get(joint)) for found in columns.values())] for joint in names]
    return markdown(["joint", *columns], rows) if rows else NOT_RUN


def errors_of_joints(results: Results, line: Line) -> dict[str, float]:
    """Millimetres by joint, the mean of left and right; empty where the run is missing."""
    run = results.runs.get(str(line.runs[0]))
    if run is None:
        return {}
    joint_set = get_joint_set(run.protocol.joint_set)
    both = torch.cat([joint_errors(run.tables[name], run.protocol, line.rule) for name in SETS]).mean(dim=0)
    found: dict[str, list[float]] = {}
    for joint, value in zip(joint_set.joint_names, both.tolist(), strict=True):
        if joint_set.index(joint) not in run.protocol.root:
            found.setdefault(_SIDE.sub("", joint), []).append(value)
    return {joint: sum(values) / len(values) for joint, values in found.items()}


def actions_table(results: Results, task: str) -> str:
    """MPJPE of each action of both test sets, and how many rows it has."""
    lines = JOINTS[task]
    counts: dict[str, int] = {}
    columns: dict[str, dict[str, float]] = {}
    for name, line in lines.items():
        columns[name] = {}
        run = results.runs.get(str(line.runs[0]))
        for test_set in SETS if run is not None else ():
            table, protocol = run.tables[test_set], run.protocol  # type: ignore[union-attr]
            values = errors(table, protocol, line.rule)["mpjpe"]
            labels = table["action"]
            for action in dict.fromkeys(labels):
                rows = torch.tensor([label == action for label in labels])
                columns[name][action] = float(values[rows].mean())
                counts[action] = max(counts.get(action, 0), int(rows.sum()))
    if not counts:
        return NOT_RUN
    shown = sorted(counts, key=lambda action: -counts[action])
    rows_of = [
        [action, str(counts[action]), *(_number(found.get(action)) for found in columns.values())] for action in shown
    ]
    return markdown(["action", "rows, at most", *columns], rows_of)


def visibility_table(results: Results) -> str:
    """Spread, error and coverage of joints that were seen and of those that were not."""
    header = ["", "run", "test set", "all joints: spread, seen", "not seen", "same joints: spread, seen", "not seen"]
    header += ["error of the mean, seen", "not seen", "coverage at 0.5 (seen; not; of a calibrated one)", "at 0.9"]
    rows = []
    for name, (run_name, seen) in SAMPLERS.items():
        for test_set in SETS:
            table = results.table(run_name, test_set)
            if table is None:
                rows.append([name, f"`{run_name}`", test_set, NOT_RUN, *[""] * (len(header) - 4)])
                continue
            found = spread_by_visibility(results.runs[run_name], table, seen)
            pairs = [("spread_visible", "spread_occluded"), ("spread_matched_visible", "spread_matched_occluded")]
            pairs.append(("error_visible", "error_occluded"))
            cells = [_number(found[key], 0) for pair in pairs for key in pair]
            count = table.hypotheses.shape[1] + 1
            for level in (50, 90):
                sides = [_number(found[f"coverage_{level}_{side}"], 2) for side in ("visible", "occluded")]
                cells.append("; ".join([*sides, f"{int(level * count / 100) / count:.2f}"]))
            rows.append([name, f"`{run_name}`", test_set, *cells])
    return markdown(header, rows)


def spread_by_visibility(run: Stored, table: Table, seen: str) -> dict[str, float]:
    """`SpreadByVisibility` of a run's hypotheses."""
    metric = SpreadByVisibility(root=run.protocol.root, num_joints=_joints(run).num_joints)
    metric.update(table.hypotheses.float(), table["target"].float(), table[seen] > 0)
    return {name: float(value) for name, value in metric.compute().items()}


def calibration_curve(results: Results, run_name: str) -> Tensor | None:
    """Share of joints covered at each of `CALIBRATION_LEVELS`, over both test sets."""
    run = results.runs.get(run_name)
    if run is None:
        return None
    shares = [
        calibration(table.hypotheses.float(), table["target"].float(), CALIBRATION_LEVELS, run.protocol.root)
        for table in run.tables.values()
    ]
    return torch.cat(shares).nanmean(dim=0)


def _joints(run: Stored) -> JointSet:
    return get_joint_set(run.protocol.joint_set)


def _number(value: Any, digits: int = 1) -> str:
    return "-" if value is None or value != value else f"{value:.{digits}f}"
