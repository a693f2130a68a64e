# make run    creates .venv, installs, runs the pipeline        make run ARGS="--limit 2000"   a quick run
# make test   lint, types and the fast tests (3 minutes)         make test-all                  also what is slow
# make torture  kills programs and their workers 200 times and compares what comes out (half an hour), then lets system
#               calls fail for an hour (with strace)
# make bench   every claim of speed, measured here (10 minutes)  make bench-full                all of it (hours)
# make gpu     checks and speed on a CUDA device (8 minutes), with the torch that is installed; no venv
#
# CPU=1 takes PyTorch's CPU build from its own index: 200 MB instead of several GB of CUDA on Linux.

PYTHON ?= python3
ARGS ?=
VENV := .venv
# Windows keeps a venv's programs in Scripts.
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
INDEX := $(if $(CPU),--index-url https://download.pytorch.org/whl/cpu --extra-index-url https://pypi.org/simple)

.PHONY: run test fast-tests test-all torture bench bench-full gpu lint style types clean

run: $(VENV)/.installed
	$(BIN)/python main.py $(ARGS)

# mypy has one process, so it runs beside the tests.
test: style
	$(MAKE) --no-print-directory --jobs=2 types fast-tests

fast-tests: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(ARGS)

test-all: $(VENV)/.installed-test lint
	$(BIN)/python -m pytest -m "slow or not slow" $(ARGS)

torture: $(VENV)/.installed-test
	$(BIN)/python tests/faults/torture.py $(ARGS)
	$(BIN)/python tests/faults/injections.py

bench: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/bench.py $(ARGS)

bench-full: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/bench.py --full $(ARGS)
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/many_students.py

gpu:
	$(PYTHON) benchmarks/gpu.py $(ARGS)

lint: style types

style: $(VENV)/.installed-test
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

types: $(VENV)/.installed-test
	$(BIN)/python -m mypy

$(VENV)/bin-made:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: pyproject.toml | $(VENV)/bin-made
	$(BIN)/python -m pip install --quiet $(INDEX) -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/bin-made
	$(BIN)/python -m pip install --quiet $(INDEX) -e ".[test]"
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-bench: pyproject.toml | $(VENV)/bin-made
	$(BIN)/python -m pip install --quiet $(INDEX) -e ".[bench]"
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
