# Everything happens in .venv, made with $(PYTHON), and made anew when that is another Python; installed anew when
# pyproject.toml, setup.py or the fast engine's sources change.

PYTHON ?= python3
VENV := .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check --quiet install --only-binary=:all:
# On PyPy there are no wheels of most libraries.
TESTS = $(if $(filter pypy-%,$(TAG)),test-core,test)
ARGS ?=

# All that tools remember between runs lies in .venv, too.
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
	@echo "make test     install, and run the tests, the core with both engines (ARGS='-k name' is handed to pytest)"
	@echo "make test-all the same, the stress tests with both engines too, and a part under sanitizers"
	@echo "make stress   the model and the threads at random for SECONDS=60, and both engines side by side (SEED=1 gives the same again)"
	@echo "make sanitize tests of the fast engine under ASan and UBSan (a part of it is in make test-all)"
	@echo "make coverage branch coverage of the core, which must be 100 % (Python 3.12 or later)"
	@echo "make coverage-fast  line coverage of the fast engine's sources, by gcov"
	@echo "make mutants  wrong changes to policy and plain engine, one at a time: which test notices (ARGS='-k seam' chooses)"
	@echo "make mutation all changes that cosmic-ray makes of the lines since a commit, likewise (ARGS='--since HEAD~3 --sample 50')"
	@echo "make bench    install, time every workload with both engines beside its limit and peers, write docs/performance.md (half an hour)"
	@echo "make bench-quick  most rows with a goal in two minutes, written nowhere (ARGS='hits' chooses rows)"
	@echo "make bench-cold   reads of what is not in memory, one by one and in batches; write docs/cold.md (ten minutes)"
	@echo "make bench-floors what the rows of that page which miss their goal take in C; write docs/cold.md"
	@echo "make docs     build the documentation into site/, every reference checked"
	@echo "make lint     ruff and mypy, also of the fast engine's stub where it is built; spelling, and the words that are not used here (tools/prose.py)"
	@echo "make format   let ruff reformat"
	@echo "make matrix   the tests on every Python found here"
	@echo "make wheels   the sdist and a wheel for every Python found here into dist/, each one checked and tried"
	@echo "make clean    remove what these made"

demo: $(VENV)/.cli
	$(BIN)/smmap bench --handles 512 --memory 256M $(ARGS)

# A file's tests run in one process: some of them share what they make. WORKERS=0 runs all of them in this one.
WORKERS ?= auto

# What depends on the engine, and runs again for the plain one where the fast one was built: CORE in `make test`, BOTH in
# `make test-all`. With ARGS there may be nothing of it to run, which is no failure.
CORE := tests/core tests/engine/test_choice.py tests/compat/test_names.py tests/faces/test_buffers.py
BOTH := $(CORE) tests/stress tests/faces/test_default.py tests/faces/test_files.py tests/faces/test_pickling.py
AGAIN = $(CORE)

test: $(VENV)/.test
	$(PYTEST) -n $(WORKERS) --dist loadfile $(ARGS)
	@$(BIN)/python -c 'import smmap; print("engine:", smmap.engine, smmap.engine_error)'
	@if $(BIN)/python -c 'import smmap, sys; sys.exit(smmap.engine != "fast")'; then \
		echo "again, with the plain engine: what depends on it"; \
		SMMAP_ENGINE=plain $(PYTEST) -n $(WORKERS) --dist loadfile \
			$(if $(findstring tests/,$(ARGS)),,$(AGAIN)) $(ARGS) || test $$? = 5; \
	fi

test-all: AGAIN = $(BOTH)
test-all: test
	$(if $(ARGS),,@$(MAKE) --no-print-directory lint-stub)
	$(if $(ARGS),,$(BIN)/python tools/sanitize.py --quick)

# Builds into .sanitize/. ARGS='tests/core' runs other tests.
sanitize: $(VENV)/.test
	$(BIN)/python tools/sanitize.py $(ARGS)

# Half of the time each; ends at the first answer that is neither right nor a promised error. Then both engines, the same
# calls, for STEPS steps.
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

# Needs no root: it drops its own files from the page cache. 2 GiB are written below .bench/ or SMMAP_BENCH_DIR.
bench-cold: $(VENV)/.bench
	$(BIN)/python -m benchmarks.storage --write $(ARGS)

# What the rows of docs/cold.md that miss their goal would take in C: needs a C compiler.
bench-floors: $(VENV)/.bench
	$(BIN)/python -m benchmarks.floors --write $(ARGS)

lint: $(VENV)/.lint $(wildcard $(VENV)/.test)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell
	$(BIN)/python tools/prose.py
	$(BIN)/mypy --strict
	@$(MAKE) --no-print-directory lint-stub

# Only where the engine was built, as by `make test`, which takes longer than all of the above.
lint-stub: $(VENV)/.lint
	@if $(BIN)/python -c 'import smmap._engine.fast' 2>/dev/null; then $(MAKE) --no-print-directory lint-fast; \
		else echo "the fast engine is not built: its stub is not checked (make test-all builds and checks it)"; fi

# The fast engine's stub beside the extension, and beside all that the policy calls of an engine; both have the same names.
lint-fast:
	$(BIN)/stubtest --allowlist tools/stubtest.txt --ignore-unused-allowlist smmap._engine.fast
	MYPYPATH=src $(BIN)/mypy --config-file= --strict --always-true FAST --ignore-missing-imports \
		-m smmap -m smmap.fsspec -m smmap.numpy
	$(PYTEST) -q tests/engine/test_same_names.py

format: $(VENV)/.lint
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Into dist/. ARGS='--only 3.11,3.13' builds for these Pythons.
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
	@test -n "$(TAG)" || { echo "$(PYTHON) does not run: name a Python of 3.9 or later, as in make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 9))' || \
		{ echo "$(PYTHON) is $(TAG); smmap needs 3.9 or later: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	@touch $@

# The one that Python brings may not know dependency groups.
$(VENV)/.pip: $(VENV)/.python-$(TAG)
	$(PIP) --upgrade 'pip>=25.1'
	@touch $@

# What the installation is made from: it is made anew when one of them changes.
SOURCES := pyproject.toml setup.py src/smmap/_engine/_sources.py $(wildcard $(foreach kind,pyx pxi h,src/smmap/_engine/*.$(kind)))

$(VENV)/.docs: $(VENV)/.pip $(SOURCES)
	$(PIP) --editable . --group docs
	@touch $@

$(VENV)/.cli: $(VENV)/.python-$(TAG) $(SOURCES)
	$(PIP) --editable '.[cli]'
	@touch $@

# Neither smmap nor all of the libraries that tests use, which take minutes; nor their bytecode, which takes as long again.
$(VENV)/.lint: $(VENV)/.pip pyproject.toml
	$(PIP) --no-compile --group lint
	@touch $@

$(VENV)/.test: $(VENV)/.pip $(SOURCES)
	$(PIP) --editable . --group $(TESTS)
	@touch $@

# cosmic-ray needs GitPython, and that an smmap: this one, which is there by then. There is no wheel of yattag.
$(VENV)/.mutation: $(VENV)/.test pyproject.toml
	$(PIP) --no-binary=yattag --group mutation
	@touch $@

$(VENV)/.bench: $(VENV)/.pip $(SOURCES)
	$(PIP) --editable . --group bench
	@touch $@
