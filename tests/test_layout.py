"""The repository keeps its shape: five packages that look alike, no drawers, files of a readable length."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
METHODS = ["diffhmr", "scorehmr", "hmdiff", "diffupose", "zedo"]
SOURCES = sorted((ROOT / "packages").rglob("*.py"))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_importable_and_says_its_paper(method: str) -> None:
    text = (ROOT / "packages" / method / method / "__init__.py").read_text()
    assert "References:" in text
    assert __import__(method).__doc__


@pytest.mark.parametrize("method", METHODS)
def test_a_finished_method_has_all_files(method: str) -> None:
    package = ROOT / "packages" / method / method
    for name in ("__main__", "data", "network", "losses", "sampler", "module"):
        assert (package / f"{name}.py").is_file()
    assert (package / "configs" / "default.yaml").is_file()
    assert (package / "configs" / "smoke.yaml").is_file()
    assert (ROOT / "packages" / method / "README.md").is_file()


def test_no_drawers_and_no_long_files() -> None:
    assert len(SOURCES) > 40
    for path in SOURCES:
        assert path.stem not in {"utils", "common", "helpers", "constants", "types", "misc"}, path
        assert len(path.read_text().splitlines()) <= 550, path


def test_no_unsafe_unpickling() -> None:
    for path in SOURCES:
        text = path.read_text()
        assert "weights_only=False" not in text, path
        assert "allow_pickle=True" not in text, path
        assert not re.search(r"\bpickle\.loads?\(", text), path
