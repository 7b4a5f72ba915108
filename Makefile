PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# 0 lets the set-up go on without the engine where there is no C++ compiler.
RECURRA_REQUIRE_ENGINE ?= 1
STAMPS := $(VENV)/stamps
ENGINE_SOURCES := $(shell find csrc -type f) CMakeLists.txt pyproject.toml

.PHONY: setup demo test kernels sanitize check format laws mutants docs recipes bench bench-peers cross emulate wheel constraints clean

setup: $(STAMPS)/package

$(BIN)/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"recurra needs Python 3.11 or newer, got {sys.version}"'
	$(PYTHON) -m venv $(VENV)

# torch alone first: the packages that need it must not choose another build of it.
$(STAMPS)/dependencies: constraints.txt | $(BIN)/python
	@mkdir -p $(STAMPS)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --requirement constraints.txt
	@touch $@

# The build directory is kept, so only changed sources compile. Python sources need no rebuild.
$(STAMPS)/package: $(STAMPS)/dependencies $(ENGINE_SOURCES)
	PATH="$(abspath $(BIN)):$$PATH" RECURRA_REQUIRE_ENGINE=$(RECURRA_REQUIRE_ENGINE) \
		$(BIN)/pip install --quiet --no-build-isolation --no-deps --editable .
	$(BIN)/pip check
	@touch $@

demo: setup
	$(BIN)/recurra demo

test: setup kernels
	$(BIN)/python -m pytest -n 2

# The C++ tests of the kernels, for every instruction set of this processor. SANITIZE=ON adds the sanitizers.
SANITIZE := OFF
KERNELS := build/kernels-$(SANITIZE)
kernels: $(STAMPS)/dependencies
	PATH="$(abspath $(BIN)):$$PATH" cmake -S . -B $(KERNELS) -G Ninja --log-level=WARNING \
		-DRECURRA_KERNEL_TESTS=ON -DRECURRA_SANITIZE=$(SANITIZE)
	$(BIN)/cmake --build $(KERNELS) --target kernels
	$(BIN)/ctest --test-dir $(KERNELS) --output-on-failure --parallel 2

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/python -m pytest -q tests/test_house_rules.py tests/test_boundaries.py

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# The same tests under AddressSanitizer and UndefinedBehaviorSanitizer.
sanitize:
	$(MAKE) kernels SANITIZE=ON

# The engine for 64-bit ARM (NEON, as GCC makes it of the vector types), and its kernel tests under an emulator of that
# processor, those of products for every 20th size: about two minutes in all. Debian: g++-aarch64-linux-gnu and qemu-user.
CROSS := aarch64-linux-gnu-g++
EMULATOR := qemu-aarch64
CROSS_FLAGS := -std=c++17 -O3 -fno-math-errno -fno-trapping-math -ffp-contract=fast -fopenmp -DRECURRA_ISA=generic
CROSS_POINTS := 1000
CROSS_STEP := 20
cross:
	@command -v $(CROSS) >/dev/null || { echo "cross: $(CROSS) is not installed"; exit 1; }
	@command -v $(EMULATOR) >/dev/null || { echo "cross: $(EMULATOR) is not installed"; exit 1; }
	@mkdir -p build/cross
	for file in arena dispatch engine int8 plan; do \
		$(CROSS) $(CROSS_FLAGS) -fPIC -c csrc/$$file.cpp -o build/cross/$$file.o || exit 1; done
	$(CROSS) $(CROSS_FLAGS) -static csrc/tests/kernels_test.cpp -o build/cross/kernels_test
	$(CROSS) $(CROSS_FLAGS) -static csrc/tests/small_test.cpp -o build/cross/small_test
	OMP_NUM_THREADS=1 $(EMULATOR) build/cross/small_test
	OMP_NUM_THREADS=1 $(EMULATOR) build/cross/kernels_test $(CROSS_POINTS) $(CROSS_STEP)

# What is for AVX-512, VNNI and AVX512_BF16 included, on a processor with AVX2: the tests of the kernels and of the engine, with the
# instructions as functions of libsimde. Debian: libsimde-dev. Takes minutes; no timing of it says anything.
EMULATED := build/emulate
EMULATED_TESTS := tests/test_engine.py tests/test_int8.py tests/test_bfloat16.py tests/test_bfloat16_activations.py \
  tests/test_mixed_precision.py
emulate: setup
	@echo '#include <simde/x86/avx512.h>' | $(CXX) -E -xc++ - >/dev/null || { echo "emulate: libsimde is not installed"; exit 1; }
	PATH="$(abspath $(BIN)):$$PATH" cmake -S . -B $(EMULATED) -G Ninja --log-level=WARNING \
		-DRECURRA_KERNEL_TESTS=ON -DRECURRA_EMULATE=ON
	$(BIN)/cmake --build $(EMULATED) --target kernels _engine
	$(BIN)/ctest --test-dir $(EMULATED) --output-on-failure --parallel 2
	RECURRA_EMULATED=$(abspath $(EMULATED)) RECURRA_ISA=avx512bf16 PYTHONPATH=$(abspath tools/emulated) \
		$(BIN)/python -m pytest -n 2 $(EMULATED_TESTS)

# `make test` tries the same laws on fewer sizes.
laws: setup
	$(BIN)/python tools/laws.py
	$(BIN)/python -m pytest -n 2 --hypothesis-profile=explore tests/test_laws.py

# One operation changed at a time, in the cells, the derivative rules and the engine: is it noticed? What is done is kept
# in runs/mutants.jsonl until a source changes.
mutants: setup
	PYTHONPATH=tools $(BIN)/python -m mutants

# Results are kept in runs/recipes.jsonl; what is there is not run again. Delete the file to begin afresh.
recipes: setup
	$(BIN)/python -m recipes

# The page of the cells, from their code.
docs: setup
	$(BIN)/python tools/cells_page.py

bench: setup
	$(BIN)/recurra bench

# The same beside every peer, in a virtual environment of its own: they need other versions of what recurra uses.
# BENCH takes options, such as BENCH='--asked --merge'.
BENCH :=
PEERS := .venv-peers
$(PEERS)/stamp: benchmarks/peers-constraints.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --constraint $< torch
	$(PEERS)/bin/pip install --quiet --requirement $<
	@touch $@

bench-peers: setup $(PEERS)/stamp
	rm -rf build/peers
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/pip wheel --quiet --no-build-isolation --no-deps --wheel-dir build/peers .
	$(PEERS)/bin/pip install --quiet --force-reinstall --no-deps build/peers/*.whl
	$(PEERS)/bin/recurra bench $(BENCH)

wheel: setup
	$(BIN)/python tools/test_wheel.py

constraints: setup
	$(BIN)/python tools/freeze.py > constraints.txt

clean:
	rm -rf build dist $(STAMPS)/package .pytest_cache .ruff_cache .hypothesis
