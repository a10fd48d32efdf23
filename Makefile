# `make demo` and `make test` set everything up themselves; `make check` is what a change must pass.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/
READY := $(VENV)/.ready
# The CPU count that this process may use, not the machine's.
JOBS := $(shell nproc)

.PHONY: demo test test-all check clean

demo: $(READY)
	$(RUN)python tools/demo.py --output runs/demo --overwrite

test: $(READY)
	$(RUN)python -m pytest -n $(JOBS) -m "not slow and not gpu"

test-all: $(READY)
	$(RUN)python -m pytest -n $(JOBS)

check: $(READY)
	$(RUN)ruff check packages tests tools
	$(RUN)ruff format --check packages tests tools
	$(RUN)mypy
	$(RUN)lint-imports

clean:
	rm -rf $(VENV) runs build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache packages/*/*.egg-info *.egg-info
	find packages tests tools -name __pycache__ -prune -exec rm -rf {} +

# Made anew only when the requirements change.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "humandiff needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
		{ echo "$(PYTHON) cannot make virtual environments. On Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN)python -m pip install --quiet --disable-pip-version-check -e ".[dev]" -c constraints.txt
	@touch $@
