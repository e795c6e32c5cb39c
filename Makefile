# Every target makes the virtual environment it needs; PYTHON names the interpreter, 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
define SIZES
printf '%s\n' \
	'Downloading PyTorch and the packages of constraints.txt into $(VENV), once.' \
	'On Linux the default torch brings CUDA along: 2 to 3 GB in all. On macOS it is about 0.2 GB.' \
	'The CPU build makes it 0.3 GB on Linux: make train PIP_EXTRA_INDEX_URL=..., the index that pytorch.org names for it.'
endef

.PHONY: help train lesson test verify check board clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

train: $(VENV)/run  ## the lesson: learn one bias, check every gradient, write runs/
	$(BIN)/pgtorch train

lesson: $(VENV)/run  ## the lesson as a page in the browser; pgtorch lesson tells it in the terminal
	$(BIN)/pgtorch lesson --page

test: $(VENV)/dev  ## run the tests
	$(BIN)/python -m pytest

verify: $(VENV)/run  ## every gradient against another way of finding it
	$(BIN)/pgtorch verify

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
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/run: $(VENV)/python pyproject.toml constraints.txt
	@$(SIZES)
	$(INSTALL) -e .
	touch $@

$(VENV)/dev: $(VENV)/python pyproject.toml constraints.txt
	@$(SIZES)
	$(INSTALL) -e '.[dev]'
	touch $@ $(VENV)/run
