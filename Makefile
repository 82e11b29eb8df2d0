# make run    the tutorial's experiment, set up from nothing
# make test   the tests, in 10 minutes     make test-all   all of them, in 25     make coverage   all, and what they miss
# make check  formatter, linter, types, imports             make ui   the MLflow UI
# make clean  remove what make made here
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# the names in a list of pyproject.toml's
listed = $$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))$(1))')
# long files first; the tests of one file share fixtures
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 20
LANES := tests/integration tests/unit

.PHONY: run test test-all test-backends coverage check format ui clean

run: .venv/built
	@$(BIN)/lstm-flows compare

test: .venv/built .venv/installed-dev
	@$(PYTEST) tests/e2e/essential $(LANES)

test-all: .venv/built .venv/installed-dev
	@$(PYTEST) tests/e2e $(LANES)

# The LSTM without its native loop over time, and that loop on AVX2, where the tests above ran on AVX-512.
test-backends: .venv/built .venv/installed-dev
	@LSTM_FLOWS_BACKEND=python $(PYTEST) tests/unit/lstm_models/nn
	@ATEN_CPU_CAPABILITY=avx2 $(PYTEST) tests/unit/lstm_models/nn/kernels

# Branches too, and those of the processes that tests start; each line with the tests that run it.
coverage: .venv/built .venv/installed-dev
	@$(PYTEST) tests/e2e $(LANES) --cov --cov-context=test --cov-report=
	@$(BIN)/coverage report

check: .venv/built .venv/installed-dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: .venv/installed-dev
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

ui: .venv/built
	@$(BIN)/lstm-flows ui

# An installation is complete where its stamp is; one that broke off is made again.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lstm-flows needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	@echo "Setting up .venv (once; a few minutes) ..." >&2
	@$(PYTHON) -m venv .venv
	@$(PIP) torch
	@$(PIP) $(call listed,["project"]["dependencies"])
	@touch $@

# The program itself, which is built in seconds: the native loop over time, and the command.
.venv/built: .venv/installed lstm_models/nn/kernels/native.cpp
	@$(PIP) --no-deps --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	@echo "Adding what the tests need ..." >&2
	@$(PIP) $(call listed,["dependency-groups"]["dev"])
	@touch $@

clean:
	rm -rf .venv .coverage* mlflow.db* mlruns mlartifacts tensorboard .lstm_flows build dist *.egg-info lstm_models/nn/kernels/_native_*.so
