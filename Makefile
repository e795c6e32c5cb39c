# Every target makes the virtual environment it needs; PYTHON names the interpreter, 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help train test verify check board clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

train: $(VENV)/run  ## the lesson: learn one bias, check every gradient, write runs/
	$(BIN)/python scripts/train.py

test: $(VENV)/dev  ## run the tests
	$(BIN)/python -m pytest

verify: $(VENV)/run  ## every gradient against another way of finding it
	$(BIN)/python scripts/verify.py

check: $(VENV)/dev  ## lint, format, types and all tests, the long ones too
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "long or not long"

board: $(VENV)/run  ## TensorBoard on runs/
	$(BIN)/tensorboard --logdir runs

clean:  ## remove the virtual environment and caches, keep the runs
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

$(VENV)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/run: $(VENV)/python pyproject.toml constraints.txt
	$(INSTALL) -e .
	touch $@

$(VENV)/dev: $(VENV)/python pyproject.toml constraints.txt
	$(INSTALL) -e '.[dev]'
	touch $@ $(VENV)/run
