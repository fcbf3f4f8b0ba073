# Everything happens in .venv. It is made with $(PYTHON), and made again when that is another Python. smmap is installed
# again when pyproject.toml, setup.py or the fast engine's sources change.

PYTHON ?= python3
VENV := .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check --quiet install --only-binary=:all:
# Most libraries have no wheels for PyPy, and some have none for free-threaded CPython.
TESTS = $(if $(filter pypy-% %t,$(TAG)),test-core,test)
ARGS ?=

# The caches of tools are in .venv, too.
CACHE := $(CURDIR)/$(VENV)/cache
PYTEST = $(BIN)/python -m pytest -o cache_dir=$(CACHE)/pytest
export HYPOTHESIS_STORAGE_DIRECTORY := $(CACHE)/hypothesis
export MYPY_CACHE_DIR := $(CACHE)/mypy
export RUFF_CACHE_DIR := $(CACHE)/ruff

TAG := $(shell $(PYTHON) -c 'import sys; v = sys.version_info; \
	print("%s-%d.%d.%d%s" % (sys.implementation.name, v[0], v[1], v[2], getattr(sys, "abiflags", "")))')

.PHONY: help demo test test-all stress sanitize coverage coverage-fast mutants mutation bench bench-quick bench-cold bench-floors docs lint lint-stub lint-fast format matrix wheels clean

help:
	@echo "make demo     install, and read this Python's own files under 512 handles and 256 MiB, every byte checked"
	@echo "make test     install, and run the tests, the core with both engines; six minutes (ARGS='-k name' is passed to pytest)"
	@echo "make test-all the same and those that take long; the stress tests with both engines, and some tests under sanitizers"
	@echo "make stress   the model and the threads at random for SECONDS=60, and both engines side by side (SEED=1 repeats a run)"
	@echo "make sanitize tests of the fast engine under ASan and UBSan (make test-all runs some of them)"
	@echo "make coverage branch coverage of the core, which must be 100 % (Python 3.12 or later)"
	@echo "make coverage-fast  line coverage of the fast engine's sources, by gcov"
	@echo "make mutants  break the policy and the plain engine in one place at a time: does a test fail? (ARGS='-k seam' chooses)"
	@echo "make mutation the same with every change that cosmic-ray makes in the lines since a commit (ARGS='--since HEAD~3 --sample 50')"
	@echo "make bench    install, time every workload with both engines beside its limit and peers, write docs/performance.md (half an hour)"
	@echo "make bench-quick  most rows with a goal, in two minutes; writes nothing (ARGS='hits' chooses rows)"
	@echo "make bench-cold   reads of data that is not in memory, one by one and in batches; write docs/cold.md (ten minutes)"
	@echo "make bench-floors the rows of that page that miss their goal, beside the same work in C; write docs/cold.md"
	@echo "make docs     build the documentation into site/, every reference checked"
	@echo "make lint     ruff, mypy, spelling, and words that are not used here (tools/prose.py); the fast engine's stub where it is built"
	@echo "make format   reformat with ruff"
	@echo "make matrix   the tests on every Python found here"
	@echo "make wheels   the sdist and a wheel for every Python found here into dist/, each one checked and tried"
	@echo "make clean    remove everything that these commands made"

demo: $(VENV)/.cli
	$(BIN)/smmap bench --handles 512 --memory 256M $(ARGS)

# A file's tests run in one process: some of them share what they make. WORKERS=0 runs all of them in this one.
WORKERS ?= auto

# The tests that depend on the engine, and run again for the plain one where the fast one was built: CORE in `make test`,
# BOTH in `make test-all`. With ARGS there may be none of them to run, which is not a failure.
CORE := tests/core tests/engine/test_choice.py tests/compat/test_names.py tests/faces/test_buffers.py
BOTH := $(CORE) tests/stress tests/faces/test_default.py tests/faces/test_files.py tests/faces/test_pickling.py
AGAIN = $(CORE)
CHOICE = -m "not slow and not long"

test: $(VENV)/.test
	$(PYTEST) -n $(WORKERS) --dist loadfile $(if $(ARGS),,$(CHOICE)) $(ARGS)
	@$(BIN)/python -c 'import smmap; print("engine:", smmap.engine, smmap.engine_error)'
	@if $(BIN)/python -c 'import smmap, sys; sys.exit(smmap.engine != "fast")'; then \
		echo "again with the plain engine: the tests that depend on the engine"; \
		SMMAP_ENGINE=plain $(PYTEST) -n $(WORKERS) --dist loadfile \
			$(if $(findstring tests/,$(ARGS)),,$(AGAIN)) $(ARGS) || test $$? = 5; \
	fi

test-all: AGAIN = $(BOTH)
test-all: CHOICE =
test-all: test
	$(if $(ARGS),,@$(MAKE) --no-print-directory lint-stub)
	$(if $(ARGS),,$(BIN)/python tools/sanitize.py --quick)

# Builds into .sanitize/. ARGS='tests/core' runs other tests.
sanitize: $(VENV)/.test
	$(BIN)/python tools/sanitize.py $(ARGS)

# Each runs for half of the time, and stops at the first result that is neither right nor a promised error. Then both
# engines get the same calls, for STEPS steps.
STEPS ?= 50000
SECONDS ?= 60
SEED := $(or $(SEED),$(shell date +%s))

