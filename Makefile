# Every target does its own set-up: on a fresh machine with Python 3.11 or newer, `make quickstart` is all it takes.
#   make test PYTHON=python3.12        with another interpreter

PYTHON ?= python3
VENV ?= .venv
INSTALLED := $(VENV)/.installed
# A process of tests for each core, eight at most, for each imports all libraries. A file stays in one process, which makes
# its fixtures once; files with slow tests come first (tests/conftest.py).
WORKERS := -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.PHONY: help setup test test-all quickstart lint ci clean

help:
	@echo "make quickstart   train a small LLaVA from nothing and talk about what it sees (minutes, no GPU)"
	@echo "make test         the tests, but for those that take long"
	@echo "make test-all     all tests"
	@echo "make lint         ruff and mypy"
	@echo "make ci           everything that continuous integration runs, in a fresh environment"
	@echo "make clean        remove the environment and what the tools left"

setup: $(INSTALLED)

# The environment is renewed when what it was installed from has changed, and left alone otherwise.
$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -c constraints.txt -e '.[dev]'
	touch $@

test: $(INSTALLED)
	$(VENV)/bin/python -m pytest -m "not slow" $(WORKERS)

test-all: $(INSTALLED)
	$(VENV)/bin/python -m pytest $(WORKERS)

quickstart: $(INSTALLED)
	$(VENV)/bin/llavakit quickstart --output_dir runs/quickstart

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

ci:
	PYTHON=$(PYTHON) .ci/run

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
