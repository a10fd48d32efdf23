"""The doctor on this installation, and on ones that are broken in ways that were met."""

import importlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from posecore.doctor.data_sets import DATA_SETS, DataSet
from posecore.doctor.files import body_findings, data_findings, weight_findings
from posecore.doctor.finding import Finding, installed_version, one_line, probe
from posecore.doctor.machine import gibibytes, machine_findings
from posecore.doctor.software import optional_findings, software_findings
from posecore.testing.smpl_files import write_gendered_bodies

METHODS = ["diffhmr", "diffupose", "hmdiff", "scorehmr", "zedo"]
NMS = "operator torchvision::nms does not exist"


def doctor(folder: Path, *args: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the doctor in a folder; variables of the caller's environment that it reads are taken out."""
    environment = {key: value for key, value in os.environ.items() if key not in ("HUMANDIFF_DATA", "PYTHONPATH")}
    command = [sys.executable, "-m", "posecore.doctor", *args]
    return subprocess.run(
        command, cwd=folder, env={**environment, **variables}, capture_output=True, text=True, timeout=300
    )


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    found = {finding.name: finding for finding in findings}
    assert len(found) == len(findings)
    return found


def module(folder: Path, name: str, text: str) -> Path:
    """A package that Python finds before the installed one."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(text)
    return folder


def test_this_installation_works_and_the_table_says_what_is_missing(tmp_path: Path) -> None:
    done = doctor(tmp_path)
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "software"
    assert lines[-1].startswith("The essentials work (")
    assert any(line.split()[:2] == ["ok", "torchvision"] and "matches torch" in line for line in lines)
    assert any(line.split()[:2] == ["missing", "human36m"] and "register at vision.imar.ro" in line for line in lines)
    assert all(len(line) <= 190 for line in lines if str(tmp_path) not in line)


def test_json_holds_the_same_findings_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    done = doctor(tmp_path / "here", "--json", "--root", str(tmp_path / "there"), OMP_NUM_THREADS="1")
    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert report["works"] is True
    assert report["broken"] == []
    assert list(report["parts"]) == [
        "software", "rendering", "optional packages", "weights", "body models", "data", "machine",
    ]  # fmt: skip
    for finding in (finding for part in report["parts"].values() for finding in part):
        assert Finding(**finding).state in ("ok", "info", "missing", "warning")
        assert finding["text"]
        assert "\n" not in Finding(**finding).line()
        if finding["state"] == "missing":
            assert finding["enables"], finding
            assert finding["get"], finding
    (threads,) = (each for each in report["parts"]["machine"] if each["name"] == "OMP_NUM_THREADS")
    assert threads["text"] == "1"
    assert report["parts"]["data"][0]["text"] == f"there is no folder {tmp_path / 'there'}"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["here"]


def test_a_torchvision_of_another_torch_is_named_and_ends_with_1(tmp_path: Path) -> None:
    fakes = module(tmp_path, "torchvision", f"raise RuntimeError({NMS!r})\n")
    done = doctor(tmp_path, "--json", PYTHONPATH=str(fakes))
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert report["works"] is False
    assert "torchvision" in report["broken"]
    assert "torch" not in report["broken"]
    (finding,) = (each for each in report["parts"]["software"] if each["name"] == "torchvision")
    assert finding["text"] == NMS
    assert "constraints.txt" in finding["get"]


def test_without_torch_every_other_probe_still_answers(tmp_path: Path) -> None:
    fakes = module(tmp_path, "torch", "raise OSError('libcudart.so.13: cannot open shared object file')\n")
    done = doctor(tmp_path, PYTHONPATH=str(fakes))
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    verdict = done.stdout.splitlines()[-1]
    assert verdict.startswith("BROKEN: torch, ")
    assert any(line.split()[:3] == ["broken", "torch", "libcudart.so.13:"] for line in done.stdout.splitlines())
    assert any(line.split()[:2] == ["ok", "zedo"] for line in done.stdout.splitlines())  # safetensors needs no torch
    assert any(line.split()[:2] == ["ok", "free"] for line in done.stdout.splitlines())


def test_an_optional_package_that_cannot_be_imported_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(
        module(tmp_path, "anny", "print('hello')\nraise ImportError('libGL.so.1 is missing')\n")
    )
    monkeypatch.delitem(sys.modules, "anny", raising=False)
    found = by_name(optional_findings())
    assert found["anny"].state == "warning"
    assert found["anny"].text == "libGL.so.1 is missing"
    assert found["anny"].get == 'pip install --force-reinstall "humandiff[body]"'


def test_optional_packages_belong_to_the_extras_that_are_named() -> None:
    extras = importlib.import_module("tomllib").loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    extras = extras["project"]["optional-dependencies"]
    renamed = {"sklearn": "scikit-learn"}
    for finding in optional_findings():
        extra = finding.get.partition("[")[2].partition("]")[0]
        if finding.state == "missing":
            assert any(each.startswith(renamed.get(finding.name, finding.name)) for each in extras[extra])
        else:
            assert finding.state == "ok", finding


def test_versions_that_are_not_the_tested_ones_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numpy = installed_version("numpy")
    (tmp_path / "constraints.txt").write_text(f"# tested\nnumpy=={numpy}\ntimm==0.0.1\nno_such_package==1.0\n")
    monkeypatch.setattr("posecore.doctor.software._ROOT", tmp_path)
    finding = by_name(software_findings())["constraints.txt"]
    assert finding.state == "info"
    assert finding.text == f"1 of 2 packages differ: timm {installed_version('timm')} (tested 0.0.1)"
    (tmp_path / "constraints.txt").unlink()
    monkeypatch.chdir(tmp_path)
    assert "not here" in by_name(software_findings())["constraints.txt"].text


def distribution(folder: Path, name: str, *wanted: str) -> Path:
    """What pip writes down of an installed package; found before the installed one's."""
    about = folder / f"{name}-9.dist-info"
    about.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 9", *(f"Requires-Dist: {each}" for each in wanted)]
    (about / "METADATA").write_text("\n".join(lines) + "\n")
    return folder


def test_requirements_that_are_not_met_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["numpy>=99", "no_such_package", "torch>=2", 'no_other_package; extra == "dev"']
    monkeypatch.syspath_prepend(distribution(tmp_path, "humandiff", *wanted))
    found = by_name(software_findings())
    assert found["humandiff"].text.startswith("9, ")
    assert found["requirements"].state == "broken"
    unmet = f"numpy>=99 (found {installed_version('numpy')}), no_such_package (found none)"
    assert found["requirements"].text == f"2 of 3 not met: {unmet}"


def test_torchvision_of_another_torch_is_told_by_its_requirement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(distribution(tmp_path, "torchvision", "numpy", "torch==1.2.3"))
    finding = by_name(software_findings())["torchvision"]
    assert finding.state == "broken"
    assert "is built for torch 1.2.3, not " in finding.text


def test_body_models_are_read_and_what_is_not_there_is_told(tmp_path: Path) -> None:
    found = by_name(body_findings(tmp_path))
    assert {name: finding.state for name, finding in found.items()} == {
        "open body": "ok",
        "SMPL": "missing",
        "J_regressor_h36m.npy": "missing",
        "SMPL_to_J19.pkl": "missing",
        "MANO": "missing",
    }
    assert "6890 vertices" in found["open body"].text
    assert "register at smpl.is.tue.mpg.de" in found["SMPL"].get

    write_gendered_bodies(tmp_path / "smpl")
    (tmp_path / "J_regressor_h36m.npy").touch()  # what no body needs is not read
    (tmp_path / "MANO_RIGHT.pkl").write_bytes(b"cut off")
    found = by_name(body_findings(tmp_path))
    assert found["SMPL"].state == "ok"
    assert all(f"{gender} (SMPL_{gender.upper()})" in found["SMPL"].text for gender in ("neutral", "female", "male"))
    assert found["J_regressor_h36m.npy"].state == "ok"
    assert found["MANO"].state == "warning"
    assert "MANO_RIGHT.pkl" in found["MANO"].text

    (tmp_path / "smpl/SMPL_MALE.npz").unlink()
    found = by_name(body_findings(tmp_path))
    assert found["SMPL"].state == "missing"
    assert "but not male" in found["SMPL"].text
    (tmp_path / "smpl/SMPL_MALE.npz").write_bytes(b"cut off")
    found = by_name(body_findings(tmp_path))
    assert found["SMPL"].state == "warning"
    assert found["SMPL"].text.startswith("cannot be read: male: ")


def test_all_methods_and_their_weights_are_found_without_importing_them(tmp_path: Path) -> None:
    program = (
        "import sys; from posecore.doctor.files import weight_findings as find; print([f.name for f in find()]);"
        f"print([name for name in {[*METHODS, 'torch']!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(METHODS), "[]"]
    found = by_name(weight_findings())
    assert all(found[method].state == "ok" for method in METHODS)
    assert found["scorehmr"].text.startswith("cmu (")


def test_weights_that_are_cut_off_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (Path(__file__).parents[2] / "packages/zedo/zedo/weights/cmu.safetensors").read_bytes()
    package = module(tmp_path, "zedo", "raise RuntimeError('is not imported')\n") / "zedo"
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "zedo", raising=False)
    assert by_name(weight_findings())["zedo"].state == "missing"
    (package / "weights").mkdir()
    (package / "weights/cmu.safetensors").write_bytes(whole[:-1])
    finding = by_name(weight_findings())["zedo"]
    assert finding.state == "broken"
    assert finding.text.startswith("cmu.safetensors cannot be read: ")


@pytest.mark.parametrize("data_set", DATA_SETS, ids=lambda each: each.name)
@pytest.mark.parametrize("inner", [False, True], ids=["root", "folder"])
def test_a_data_set_is_found_whole_in_part_or_not(tmp_path: Path, data_set: DataSet, inner: bool) -> None:
    home = tmp_path / (data_set.folders[0] if inner and data_set.folders else "")
    assert by_name(data_findings(tmp_path))[data_set.name].state == "missing"
    for count, file in enumerate(data_set.files, start=1):
        path = home / file.split("|")[-1].replace("*", "1")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        finding = by_name(data_findings(tmp_path))[data_set.name]
        assert finding.state == ("ok" if count == len(data_set.files) else "warning")
    others = {finding.name for finding in data_findings(tmp_path) if finding.state != "missing"}
    assert data_set.name in others


@pytest.mark.parametrize(
    "data_set", [each for each in DATA_SETS if each.name != "prepared"], ids=lambda each: each.name
)
def test_places_and_sites_are_those_of_the_loaders(data_set: DataSet) -> None:
    loader = vars(importlib.import_module(f"posecore.data.{data_set.name}"))
    folders = loader.get("FOLDERS", loader.get("_FOLDERS"))
    if data_set.folders and folders is not None:
        assert data_set.folders == folders
    sites = re.findall(r"[\w-]+(?:\.[\w-]+)+", data_set.get)
    text = loader.get("HOW_TO_OBTAIN", loader.get("_HOW_TO_OBTAIN", "")) + (loader["__doc__"] or "")
    text += "".join(value.__doc__ or "" for value in loader.values() if isinstance(value, type))
    assert sites or "GitHub" in data_set.get
    assert [site for site in sites if site not in text] == []


def test_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS")
    found = by_name(machine_findings())
    assert found["OMP_NUM_THREADS"].text == "unset"
    assert found["working directory"].text == f"{tmp_path} can be written to"
    assert found["cores"].text.endswith(f"{os.cpu_count()} in the machine")
    assert list(tmp_path.iterdir()) == []
    assert gibibytes(3 * 2**29) == "1.5 GiB"


def test_few_open_files_are_a_warning(tmp_path: Path) -> None:
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 512));"
        "from posecore.doctor.machine import machine_findings;"
        "print(next(f.line() for f in machine_findings() if f.name == 'open files'))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "warning"
    assert done.stdout.strip().endswith("ulimit -n 512")


def test_a_probe_turns_every_failure_into_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    def noisy() -> str:
        print("welcome")  # noqa: T201
        raise SystemExit("\n\nfirst\nsecond")

    finding = probe("name", noisy, "warning", "this", "that")
    assert finding == Finding("name", "warning", "first", "this", "that")
    assert capfd.readouterr() == ("", "")
    assert probe("name", lambda: "fine", enables="this") == Finding("name", "ok", "fine")
    assert probe("name", lambda: replace(finding, text="own")).text == "own"
    assert one_line(KeyError()) == "KeyError"
    assert one_line(ValueError("x" * 500)) == "x" * 157 + "..."
    assert finding.line().split() == ["warning", "name", "first;", "for", "this;", "that"]


def test_a_wrong_option_ends_with_2(tmp_path: Path) -> None:
    assert doctor(tmp_path, "--rooot", "x").returncode == 2
