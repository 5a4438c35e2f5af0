# Thin on purpose: CI and people call the same targets. Each one makes .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# no baseline is the same to the bit on another processor: its threads and vector units round differently
ROUNDING := $(foreach metric,fid sfid inception_score precision recall,--tolerance $(metric)=1%)

.PHONY: help install check format test unit slow regression demo bench clean

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

install: $(INSTALLED) ## make .venv with everything that the targets below need
$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

check: $(INSTALLED) ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(INSTALLED) ## rewrite to the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: unit ## every tier of tests
	$(BIN)/pytest tests/oracle tests/e2e

unit: $(INSTALLED) ## the tier that takes seconds
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto tests/unit

slow: $(INSTALLED) ## simulations of known truth: coverage of intervals, false alarms of the check
	$(BIN)/pytest -m simulation

regression: $(INSTALLED) ## draw the bundled digits, measure them and check them against the recorded baseline
	mkdir -p build/regression
	$(BIN)/dit-eval sample --model digits --num 500 --fresh --out build/regression/batch.npz
	$(BIN)/dit-eval fid build/regression/batch.npz digits --protocol digits --json build/regression/result.json
	$(BIN)/dit-eval check build/regression/result.json --baseline tests/fixtures/digits-baseline.json $(ROUNDING)

demo: $(INSTALLED) ## the main job on small real input, end to end
	$(BIN)/dit-eval demo

bench: $(INSTALLED) ## the evaluation side by side with its peers; benchmarks/ has the others
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(BIN)/python benchmarks/evaluate.py

clean: ## remove what the targets above made
	rm -rf .venv demo build dist
