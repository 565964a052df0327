# `make demo` and `make test` need only Python >= 3.11 and make: they install into .venv what they use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1
# Tests at a time: auto is one a core, four at most, for each takes up to 3 GB of memory.
JOBS ?= auto
PYTEST = $(BIN)/python -m pytest $(if $(filter-out 1,$(JOBS)),-n $(JOBS) --maxprocesses 4 --dist worksteal)

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-targets lint types format bench docs picture browser clean

help:  ## list the targets
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

test: $(VENV)/.dev  ## install what the tests need and run them, one a core; JOBS=1: one after another
	$(PYTEST)

test-all: $(VENV)/.dev  ## the slow tests too
	$(PYTEST) -m ''

TARGETS := executorch litert
test-targets: $(VENV)/.dev  ## install large exporters as far as they go beside this torch, try all targets
	@$(BIN)/python -m pip freeze | grep -i '^torch' > $(VENV)/torch.txt
	@for extra in $(TARGETS); do \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(VENV)/torch.txt -e ".[$$extra]" || \
	  echo "netbuild[$$extra] does not install here: its tests are skipped" >&2; done
	$(BIN)/python -m pytest -m '' -rs tests/export/test_targets.py

lint: $(VENV)/.dev  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev  ## mypy, strict
	$(BIN)/mypy

format: $(VENV)/.dev  ## rewrite the code as ruff has it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev  ## ratios against importing torch, and against a peer's Python (benchmarks/README.md)
	$(BIN)/python benchmarks/summary.py
	@[ -z "$$NETBUILD_PEER" ] || $(BIN)/python benchmarks/network.py
	@[ -z "$$NETBUILD_PEER" ] || [ -z "$$NETBUILD_DATA" ] || $(BIN)/python benchmarks/training.py

docs: $(VENV)/.core  ## build the manual in site/, strictly: a broken link is an error
	@$(BIN)/python -c 'import material' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

picture: $(VENV)/.dev  ## draw docs/yolo11n.svg, the picture of README, anew
	$(BIN)/netbuild graph yolo11n.yaml -o docs/yolo11n.svg

browser:  ## install Chromium for the tests of pages, where apt-get may; without it they are skipped
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && apt-get install -qq -y chromium >/dev/null; } \
	  || { echo "no Chromium, and no apt-get as root: tests of pages will be skipped" >&2; }

clean:  ## remove what was built and cached
	rm -rf build dist site .pytest_cache .ruff_cache .mypy_cache
