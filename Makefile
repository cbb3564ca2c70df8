# Every target installs first what it needs; an install with nothing changed does nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := llama.cpp vllm
WORKERS ?= 2
IN_WORKERS = -n $(WORKERS) --dist loadfile
GOOGLE_APIS = $(shell $(BIN)/python -c "import google.rpc, pathlib; print(pathlib.Path(next(iter(google.rpc.__path__))).parent.parent)")

# A machine with a GPU often has PyTorch already, and perhaps no network: there, nothing is installed.
HAS_TORCH := $(shell $(PYTHON) -c "import importlib.util as u; print('yes' * all(map(u.find_spec, ('torch', 'safetensors'))))" 2>/dev/null)
GPU_NEEDS := $(if $(wildcard $(STAMP)),,$(if $(HAS_TORCH),,install))
GPU_PYTHON = PYTHONPATH=$(CURDIR):$(CURDIR)/kernels:$(CURDIR)/engine:$(CURDIR)/services:$(CURDIR)/clients/python \
	$(if $(wildcard $(STAMP)),$(BIN)/python,$(if $(HAS_TORCH),$(PYTHON),$(BIN)/python))

.PHONY: install serve test test-all test-gpu lint format protos bench bench-gpu bench-peers bench-scheduler \
	bench-stream tune clean

install: $(STAMP)

KERNEL_SOURCES = $(wildcard kernels/tokenwire_kernels/cpu/src/*) kernels/tokenwire_kernels/cpu/build.py

$(STAMP): pyproject.toml constraints.txt hatch_build.py protos/generate.py $(wildcard protos/tokenwire/v1/*.proto) \
		$(KERNEL_SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev,integrations]"
	touch $@

serve: install
	$(BIN)/tokenwire serve $(ARGS)

# Each file's tests run in one of WORKERS processes.
test: install
	$(BIN)/python -m pytest $(IN_WORKERS) $(ARGS)

test-all: install
	$(BIN)/python -m pytest -m "" $(IN_WORKERS) $(ARGS)

# The kernels natively, and the engine's tokens beside a CPU's; skipped, with the reason, without a GPU.
test-gpu: $(GPU_NEEDS)
	$(GPU_PYTHON) -m pytest -rs tests/gpu tests/kernels tests/engine/runner $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	! grep -rnE '.{121,}' kernels/tokenwire_kernels/cpu/src kernels/tokenwire_kernels/cuda/*.cu*
	mkdir -p build
	$(BIN)/python -m grpc_tools.protoc -Iprotos -I$(GOOGLE_APIS) --include_imports --include_source_info \
		--descriptor_set_out=build/protos.binpb protos/tokenwire/v1/*.proto
	$(BIN)/buf lint build/protos.binpb --config protos/buf.yaml

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: install
	$(BIN)/python protos/generate.py

bench: install
	$(BIN)/python -m benchmarks $(ARGS)

# Ceilings, kernels, steps, throughput, serving and start-up of one NVIDIA GPU, in at most 8 minutes.
bench-gpu: $(GPU_NEEDS)
	$(GPU_PYTHON) -m benchmarks.gpu $(ARGS)

# The fastest tile of the products of few rows, for each shape, on this GPU: into linear_tiles.json.
tune: $(GPU_NEEDS)
	$(GPU_PYTHON) -m benchmarks.tune $(ARGS)

# The other systems that `python -m benchmarks.offline --peers` runs, each in an environment of its own.
# llama.cpp is compiled for this machine; every package is pinned, and none but these is installed.
bench-peers: install $(PEERS:%=build/peers/%/.installed)

# GCC 12 takes most of a tile configuration for dead stores, and llama.cpp crashes where the CPU has AMX.
build/peers/%/.installed: benchmarks/peers/%.txt
	test -x $(@D)/.venv/bin/python || $(PYTHON) -m venv $(@D)/.venv
	CMAKE_ARGS="-DCMAKE_CXX_FLAGS='-fno-tree-dse -fno-dse'" $(@D)/.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	touch $@

# Beside vLLM's server where `make bench-peers` has set it up.
bench-stream: install
	$(BIN)/python -m benchmarks.stream $(if $(wildcard build/peers/vllm/.installed),--vllm 64 256) $(ARGS)

bench-scheduler: install
	$(BIN)/python -m benchmarks.scheduler $(ARGS)

clean:
	rm -rf $(VENV) build dist clients/python/tokenwire/v1 kernels/tokenwire_kernels/cpu/*.so
