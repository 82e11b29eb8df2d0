# make run    the tutorial's experiment, set up from nothing
# make test   all tests         make check   formatter, linter, types, imports
# make ui     the MLflow UI     make clean   remove what make made here
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: run test check format ui clean

run: .venv/installed
	@$(BIN)/lstm-flows compare

test: .venv/installed-dev
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

check: .venv/installed-dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: .venv/installed-dev
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

ui: .venv/installed
	@$(BIN)/lstm-flows ui

# An installation is complete where its stamp is; one that broke off is made again.
.venv/installed: pyproject.toml constraints.txt lstm_models/native.cpp
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lstm-flows needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	@echo "Setting up .venv (once; a few minutes) ..." >&2
	@$(PYTHON) -m venv .venv
	@$(PIP) torch
	@$(PIP) --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	@echo "Adding what the tests need ..." >&2
	@$(PIP) $$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["dev"])')
	@touch $@

clean:
	rm -rf .venv mlflow.db* mlruns mlartifacts tensorboard unfinished build dist *.egg-info lstm_models/_native_*.so
