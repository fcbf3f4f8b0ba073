# Everything happens in .venv, made with $(PYTHON) and made anew when that is another Python or pyproject.toml changes.

PYTHON ?= python3
VENV := .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check --quiet install --only-binary=:all:
ARGS ?=

TAG := $(shell $(PYTHON) -c 'import sys; v = sys.version_info; \
	print("%s-%d.%d.%d%s" % (sys.implementation.name, v[0], v[1], v[2], getattr(sys, "abiflags", "")))')

.PHONY: help demo test stress coverage mutants bench bench-quick bench-cold docs lint format matrix clean

help:
	@echo "make demo     install, and read this Python's own files under 64 handles and 16 MiB, every byte checked"
	@echo "make test     install, and run all tests (ARGS='-k name' is handed to pytest)"
	@echo "make stress   the model and the threads at random for SECONDS=60 (SEED=1 gives the same again)"
	@echo "make coverage branch coverage of the core, which must be 100 % (Python 3.12 or later)"
	@echo "make mutants  wrong changes to policy and plain engine, one at a time: which test notices (ARGS='-k seam' chooses)"
	@echo "make bench    install, time every workload against its limit and peers, write docs/performance.md (half an hour)"
	@echo "make bench-quick  a choice of rows in two minutes, written nowhere (ARGS='hits' chooses rows)"
	@echo "make bench-cold   reads of what is not in memory, one by one and in batches; write docs/cold.md (ten minutes)"
	@echo "make docs     build the documentation into site/, every reference checked"
	@echo "make lint     ruff and mypy"
	@echo "make format   let ruff reformat"
	@echo "make matrix   the tests on every Python found here"
	@echo "make clean    remove what these made"

demo: $(VENV)/.cli
	$(BIN)/smmap bench --handles 64 --memory 16M --reads 20000 $(ARGS)

# A file's tests run in one process: some of them share what they make. WORKERS=0 runs all of them in this one.
WORKERS ?= auto

test: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

# Half of the time each; ends at the first answer that is neither right nor a promised error.
SECONDS ?= 60
SEED := $(or $(SEED),$(shell date +%s))

stress: $(VENV)/.test
	$(BIN)/python tests/stress/run_model.py --seconds $$(($(SECONDS) / 2)) --seed $(SEED)
	$(BIN)/python tests/stress/run_threads.py --seconds $$(($(SECONDS) / 2)) --seed $(SEED)

# Python 3.12 or later: before, no class in Python can export bytes, so those lines are not reached.
coverage: $(VENV)/.test
	SMMAP_ENGINE=plain $(BIN)/python -m coverage run -m pytest tests/core tests/engine tests/stress tests/compat/test_names.py \
		tests/faces/test_buffers.py tests/faces/test_default.py tests/faces/test_files.py tests/faces/test_pickling.py $(ARGS)
	$(BIN)/python -m coverage report

mutants: $(VENV)/.test
	$(BIN)/python tools/mutants.py $(ARGS)

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks --write $(ARGS)

bench-quick: $(VENV)/.bench
	$(BIN)/python -m benchmarks --quick $(ARGS)

# Needs no root: it drops its own files from the page cache. 2 GiB are written below .bench/ or SMMAP_BENCH_DIR.
bench-cold: $(VENV)/.bench
	$(BIN)/python -m benchmarks.storage --write $(ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict

format: $(VENV)/.test
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

matrix: $(VENV)/.test
	$(PIP) nox
	$(BIN)/nox $(ARGS)

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)

clean:
	rm -rf $(VENV) site .nox .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/.python-$(TAG):
	@test -n "$(TAG)" || { echo "$(PYTHON) does not run: name a Python of 3.9 or later, as in make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 9))' || \
		{ echo "$(PYTHON) is $(TAG); smmap needs 3.9 or later: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.docs: $(VENV)/.python-$(TAG) pyproject.toml
	$(PIP) --editable '.[docs]'
	@touch $@

$(VENV)/.cli: $(VENV)/.python-$(TAG) pyproject.toml
	$(PIP) --editable '.[cli]'
	@touch $@

$(VENV)/.test: $(VENV)/.python-$(TAG) pyproject.toml
	$(PIP) --editable '.[test]'
	@touch $@

$(VENV)/.bench: $(VENV)/.python-$(TAG) pyproject.toml
	$(PIP) --editable '.[bench]'
	@touch $@
