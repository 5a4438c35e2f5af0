# CI and developers call the same targets. Each one creates .venv if it is missing.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# Another processor rounds differently, so a baseline cannot be expected to match to the last bit.
ROUNDING := $(foreach metric,fid sfid inception_score precision recall,--tolerance $(metric)=1%)

.PHONY: help install check format test unit slow cuda regression record demo bench dist clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

install: $(INSTALLED) ## create .venv with everything that the targets below need
$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

check: $(INSTALLED) ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(INSTALLED) ## apply the formatter and the automatic lint fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: unit ## every tier of tests
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadfile tests/oracle tests/e2e

unit: $(INSTALLED) ## unit tests, some minutes
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto tests/unit

slow: $(INSTALLED) ## tests that take minutes: coverage of intervals, false alarms of the check, full rank
	$(BIN)/pytest -m simulation

cuda: $(INSTALLED) ## the tests that need a GPU
	$(BIN)/pytest -rs tests/cuda

# 2,000 images notice 10 sampling steps instead of 50 (FID +54 %); with 500 images FID would have to rise by 80 %.
regression: $(INSTALLED) ## sample the bundled digits, evaluate them and check them against the recorded baseline
	mkdir -p build/regression
	$(BIN)/dit-eval sample --model digits --num-samples 2000 --fresh --out build/regression/batch.npz
	$(BIN)/dit-eval fid build/regression/batch.npz digits --protocol digits --json build/regression/result.json
	$(BIN)/dit-eval check build/regression/result.json --baseline tests/fixtures/digits-baseline.json $(ROUNDING) --require-power fid=40%

record: $(INSTALLED) ## run the original programs again and compare with tests/golden; needs internet and Python 3.11
	$(BIN)/python -m tools.record

demo: $(INSTALLED) ## the whole pipeline on the bundled digits, about a minute
	$(BIN)/dit-eval demo

bench: $(INSTALLED) ## benchmark the evaluation against other packages; benchmarks/ has more
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(BIN)/python benchmarks/evaluate.py

dist: $(INSTALLED) ## build the source distribution and the wheel into dist/
	$(BIN)/python -m build --no-isolation --outdir dist

clean: ## remove what the targets above created
	rm -rf .venv demo build dist
