# `make demo` and `make test` need only Python >= 3.11 and make; they install their dependencies into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1
# Without bytecode each of the processes that the tests start compiles the whole package anew.
unexport PYTHONDONTWRITEBYTECODE
# Number of test processes: auto is one per core, at most four, because each takes up to 3 GB of memory.
JOBS ?= auto
PYTEST = -m pytest $(if $(filter-out 1,$(JOBS)),-n $(JOBS) --maxprocesses 4 --dist worksteal)

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-oldest test-targets lint types format bench docs picture browser clean

help:  ## list the targets of this Makefile
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "netbuild needs Python 3.11 or newer: make PYTHON=python3.12 demo" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.core

demo: $(VENV)/.core  ## install into .venv and print the table of YOLO11n with 5 classes
	$(BIN)/netbuild summary yolo11n.yaml --nc 5

test: $(VENV)/.dev  ## install the test dependencies and run the tests, one process per core (JOBS=1: a single one)
	$(BIN)/python $(PYTEST)

test-all: $(VENV)/.dev  ## run the slow tests too
	$(BIN)/python $(PYTEST) -m ''

OLDEST := .venv-oldest
$(OLDEST)/.dev: pyproject.toml
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST)/bin/python --resolution lowest-direct -e '.[dev]'
	@touch $@

test-oldest: $(OLDEST)/.dev  ## run the tests with the least versions that pyproject.toml promises, in .venv-oldest
	$(OLDEST)/bin/python $(PYTEST)

TARGETS := executorch litert
test-targets: $(VENV)/.dev  ## install the large exporters that fit this torch, and run the tests of all targets
	@$(BIN)/python -m pip freeze | grep -i '^torch' > $(VENV)/torch.txt
	@for extra in $(TARGETS); do \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(VENV)/torch.txt -e ".[$$extra]" || \
	  echo "netbuild[$$extra] cannot be installed here: its tests are skipped" >&2; done
	$(BIN)/python -m pytest -m '' -rs tests/export/test_targets.py

lint: $(VENV)/.dev  ## check rules and format by ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev  ## check types by mypy, strictly
	$(BIN)/mypy

format: $(VENV)/.dev  ## fix and format the code by ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev  ## print ratios to importing torch and to a peer (benchmarks/README.md)
	$(BIN)/python benchmarks/summary.py
	@[ -z "$$NETBUILD_PEER" ] || $(BIN)/python benchmarks/network.py
	@[ -z "$$NETBUILD_PEER" ] || [ -z "$$NETBUILD_DATA" ] || $(BIN)/python benchmarks/training.py

docs: $(VENV)/.core  ## build the manual in site/; a broken link is an error
	@$(BIN)/python -c 'import material' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

picture: $(VENV)/.dev  ## redraw docs/yolo11n.svg, the picture of README
	$(BIN)/netbuild graph yolo11n.yaml -o docs/yolo11n.svg

browser:  ## install Chromium by apt-get for the tests of pages, which are skipped without it
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && apt-get install -qq -y chromium >/dev/null; } \
	  || { echo "no Chromium, and no apt-get as root: tests of pages will be skipped" >&2; }

clean:  ## remove build outputs and caches
	rm -rf build dist site .pytest_cache .ruff_cache .mypy_cache
