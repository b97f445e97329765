# Every target sets up what it needs; `make help` lists them.
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
.DEFAULT_GOAL := help
.PHONY: help setup serve test check export lab docs hooks lock clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: .venv/.ready ## Install everything into .venv

.venv/.ready: .ci/lock.txt settings.ini setup.py pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r .ci/lock.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	touch $@

export: setup ## Clean, format and export the notebooks
	nbdev-clean
	ruff format -q nbs tests docs bench conftest.py setup.py
	nbdev-export
	python docs/nbdoc.py

lab: setup ## Open the notebooks in JupyterLab
	jupyter lab nbs

lock: ## Pin the newest tools and libraries for development and CI
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --extra dev -o .ci/lock.txt setup.py

clean: ## Remove what the other targets made, .venv included
	rm -rf .venv build dist reports models docs/_build docs/guide .coverage* .pytest_cache .mypy_cache .ruff_cache
