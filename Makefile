# Every target creates .venv and installs what it needs (pinned in requirements.lock).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKSPACE ?= runs/demo
STAMP := $(VENV)/.installed

.PHONY: help setup demo test test-fast lint format bench-dag bench-alignment clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(STAMP)  ## create .venv and install everything, detectron2 included

$(STAMP): requirements.lock pyproject.toml deploy/install_detectron2.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "regionvlp needs Python >= 3.11; found $$($(PYTHON) --version); run 'make PYTHON=python3.12 ...'"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python -m deploy.install_detectron2
	@touch $@

demo: $(STAMP)  ## the whole DAG on the embedded demo corpus; prints where its report is
	$(BIN)/regionvlp run demo --workspace $(WORKSPACE)

test: $(STAMP)  ## every test (the whole DAG, kill -9 and resume included)
	$(BIN)/python -m pytest -q

test-fast: $(STAMP)  ## unit, golden and contract tests only
	$(BIN)/python -m pytest -q tests/unit tests/golden tests/contract

lint: $(STAMP)  ## ruff and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: $(STAMP)  ## rewrite the sources in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-dag: $(STAMP)  ## seconds per DAG stage of the demo, in a workspace of its own
	$(BIN)/python -m benchmarks.dag

bench-alignment: $(STAMP)  ## region-word alignment against Base on the frozen demo test, three seeds
	$(BIN)/python -m benchmarks.alignment --workspace $(WORKSPACE)

clean:  ## remove the virtual environment and the demo's results
	rm -rf $(VENV) $(WORKSPACE)
