# Every target stands alone: on a fresh clone each first makes the environment.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
JOBS   ?= 2

.PHONY: install demo test test-slow lint docs site bench gpu-check pins clean
.DEFAULT_GOAL := help

help:            ## this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1 \t/' | expand -t 20

install: $(READY)  ## the environment, in .venv

# The stamp comes last, so an interrupted installation starts again.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "xec needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch --editable '.[dev]'
	touch $(READY)

demo: $(READY)  ## the whole chain on toy data: ROOT, shards, training, report, predictions in ROOT
	$(BIN)/xec demo

test: $(READY)  ## the fast tests, in two processes; of one room only: make test ROOM=xectrain/models
	$(BIN)/pytest -n $(JOBS) --dist loadfile tests/$(ROOM)

# One thread each: two processes of two threads wait for each other. One SLURM has the machine for itself.
test-slow: $(READY)  ## the tests marked slow, in two processes; those of SLURM in one
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist loadfile -m 'slow and not gpu' --timeout 1800 tests --ignore tests/cluster
	$(BIN)/pytest -m 'slow and not gpu' --timeout 1800 tests/cluster

lint: $(READY)  ## ruff, mypy, import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY)  ## remake the generated pages of docs/
	$(BIN)/python -m xectrain.config.docs
	$(BIN)/python -m cluster.docs

site: $(READY)  ## the documentation as a site, in site/
	$(BIN)/mkdocs build --strict --quiet

bench: $(READY)  ## the benchmarks, into docs/benchmarks.md; some only: make bench BENCH="cores steps"
	$(BIN)/python benchmarks/write.py $(BENCH)

gpu-check: $(READY)  ## the tests that need a CUDA device; then: python benchmarks/gpu.py
	$(BIN)/pytest -m gpu

pins: $(READY)  ## remake constraints.txt from what is installed
	{ head -1 constraints.txt; $(BIN)/pip list --format=freeze --exclude xec --exclude pip --exclude setuptools | sed 's/+cpu//'; } > constraints.new
	mv constraints.new constraints.txt

clean:           ## the environment, the demo and every cache
	rm -rf $(VENV) demo site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
