PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# 0 lets the set-up go on without the engine where there is no C++ compiler.
RECURRA_REQUIRE_ENGINE ?= 1
STAMPS := $(VENV)/stamps
ENGINE_SOURCES := $(shell find csrc -type f) CMakeLists.txt pyproject.toml

.PHONY: setup demo test kernels sanitize check format laws mutants docs recipes bench wheel constraints clean

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

wheel: setup
	$(BIN)/python tools/test_wheel.py

constraints: setup
	$(BIN)/python tools/freeze.py > constraints.txt

clean:
	rm -rf build dist $(STAMPS)/package .pytest_cache .ruff_cache .hypothesis
