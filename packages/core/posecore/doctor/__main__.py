"""``python -m posecore.doctor``, or ``humandiff-doctor``: what works here, and what is missing for what."""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from posecore.doctor.files import body_findings, data_findings, weight_findings
from posecore.doctor.finding import Finding, probe
from posecore.doctor.machine import machine_findings
from posecore.doctor.software import optional_findings, rendering_findings, software_findings


def main(args: Sequence[str] | None = None) -> None:
    """The console script ``humandiff-doctor``: exits with 1 where something that every method needs is broken."""
    options = _parser().parse_args(args)
    report = examine(options.root, options.body_models)
    broken = [finding.name for findings in report.values() for finding in findings if finding.state == "broken"]
    sys.stdout.write(_as_json(report, broken) if options.json else _as_text(report, broken))
    sys.exit(1 if broken else 0)


def examine(root: Path | None = None, body_models: Path | None = None) -> dict[str, list[Finding]]:
    """Everything that the doctor looks at, part by part. Nothing is downloaded or written.

    Args:
        root: The data folder; the variable HUMANDIFF_DATA, else ``data``, where None.
        body_models: The folder of SMPL's and MANO's files; ``body_models`` in the data folder where None.
    """
    folder = root or Path(os.environ.get("HUMANDIFF_DATA") or "data")
    bodies = body_models or folder / "body_models"
    return {
        "software": software_findings(),
        "rendering": rendering_findings(),
        "optional packages": optional_findings(),
        "weights": weight_findings(),
        "body models": body_findings(bodies),
        "data": [probe("folder", lambda: _data_folder(folder)), *data_findings(folder)],
        "machine": machine_findings(),
    }


def _data_folder(folder: Path) -> str | Finding:
    if folder.is_dir():
        return str(folder)
    get = "name yours by --root or the variable HUMANDIFF_DATA"
    return Finding("folder", "missing", f"there is no folder {folder}", "the data sets below", get)


def _as_text(report: dict[str, list[Finding]], broken: list[str]) -> str:
    parts = ["\n".join((part, *(f"  {each.line()}" for each in findings))) for part, findings in report.items()]
    states = Counter(finding.state for findings in report.values() for finding in findings)
    counts = ", ".join(f"{states[state]} {state}" for state in ("ok", "missing", "warning", "broken") if states[state])
    verdict = f"BROKEN: {', '.join(broken)}" if broken else "The essentials work"
    return "\n\n".join((*parts, f"{verdict} ({counts}).\n"))


def _as_json(report: dict[str, list[Finding]], broken: list[str]) -> str:
    parts = {part: [asdict(finding) for finding in findings] for part, findings in report.items()}
    return json.dumps({"works": not broken, "broken": broken, "parts": parts}, indent=2) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="humandiff-doctor",
        description="Says what works here, what is missing, what that would enable, and how to get it.",
        epilog="Exit code 0: the essentials work; 1: something that every method needs is broken.",
    )
    parser.add_argument("--root", type=Path, help="data folder (default: the variable HUMANDIFF_DATA, else data)")
    parser.add_argument("--body-models", type=Path, help="SMPL's and MANO's files (default: body_models in the data)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


if __name__ == "__main__":
    main()
