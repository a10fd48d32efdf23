# `make demo` and `make test` set everything up themselves; `make check` is what a change must pass.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/
READY := $(VENV)/.ready
# The CPU count that this process may use, not the machine's. Each worker has a stretch of files, so that what the tests
# of a file share is made once.
WORKERS := -n $(shell nproc) --dist worksteal

.PHONY: demo test test-all test-cluster check viewer clean

demo: $(READY)
	$(RUN)python tools/demo.py --output runs/demo --overwrite

test: $(READY)
	$(RUN)python -m pytest $(WORKERS) -m "not slow and not gpu and not cluster"

test-all: $(READY)
	$(RUN)python -m pytest $(WORKERS) -m "not cluster"

# Several nodes and a Slurm on this machine, one test after the other: docs/clusters.md. tools/slurm/install_debian.sh
# installs the Slurm.
test-cluster: $(READY)
	OMP_NUM_THREADS=1 $(RUN)python -m pytest -m cluster tests/cluster

check: $(READY)
	$(RUN)ruff check packages tests tools
	$(RUN)ruff format --check packages tests tools
	$(RUN)mypy
	$(RUN)lint-imports

# The program in the HTML pages, from its sources; needs node 20 or newer.
viewer:
	cd tools/viewer && npm ci --no-audit --no-fund && npm run build

clean:
	rm -rf $(VENV) tools/viewer/node_modules tests/js/node_modules runs build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache packages/*/*.egg-info *.egg-info
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
