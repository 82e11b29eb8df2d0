# make run        set up .venv and run the tutorial's experiment
# make test       unit, integration and essential end-to-end tests (10 minutes)
# make test-all   all tests (25 minutes)          make coverage   all tests, with branch coverage
# make check      formatter, linter, types, import rules
# make ui         the MLflow UI                   make clean      remove everything that make and runs have created
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# the requirements in a list of pyproject.toml
listed = $$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))$(1))')
# Slow files first; the tests of one file run in one worker, because they share fixtures.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 20
LANES := tests/integration tests/unit

.PHONY: run test test-all test-backends coverage check format ui clean

run: .venv/built
	@$(BIN)/lstm-flows compare

test: .venv/built .venv/installed-dev
	@$(PYTEST) tests/e2e/essential $(LANES)

test-all: .venv/built .venv/installed-dev
	@$(PYTEST) tests/e2e $(LANES)

# The LSTM without the native kernel, and the native kernel with AVX2 (the tests above use AVX-512 where available).
test-backends: .venv/built .venv/installed-dev
	@LSTM_FLOWS_BACKEND=python $(PYTEST) tests/unit/lstm_models/nn
	@ATEN_CPU_CAPABILITY=avx2 $(PYTEST) tests/unit/lstm_models/nn/kernels

# Branch coverage, including processes that tests start; each line records the tests that run it.
coverage: .venv/built .venv/installed-dev
	@$(PYTEST) tests/e2e $(LANES) --cov --cov-context=test --cov-report=
	@$(BIN)/coverage report

check: .venv/built .venv/installed-dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python .ci/vocabulary.py

format: .venv/installed-dev
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

ui: .venv/built
	@$(BIN)/lstm-flows ui

# The stamp file marks a complete installation; an interrupted one is repeated.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lstm-flows needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	@echo "Setting up .venv (once; a few minutes) ..." >&2
	@$(PYTHON) -m venv .venv
	@$(PIP) torch
	@$(PIP) $(call listed,["project"]["dependencies"])
	@touch $@

# Build the native kernel and install the command; this takes seconds.
.venv/built: .venv/installed lstm_models/nn/kernels/native.cpp
	@$(PIP) --no-deps --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	@echo "Installing the development dependencies ..." >&2
	@$(PIP) $(call listed,["dependency-groups"]["dev"])
	@touch $@

clean:
	rm -rf .venv .coverage* mlflow.db* mlruns mlartifacts tensorboard .lstm_flows build dist *.egg-info lstm_models/nn/kernels/_native_*.so
