# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0

# `make demo` and `make test` set everything up by themselves: an environment in .venv, this package and its tools in it.
# PYTHON chooses the interpreter, ARGS is passed on: `make demo PYTHON=python3.12`, `make test ARGS="-k prompts"`.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
ARGS ?=
CONSTRAINTS ?=

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
LOWEST := $(VENV)/lowest

.PHONY: demo test test-lowest lint format docs figures tables gpu notebooks clean

demo: $(INSTALLED)
	$(BIN)/anomalib-inctrl demo $(ARGS)

# One thread per worker: the tests' tensors are small, and threads of two workers only wait for each other. A worker that
# dies is not replaced: pytest-xdist can wait for ever for the tests that it had.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --max-worker-restart 0 $(ARGS)

# The tests with each dependency at the lower bound that pyproject.toml states, in an environment of its own. The oldest
# Python, because the newer ones have no builds of the oldest versions.
test-lowest: PYTHON = python3.10
test-lowest:
	@mkdir -p $(LOWEST)
	@sed -n '/^dependencies = /,/^]/p; /^export = /p' pyproject.toml | grep -oE '"[A-Za-z0-9_-]+>=[0-9.]+' | \
	  sed 's/"//; s/>=/==/' > $(LOWEST)/constraints.txt
	$(MAKE) test VENV=$(LOWEST) PYTHON=$(PYTHON) CONSTRAINTS=$(LOWEST)/constraints.txt

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Warnings are errors: a reference that leads nowhere, a page that cannot be read.
docs: $(INSTALLED)
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

# What the documentation shows of real runs; to be drawn again when the demonstration encoder or the models change.
figures: demo
	$(BIN)/python tools/docs_figures.py --output docs/images
	$(BIN)/python benchmarks/prompt_choices.py --output docs/measured/prompts.md

# Three quarters of an hour on one core; what was measured with the same settings and weights is not measured again.
tables: export OMP_NUM_THREADS = 1
tables: $(INSTALLED)
	$(BIN)/python benchmarks/ablate.py --config configs/ablations/mini_clip.yaml --output results/ablation_random \
	  setup.pretrained=null "reference=training-free baseline" \
	  "only=[training-free baseline, patch residual alone, text score alone]"
	$(BIN)/python benchmarks/ablate.py --config configs/ablations/mini_clip.yaml --output results/ablation_mini_clip
	$(BIN)/anomalib generalist --config configs/benchmarks/embedded.yaml
	$(BIN)/python tools/docs_tables.py

# All measurements for a GPU, in eight minutes, to results/gpu.json and results/gpu.md; ARGS=--small tries it on the CPU.
gpu: $(INSTALLED)
	$(BIN)/python benchmarks/speed.py --device cuda --no-openvino --minutes 8 --rounds 10 --batches 1 8 64 --shots 1 4 8 \
	  --categories capsule brick --output results/gpu.json $(ARGS)

notebooks: $(INSTALLED)
	$(BIN)/python tools/run_notebooks.py

clean:
	rm -rf $(VENV) build dist docs/_build docs/_notebooks .mypy_cache .pytest_cache .ruff_cache

# The stamp is older than these files when what is installed has changed; the package's modules are used in place.
$(INSTALLED): pyproject.toml $(wildcard autoload/*)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' || { \
	  echo "anomalib-inctrl needs Python 3.10 to 3.13; '$(PYTHON)' is $$($(PYTHON) --version || echo not there)." \
	    "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing anomalib-inctrl, what it needs and its tools into $(VENV); the first time this takes some minutes."
	$(BIN)/python -m pip install --disable-pip-version-check --quiet $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e ".[dev]"
	@touch $@
