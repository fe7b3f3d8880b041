# One command per job. Everything but `gpu-test` runs in a virtual environment that the first
# command makes; stamp files in it keep later runs quick.
#
#   make demo        the main job on a real MRI volume        make build    the libraries
#   make test        every test that this machine can run     make wheel    dist/*.whl
#   make gpu-test    the `gpu` tests, offline, with $(PYTHON) make lint     format, lint, types
#   make bench       the benchmark (ARGS="--quick")           make format   rewrite the format
#   make figures     pictures and README table of RESULT=...  make clean    forget all of it
#
# Variables: PYTHON (makes the environment), VENV (its folder), TORCH (what pip installs as torch),
# ARGS (further arguments of demo, test, gpu-test and bench).

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
ARGS ?=

BIN := $(VENV)/bin
export PATH := $(abspath $(BIN)):$(PATH)

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SOURCES := setup.py CMakeLists.txt ops/version.py $(wildcard cmake/*) $(shell find csrc -type f)
CXX_SOURCES := $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.PHONY: demo test gpu-test build wheel lint format bench figures clean help

help:
	@sed -n '/^#  /s/^# //p' Makefile

# torch comes first and alone, so that what follows finds its requirement met.
$(VENV)/.torch:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "convt3d needs Python 3.10")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade 'pip>=23'
	$(PIP) '$(TORCH)'
	$(PIP) 'setuptools>=70.1' wheel 'cmake>=3.24' ninja numpy
	@touch $@

# CMake's and ninja's words are shown here; pip's build below then finds nothing left to do.
$(VENV)/.built: $(VENV)/.torch $(SOURCES)
	$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

# `.extras-test,demo` is "installed in place, with these extras". torch is named again: what an extra
# requires must not replace it.
$(VENV)/.extras-%: $(VENV)/.torch pyproject.toml setup.py ops/version.py | $(VENV)/.built
	$(PIP) --no-build-isolation --editable '.[$*]' '$(TORCH)'
	@touch '$@'

# Format, lint and types need no build, only the tools of the extra `dev`.
$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(PIP) $$($(BIN)/python -c "from setuptools.config.pyprojecttoml import load_file; \
	  print(*load_file('pyproject.toml')['project']['optional-dependencies']['dev'])")
	@touch $@

build: $(VENV)/.built

demo: $(VENV)/.extras-demo
	$(BIN)/python -m convt3d demo $(ARGS)

test: $(VENV)/.extras-test,test-models,export,demo,bench
	$(BIN)/python -m pytest $(ARGS) tests

# For a machine that has torch and the test tools and can install nothing: a wheel in dist/ is
# unpacked and tested, else the package must be importable.
gpu-test:
	@set -e; wheel=$$(ls -t dist/convt3d-*.whl 2>/dev/null | head -n 1); \
	if [ -n "$$wheel" ]; then \
	  echo "testing $$wheel"; rm -rf build/gpu-site; \
	  $(PYTHON) -m zipfile -e "$$wheel" build/gpu-site; \
	  export PYTHONPATH="$(CURDIR)/build/gpu-site$${PYTHONPATH:+:$$PYTHONPATH}"; \
	fi; \
	$(PYTHON) -m pytest -m gpu $(ARGS) tests

wheel: $(VENV)/.torch $(SOURCES)
	rm -rf dist build/lib build/bdist*
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps \
	  --wheel-dir dist .
	@ls dist/*.whl

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy ops meta
	$(BIN)/clang-format --dry-run -Werror $(CXX_SOURCES)

format: $(VENV)/.dev
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_SOURCES)

bench: $(VENV)/.extras-bench
	$(BIN)/python -m convt3d bench $(ARGS)

figures: $(VENV)/.extras-bench
	@test -n "$(RESULT)" || { echo "name a result: make figures RESULT=benchmarks/results/<file>.json"; exit 2; }
	$(BIN)/python -m convt3d bench figures $(RESULT) --readme README.md $(ARGS)

clean:
	rm -rf build dist ops/lib $(VENV) *.egg-info demo-output
