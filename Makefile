# make demo, make test, make bench: each sets up what it needs (a virtual environment, pinned packages, the build) and reuses it.
#   PYTHON=python3.12   the Python for the environment        VENV=.venv   its folder
#   ARGS="-k window"    additional arguments for pytest, the demo or the benchmarks
PYTHON ?= python3
VENV ?= .venv
CUDA_VENV ?= .venv-cuda
REQUIREMENTS ?= requirements/dev.txt
ifeq ($(origin CXX),default)
CXX := c++
endif
export CXX
CLANGXX ?= clang++
export CLANGXX

BIN := $(VENV)/bin
ENVIRONMENT := $(VENV)/.posenc-environment
BUILD := $(VENV)/.posenc-build
PLOTS := $(VENV)/.posenc-plots
DOCS := .venv-docs/.posenc-environment
BUILD_INPUTS := $(shell find csrc cmake -type f) setup.py pyproject.toml version.txt
CXX_FILES = $(shell find bench csrc examples tests -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

VERSIONS := $(shell sed -n 's/^set(POSENC_TORCH_VERSIONS \(.*\))/\1/p' cmake/build_config.cmake)
WHOLE = $(firstword $(VERSIONS)) 2.13 $(lastword $(VERSIONS))
QUICK = $(addprefix tests/,test_setup.py test_packaging.py test_loader.py test_schemas.py test_calls.py test_modes.py \
  test_opcheck.py test_script.py test_compile.py test_export.py test_transforms.py test_nn*.py test_autograd.py)
CUDA_BUILD = $(addprefix tests/,test_cuda_static.py test_cpp_consumer.py test_cpp_serving.py test_info.py test_archives.py \
  test_machinery.py test_distributed.py test_softmax_machinery.py test_decompositions.py test_flex.py \
  parity integrations test_audit.py test_onnx.py test_docs.py)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PATH := $(abspath $(BIN)):$(PATH)
# Two processes, however many cores: many tests use all of them. A file's tests share what they build.
PYTEST := pytest -n 2 --dist loadfile
# The cache of torch.compile is in the checkout.
export TORCHINDUCTOR_CACHE_DIR ?= $(CURDIR)/build/inductor

.PHONY: demo test bench bench-attention docs build versions lint format wheel wheels clean cuda-check test-cuda-build gpu-test gpu-bench gpu-day clang-check aarch64-check

demo: $(BUILD)
	$(BIN)/python examples/train_digits.py $(ARGS)

test: $(BUILD)
	$(BIN)/python -m $(PYTEST) $(ARGS)

bench: $(BUILD) $(PLOTS)
	$(BIN)/python bench/run.py $(or $(ARGS),--compile --write)

# The same for softmax with a bias and for attention.
bench-attention: $(BUILD)
	$(BIN)/python bench/attention.py $(ARGS)

# The site, in build/docs; a warning or a broken link is an error. Its API pages come from the built library.
docs: $(BUILD) $(DOCS)
	rm -rf build/docs
	PYTHONPATH="$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
	  .venv-docs/bin/python -m sphinx -W --keep-going -q -b html -d build/doctrees -c docs . build/docs
	@echo "build/docs/index.html"

build: $(BUILD)

# Checks the machine code of the CUDA kernels for six architectures, with nvcc from PATH and the disassembler that comes
# with torch in the CUDA environment. Needs no GPU. Writes the table in csrc/cuda/README.md; fails with the name of a fault.
cuda-check:
	@$(MAKE) --no-print-directory VENV=$(CUDA_VENV) REQUIREMENTS=requirements/cuda.txt $(CUDA_VENV)/.posenc-environment
	$(CUDA_VENV)/bin/python tools/cuda_static.py --write

# An installed build with CUDA on a machine without a GPU: its own tests, those that need its libraries, and what depends
# on torch. The other tests are about CPU kernels, which every build compiles from the same files.
test-cuda-build:
	TORCHINDUCTOR_CACHE_DIR="$(CURDIR)/build/inductor-cuda" $(CUDA_VENV)/bin/$(PYTEST) $(QUICK) $(CUDA_BUILD) $(ARGS)

# On a machine with a GPU, in an environment whose torch has CUDA; otherwise they report that there is none.
gpu-test: $(BUILD)
	$(BIN)/python bench/gpu_test.py $(ARGS)

gpu-bench: $(BUILD)
	$(BIN)/python bench/run.py --device cuda $(ARGS)

# The same on a machine borrowed for minutes: the system's Python, no downloads, a build only for its GPU.
gpu-day:
	$(PYTHON) bench/gpu_day.py $(ARGS)

# Other compilers and machines. Exit status 77: a tool is not installed, and nothing was checked.
clang-check: $(ENVIRONMENT)
	$(BIN)/python tools/portability.py clang $(ARGS)

aarch64-check: $(ENVIRONMENT)
	$(BIN)/python tools/portability.py aarch64

# Builds and tests with each version of torch, in separate environments: the whole suite with WHOLE, a quick part (what
# depends on torch) with the others. CPU kernels only, unless POSENC_FORCE_CUDA is set.
versions: $(addprefix version-,$(VERSIONS))

version-%:
	mkdir -p build
	printf 'torch==%s.*\n-r ../requirements/tools.txt\n' $* >build/requirements-torch$*.txt
	$(MAKE) --no-print-directory VENV=.venv-torch$* REQUIREMENTS=build/requirements-torch$*.txt .venv-torch$*/.posenc-environment
	PATH="$(CURDIR)/.venv-torch$*/bin:$$PATH" POSENC_FORCE_CUDA=$${POSENC_FORCE_CUDA:-0} .venv-torch$*/bin/python \
	  -m pip install --quiet --no-build-isolation --no-deps --force-reinstall .
	rm -rf posenc_ext.egg-info  # it requires this torch
	TORCHINDUCTOR_CACHE_DIR="$(CURDIR)/build/inductor-torch$*" .venv-torch$*/bin/$(PYTEST) \
	  $(if $(filter $*,$(WHOLE)),,$(QUICK)) $(ARGS)

lint: $(ENVIRONMENT)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)