stress: $(VENV)/.test
	$(BIN)/python tests/stress/run_model.py --seconds $$(($(SECONDS) / 2)) --seed $(SEED)
	$(BIN)/python tests/stress/run_threads.py --seconds $$(($(SECONDS) / 2)) --seed $(SEED)
	$(BIN)/python tests/stress/run_differential.py --steps $(STEPS) --seed $(SEED)

# Python 3.12 or later: before, no class in Python can export bytes, so those lines are not reached.
coverage: $(VENV)/.test
	SMMAP_ENGINE=plain $(BIN)/python -m coverage run -m pytest -o cache_dir=$(CACHE)/pytest tests/core tests/engine tests/stress tests/compat/test_names.py \
		tests/faces/test_buffers.py tests/faces/test_default.py tests/faces/test_files.py tests/faces/test_pickling.py $(ARGS)
	$(BIN)/python -m coverage report

coverage-fast: $(VENV)/.test
	$(BIN)/python tools/coverage_fast.py $(ARGS)

mutants: $(VENV)/.test
	$(BIN)/python tools/mutants.py $(ARGS)

mutation: $(VENV)/.mutation
	$(BIN)/python tools/mutation.py $(ARGS)

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks --write $(ARGS)

bench-quick: $(VENV)/.bench
	$(BIN)/python -m benchmarks --quick $(ARGS)

# Does not need root: it drops its own files from the page cache. It writes 2 GiB below .bench/ or SMMAP_BENCH_DIR.
bench-cold: $(VENV)/.bench
	$(BIN)/python -m benchmarks.storage --write $(ARGS)

# The rows of docs/cold.md that miss their goal, beside the same work in C: needs a C compiler.
bench-floors: $(VENV)/.bench
	$(BIN)/python -m benchmarks.floors --write $(ARGS)

lint: $(VENV)/.lint $(wildcard $(VENV)/.test)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell
	$(BIN)/python tools/prose.py
	$(BIN)/mypy --strict
	@$(MAKE) --no-print-directory lint-stub

# Only if the engine was built, for example by `make test`: building takes longer than all of the above.
lint-stub: $(VENV)/.lint
	@if $(BIN)/python -c 'import smmap._engine.fast' 2>/dev/null; then $(MAKE) --no-print-directory lint-fast; \
		else echo "the fast engine is not built: its stub is not checked (make test-all builds and checks it)"; fi

# Compares the fast engine's stub with the extension, and with everything that the policy calls; both engines have the same
# names.
lint-fast:
	$(BIN)/stubtest --allowlist tools/stubtest.txt --ignore-unused-allowlist smmap._engine.fast
	MYPYPATH=src $(BIN)/mypy --config-file= --strict --always-true FAST --ignore-missing-imports \
		-m smmap -m smmap.fsspec -m smmap.numpy
	$(PYTEST) -q tests/engine/test_same_names.py

format: $(VENV)/.lint
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Writes into dist/. ARGS='--only 3.11,3.13' builds only for these Pythons.
wheels: $(VENV)/.python-$(TAG)
	$(PIP) auditwheel build check-wheel-contents twine
	$(BIN)/python tools/wheels.py $(ARGS)

matrix: $(VENV)/.test
	$(PIP) nox
	$(BIN)/nox $(ARGS)

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)

clean:
	rm -rf $(VENV) build dist site .nox .sanitize .coverage .coverage-fast .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/.python-$(TAG):
	@test -n "$(TAG)" || { echo "$(PYTHON) does not run: name Python 3.9 or later, as in make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 9))' || \
		{ echo "$(PYTHON) is $(TAG); smmap needs 3.9 or later: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	@touch $@

# The pip that comes with Python may not know dependency groups.
$(VENV)/.pip: $(VENV)/.python-$(TAG)
	$(PIP) --upgrade 'pip>=25.1'
	@touch $@

# The sources of the installation, which is made again when one of them changes.
SOURCES := pyproject.toml setup.py src/smmap/_engine/_sources.py $(wildcard $(foreach kind,pyx pxi h,src/smmap/_engine/*.$(kind)))

$(VENV)/.docs: $(VENV)/.pip $(SOURCES)
	$(PIP) --editable . --group docs
	@touch $@

$(VENV)/.cli: $(VENV)/.python-$(TAG) $(SOURCES)
	$(PIP) --editable '.[cli]'
	@touch $@

# Without smmap, the libraries for tests, and bytecode: each of these would take minutes.
$(VENV)/.lint: $(VENV)/.pip pyproject.toml
	$(PIP) --no-compile --group lint
	@touch $@

$(VENV)/.test: $(VENV)/.pip $(SOURCES)
	$(PIP) --editable . --group $(TESTS)
	@touch $@

# cosmic-ray needs GitPython, which needs an smmap: this one is installed by then. yattag has no wheel.
$(VENV)/.mutation: $(VENV)/.test pyproject.toml
	$(PIP) --no-binary=yattag --group mutation
	@touch $@

$(VENV)/.bench: $(VENV)/.pip $(SOURCES)
	$(PIP) --editable . --group bench
	@touch $@
