"""Writes ``docs/results.md`` and its pictures from what the finished runs found."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure

from open_results import lines as of
from open_results.details import actions_table, joints_table, steps_tables, visibility_table
from open_results.execute import Place
from open_results.lines import JOINTS
from open_results.plots import calibration_figure, cost_figure, hypotheses_figure, joints_figure
from open_results.results import METRICS, NOT_RUN, Line, Results, about, error_table, markdown
from open_results.runs import NOISES, RUNS, SECTIONS, STARTS
from open_results.stored import SETS, answer, mean_of, nearest, start
from posecore.export.files import write_bytes, write_text
from posecore.metrics.protocols import get_protocol
from posecore.render.panels import figure_png

PAGE = "results.md"
_HEADINGS = {"exact": "exact 2D", "detector": "detector-like 2D", "cmu": "start `cmu`", "weak": "start `start_weak`"}
_GUIDE = """\
Every number on this page is made by one command, `python tools/open_benchmark.py --data FOLDER`, with the weights
that are shipped, on data that anybody can have. It is no comparison with the papers: their data are licensed, and the
shipped weights were trained on two CPU cores.

- **Data.** CMU motion capture seen by virtual cameras, and photographs of it that are rendered. `test_subjects`:
  people whom no training saw. `test_takes`: unseen takes of hard movements (dance, a cartwheel) of two people whom
  training saw in other takes. The line above a table says what the numbers of a cell are; "rows" are the people or
  frames that were scored, of both test sets.
- **Units.** mm; acceleration in mm/frame². Less is better throughout. PA-MPJPE is after the best similarity alignment.
- **Without the truth, with the truth.** A method with many hypotheses gives one answer by a rule that knows no truth
  (their mean, or the medoid: the hypothesis nearest to all others). "Best of n" is chosen **by the truth**, for each
  metric; it says whether a good answer is among the hypotheses, and no user can have it. No ground truth reaches a
  prediction anywhere.
