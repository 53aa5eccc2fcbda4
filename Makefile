# Every target does its own set-up: a virtual environment in .venv with the project and its tools.
# Needed on the machine: Python >= 3.10 with venv, make, a C++ compiler, and the package registry. With nvcc and
# TensorRT's headers (TENSORRT_ROOT=…) the native libraries have their GPU parts too; MRCNN_ARCHITECTURES=… chooses
# the GPUs.
#
#   make demo     checkpoint -> ONNX -> parity -> overlay -> benchmark, into out/demo/
#   make test     the whole test suite
#   make lint     ruff, mypy, clang-format (changes nothing)
#   make format   let ruff and clang-format rewrite the sources
#   make gpu-check  check and time the CUDA kernels on this machine's GPU; docs/kernels.md
#   make clean    remove what was built; .venv stays (remove it by hand to start afresh)

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The first Python that is new enough and can make virtual environments. `make PYTHON=… test` overrides.
PYTHON ?= $(firstword $(foreach p,python3 python3.12 python3.11 python3.10 python3.13 python3.14,\
	$(shell $(p) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $(p))))

VENV := .venv
BIN := $(VENV)/bin
# Newer than pyproject.toml, setup.py and the sources of the native libraries means: the environment holds what
# they ask for.
READY := $(VENV)/.ready
NATIVE := plugins/build.py plugins/toolchain.py plugins/CMakeLists.txt plugins/exports.map $(wildcard plugins/cmake/*.cmake) \
	$(wildcard plugins/*/*.h) $(wildcard plugins/*/*.cpp) $(wildcard plugins/*/*.cu)
PACKAGES := export runtime plugins benchmarks
TYPES := build/types
CXX_SOURCES = $(shell find plugins tests benchmarks \( -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' \) -type f)

.PHONY: help demo test lint format gpu-check types clean

help:
	@sed -n 's/^#   //p' Makefile

# Where only the native libraries changed, they alone are built again. Status 3 means that the machine has nothing
# to build them with, which a line says; everything else works without them.
$(READY): pyproject.toml setup.py $(NATIVE)
	@if [ ! -x $(BIN)/python ]; then \
	    if [ -z "$(PYTHON)" ]; then \
	        echo "No Python >= 3.10 with the venv module found: install one (Debian: apt install python3-venv)," \
	             "or name yours: make PYTHON=/path/to/python3" >&2; exit 3; \
	    fi; \
	    echo "Creating $(VENV) with $$($(PYTHON) --version)"; \
	    $(PYTHON) -m venv $(VENV) || exit 3; \
	fi
	@if [ -n "$(filter pyproject.toml setup.py,$?)" ]; then \
	    echo "Installing the project and its tools into $(VENV)"; \
	    $(BIN)/python -m pip install --disable-pip-version-check --editable '.[dev]'; \
	    $(BIN)/python -m mrcnn.plugins.build --show; \
	elif [ "$${MRCNN_NATIVE:-1}" != 0 ]; then \
	    echo "Building the native libraries"; \
	    $(BIN)/python -m mrcnn.plugins.build || [ $$? = 3 ]; \
	fi
	@touch $@

demo: $(READY)
	@$(BIN)/python -m mrcnn.benchmarks.demo

# Two processes with one thread each are faster than one with two; a file stays in one process, because its
# tests share what they export.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

lint: $(READY) types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(if $(CXX_SOURCES),$(BIN)/clang-format --dry-run --Werror $(CXX_SOURCES))

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(if $(CXX_SOURCES),$(BIN)/clang-format -i $(CXX_SOURCES))

gpu-check: $(READY)
	@$(BIN)/python -m mrcnn.benchmarks.gpu_check $(GPU_CHECK_ARGS)

# The folders export/, runtime/, … are installed as sub-packages of mrcnn. mypy reads folders, so it is
# shown a tree of links in which they lie where Python sees them.
types: $(READY)
	@rm -rf $(TYPES) && mkdir -p $(TYPES)/mrcnn
	@ln -s $(addprefix ../../../,$(filter-out %/__pycache__,$(wildcard mrcnn/*)) $(PACKAGES)) $(TYPES)/mrcnn/
	cd $(TYPES) && ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p mrcnn

clean:
	rm -rf build dist out *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