format: $(ENVIRONMENT)
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

wheel: $(BUILD)
	rm -rf build/lib.* build/bdist.*
	$(BIN)/python -m pip wheel --no-build-isolation --no-deps --wheel-dir dist .

# A wheel for each supported version of torch and each of these Pythons that is here, built from the sdist, repaired,
# stripped and tested in fresh environments: dist/. CPU kernels only, unless POSENC_FORCE_CUDA=1.
PYTHONS ?= $(or $(foreach version,3.10 3.11 3.12 3.13 3.14,$(shell python$(version) -c 'import sys; print(sys.executable)' 2>&-)),$(PYTHON))

wheels:
	$(PYTHON) tools/wheels.py --python $(PYTHONS) --torch $(VERSIONS)

clean:
	rm -rf build dist *.egg-info posenc_ext/*.so posenc_ext/_build.py $(BUILD)

$(BUILD): $(ENVIRONMENT) $(BUILD_INPUTS)
	$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	$(BIN)/python -m posenc_ext.info
	@touch $@

$(PLOTS): requirements/bench.txt $(ENVIRONMENT)
	$(BIN)/python -m pip install --quiet -r requirements/bench.txt
	@touch $@

$(DOCS): requirements/docs.txt
	test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet -r $<
	@touch $@

$(ENVIRONMENT): requirements/tools.txt $(REQUIREMENTS)
	@command -v $(PYTHON) >/dev/null || \
	  { echo "$(PYTHON) not found: install Python 3.10 or newer, or give make PYTHON=<path>" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "$$($(PYTHON) --version) is too old: install Python 3.10 or newer, or give make PYTHON=<path>" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) has no venv module: install it (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || \
	  { echo "$(PYTHON) has no C headers: install them (Debian, Ubuntu: apt install python3-dev)" >&2; exit 1; }
	@printf '#include <span>\n#if !__has_builtin(__builtin_shufflevector)\n#error too old\n#endif\n' | $(CXX) -std=c++20 -x c++ -fsyntax-only - 2>/dev/null || \
	  { echo "$(CXX) cannot compile posenc_ext: install g++ 12 or newer (Debian, Ubuntu: apt install g++), or give make CXX=<path>" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r $(REQUIREMENTS)
	@touch $@