- **Baselines** are lines of the same tables: what costs nothing should be beaten.
- **Cost.** "Network calls" are evaluations of the diffusion network for one hypothesis; "seconds a person" is the time
  inside the method's `forward` for all of its hypotheses, in batches, on {threads} CPU cores; "hours" is the whole run
  with reading and scoring. A few mm between lines of the same rows mean little: the frames come from few clips."""


@dataclass(frozen=True)
class Summary:
    """What the page has.

    Attributes:
        done: Runs that are there.
        missing: Names of those that are not, by the reason.
    """

    done: int
    missing: dict[str, list[str]]


def write_page(docs: Path, place: Place, missing: dict[str, str], any_code: bool = False) -> Summary:
    """Writes the page and its pictures.

    Args:
        docs: Folder of both.
        place: Where the runs are.
        missing: Why runs could not be made, by their names.
        any_code: Whether runs of other code than what is here now count, too.

    Raises:
        OSError: It cannot be written.
    """
    results = Results.read(place, missing, any_code)
    if results.runs:
        for name, made in _FIGURES.items():
            write_bytes(docs / f"results_{name}.png", figure_png(made(results), dpi=110))
    write_text(docs / PAGE, page(results, place))
    reasons: dict[str, list[str]] = {}
    for name, reason in results.missing.items():
        reasons.setdefault(reason, []).append(name)
    return Summary(len(results.runs), reasons)


_FIGURES: dict[str, Callable[[Results], Figure]] = {
    "hypotheses": hypotheses_figure,
    "calibration": calibration_figure,
    "cost": cost_figure,
    "joints": joints_figure,
}


def page(results: Results, place: Place) -> str:
    """The Markdown."""
    threads = next((run.about["threads"] for run in results.runs.values()), torch.get_num_threads())
    parts = ["# Results on open data", _notes(results, place), _GUIDE.format(threads=threads)]
    parts += ["## In short", _in_short(results)]
    parts += _tasks(results) + _closer(results) + [_how(results, place)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _notes(results: Results, place: Place) -> str:
    notes = []
    if place.quick:
        notes.append("**QUICK: the methods took a handful of steps. No number here means anything.**")
    if place.stride > 1:
        notes.append(f"**Scored are one in {place.stride} of the rows of the test sets (videos are whole).**")
    if results.missing:
        notes.append(f"**{len(results.missing)} of {len(RUNS)} runs are missing; the end of the page says why.**")
    return "\n\n".join(notes)


def _in_short(results: Results) -> str:
    """One line per method and task with its baseline, for readers in a hurry and the README."""
    pose, accel = ("mpjpe", "pa_mpjpe"), ("mpjpe", "pa_mpjpe", "acceleration")
    rows: list[tuple[str, Line, tuple[str, ...]]] = [
        (
            "2D keypoints (detector-like) to 3D",
            Line("nearest of 50 anchors (baseline)", nearest, ("anchors_detector",)),
            pose,
        ),
        ("", Line("ZeDO, S = 10, medoid", answer, ("zedo_s10_detector",)), pose),
        ("", Line("DiffuPose, N = 10, mean", answer, ("diffupose_detector",)), pose),
        ("a photograph to a mesh", of.images()[0], pose),
        ("", Line("Diff-HMR, mean of 25", mean_of(), ("diffhmr",)), pose),
        ("", Line("HMDiff, N = 25", answer, ("hmdiff",)), pose),
        (
            "a photograph and 2D keypoints",
            Line("ScoreHMR from Diff-HMR's pick", answer, ("scorehmr_from_diffhmr",)),
            pose,
        ),
        ("a body fitted to 2D keypoints", Line("the start itself (baseline)", start, ("fit_open_cmu",)), pose),
        ("", Line("SMPLify", answer, ("fit_smplify_cmu",)), pose),
        ("", Line("ScoreHMR, open terms", answer, ("fit_open_cmu",)), pose),
        ("four views", Line("the start itself (baseline)", start, ("calibrated_cmu",)), pose),
        ("", Line("ScoreHMR, views agree, on their keypoints", answer, ("views_keypoints_cmu",)), pose),
        ("", Line("ScoreHMR, calibrated views", answer, ("calibrated_cmu",)), pose),
        ("video", Line("the start itself (baseline)", start, ("video_smooth",)), accel),
        ("", Line("ScoreHMR, keypoints and smoothness", answer, ("video_smooth",)), accel),
    ]
    body = []
    for task, line, metrics in rows:
        name = str(line.runs[0])
        cells = []
        for test_set in SETS:
            found = results.mean_errors(name, test_set, line.rule)
            cells.append(" / ".join(f"{found[metric]:.1f}" for metric in metrics) if found else NOT_RUN)
        protocol = f"`{results.runs[name].about['protocol_name']}`" if name in results.runs else ""
        body.append([task, line.label, *cells, protocol, *about(results, [name], lambda name: 1, with_cost=False)])
    table = markdown(["from what", "method", *SETS, "protocol", "rows", "seed", "commit", "hours"], body)
    return f"MPJPE / PA-MPJPE, of video also / acceleration error. No line is chosen by the truth.\n\n{table}"


def _tasks(results: Results) -> list[str]:
    noises, starts = [_HEADINGS[name] for name in NOISES], [_HEADINGS[name] for name in STARTS]
    pose, mesh, accel = ("mpjpe", "pa_mpjpe"), ("mpjpe", "pa_mpjpe", "pve"), ("mpjpe", "pa_mpjpe", "acceleration")
    parts = [f"## {SECTIONS['lifting']}", _protocols(results, of.lifting(), pose)]
    parts.append(
        "Calls, seconds and rows are those of exact 2D. S = 5 has no shipped anchors; K-means of the training poses "
        "made them, as it made the others. N = 1 to 50 of DiffuPose are the first N of the same 50."
    )
    parts.append(error_table(results, of.lifting(), noises, pose))
    parts += [f"## {SECTIONS['images']}", _protocols(results, of.images(), mesh)]
    parts.append(
        "PVE stands where the method's own `test` scores meshes. HMDiff takes seconds a picture and has fewer rows:"
    )
    parts.append(error_table(results, of.images(), [""], mesh))
    parts.append("The same on the rows that all of these have:")
    parts.append(error_table(results, of.images(), [""], pose, lambda name: _step_to_hmdiff(results, name), False))
    parts += [f"## {SECTIONS['fitting']}", _protocols(results, of.fitting(), pose)]
    parts.append(
        "Detector-like 2D keypoints. `start_weak` is a less accurate regressor that leaves something to repair."
    )
    parts.append(error_table(results, of.fitting(), starts, pose))
    parts += [
        f"## {SECTIONS['views']}",
        _protocols(results, of.views(), pose),
        error_table(results, of.views(), starts, pose),
    ]
    parts += [f"## {SECTIONS['video']}", _protocols(results, of.video(), accel)]
    parts.append("Whole clips at 30 frames per second. The detector's noise is drawn anew in every frame.")
    parts.append(error_table(results, of.video(), [""], accel))
    return parts


def _step_to_hmdiff(results: Results, name: str) -> int:
    """By which a run of the same pictures is thinned to HMDiff's rows."""
    if name not in results.runs or "hmdiff" not in results.runs:
        return 1
    return int(results.runs["hmdiff"].about["thin"] // results.runs[name].about["thin"])


def _closer(results: Results) -> list[str]:
    parts = ["## More hypotheses"]
    parts.append(
        _picture("hypotheses", "MPJPE against the number of hypotheses, with and without the truth's choice", results)
    )
    parts.append(
        "MPJPE over both test sets. Solid: the answer without the truth (ZeDO and Diff-HMR the medoid, DiffuPose and "
        "HMDiff the mean). Dashed: the best of n. ZeDO has anchors of its own for every S."
    )
    parts += ["## Calibration, and joints that are not seen"]
    parts.append(
        _picture("calibration", "Share of joints inside the central part of the hypotheses, at nine levels", results)
    )
    parts.append(
        "On the line, the truth looks like one more hypothesis; below it hypotheses are too alike. Spread is the "
        'standard deviation of a joint over the hypotheses, mm; "same joints" compares each joint with itself. Of 2D '
        "keypoints a joint is seen if the detector gave it, of photographs if the picture shows it (`smpl24_visible`)."
    )
    parts.append(visibility_table(results))
    parts += [f"## {SECTIONS['steps']}"]
    parts.append(_picture("cost", "MPJPE against network calls, and against seconds a person", results))
    parts.append(
        "MPJPE / PA-MPJPE. ZeDO and DiffuPose with detector-like 2D, ScoreHMR with the open terms from the start "
        "`cmu`. DiffuPose's calls count the mirrored sample; ScoreHMR's are what its people needed."
    )
    for name, made in steps_tables(results).items():
        parts += [f"**{name}** ({_protocol_names(results, of.steps()[name])})", made]
    parts += ["## Joint by joint", _picture("joints", "Mean error of each joint, by task and method", results)]
    parts.append(
        "Mean distance after root alignment, mm, left and right together, over both test sets; the root is left out."
    )
    for task in JOINTS:
        parts += [f"**{task}** ({_runs_of(results, task)})", joints_table(results, task)]
    parts += ["## Action by action", "MPJPE, mm, over both test sets; actions are those of the database."]
    for task in JOINTS:
        parts += [f"**{task}** ({_runs_of(results, task)})", actions_table(results, task)]
    return parts


def _runs_of(results: Results, task: str) -> str:
    """Protocol and runs of the columns; their seeds, commits and hours stand in the last table."""
    runs = dict.fromkeys(f"`{line.runs[0]}`" for line in JOINTS[task].values())
    return f"{_protocol_names(results, list(JOINTS[task].values()))}; runs {', '.join(runs)}"


def _picture(name: str, alt: str, results: Results) -> str:
    return f"![{alt}](results_{name}.png)" if results.runs else ""


def _protocol_names(results: Results, lines: Sequence[Line]) -> str:
    runs = [str(name) for line in lines for name in line.runs if name in results.runs]
    names = dict.fromkeys(results.runs[name].about["protocol_name"] for name in runs)
    return ", ".join(f"`{name}`" for name in names) or NOT_RUN


def _protocols(results: Results, lines: Sequence[Line], metrics: Sequence[str]) -> str:
    """What a cell says, and every protocol of the lines in full."""
    runs = [str(name) for line in lines for name in line.runs if name in results.runs]
    described = dict.fromkeys(get_protocol(results.runs[name].about["protocol_name"]).describe() for name in runs)
    cell = " / ".join(METRICS[metric] for metric in metrics)
    told = "\n".join(f"- `{text.partition(':')[0]}`{text[text.index(':') :]}" for text in described)
    return f"{cell}. Protocols:\n\n{told}" if told else f"{cell}. {NOT_RUN.capitalize()}."


def _how(results: Results, place: Place) -> str:
    hours = sum(run.about["hours"] for run in results.runs.values())
    commits = dict.fromkeys(run.about["commit"] for run in results.runs.values())
    stride = f" --stride {place.stride}" if place.stride > 1 else ""
    lines = ["## How this was made", "", "```sh"]
    lines += [
        "python tools/prepare_open_images.py --data FOLDER --sets test_subjects test_takes   # FOLDER holds cmu_mocap/"
    ]
    lines += [f"python tools/open_benchmark.py --data FOLDER{stride}{' --quick' if place.quick else ''}", "```", ""]
    lines += [
        f"{len(results.runs)} of {len(RUNS)} runs, {60 * hours:.0f} minutes together, each a call of the method's own "
        f"`test` (commit {', '.join(commits) or '-'}). The arrays they leave behind (every hypothesis of every row) "
        "are what tables and pictures are computed from, by `posecore.metrics`. Runs are not repeated while code, "
        "settings, weights and data stay as they are. The commands, with every so manieth row of their test sets:",
        "",
    ]
    body = [
        [f"`{name}`", f"`{run.about['command']}`", str(run.about["thin"]), run.about["precision"], run.about["commit"],
         str(run.about["seed"]), f"{run.about['hours']:.4f}"]
        for name, run in results.runs.items()
    ]  # fmt: skip
    text = "\n".join(lines) + markdown(["run", "command", "every", "precision", "commit", "seed", "hours"], body)
    if results.missing:
        missing = markdown(["not run", "because"], [[f"`{name}`", why] for name, why in results.missing.items()])
        text += f"\n\n### Not run\n\n{missing}"
    return text
