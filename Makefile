# Targets that need Python make their own .venv first; nothing but Python 3.11, pip, make and a C++ compiler is needed.
# Those of the native tests need CMake and a C++ compiler alone.
# The install is editable; after a module was moved or renamed, run `make clean` once.
PYTHON ?= python3
RUNS ?= memfloor-runs

BIN := .venv/bin
comma := ,
STAMP := .venv/installed
# Libraries of systems under test that run on a CPU and need no compiling, and Ray.
COMPARATORS := bitsandbytes accelerate torchao hqq openvino nncf onnxruntime-genai onnx onnx_ir ray

# Configures and builds the native tests in a folder of build/, with options for CMake.
build_native_tests = cmake -S native -B build/$(1) -DMEMFLOOR_NATIVE_TESTS=ON $(2) && cmake --build build/$(1) --parallel $(shell nproc)

.PHONY: report test test-comparators test-native sanitize test-arm check bench-cpu clean

report: $(STAMP)
	$(BIN)/memfloor study --out $(RUNS)
	$(BIN)/memfloor report $(RUNS) -o report.html

test: $(STAMP)
	$(BIN)/python -m pytest -q

test-comparators: $(STAMP)
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --constraint constraints.txt $(COMPARATORS)
	$(BIN)/python -m pytest -q -m comparators --comparators

test-native:
	$(call build_native_tests,native)
	build/native/tests/native_tests

sanitize:
	$(call build_native_tests,sanitize-memory,-DMEMFLOOR_SANITIZE=address$(comma)undefined)
	build/sanitize-memory/tests/native_tests
	$(call build_native_tests,sanitize-threads,-DMEMFLOOR_SANITIZE=thread)
	build/sanitize-threads/tests/native_tests

# On another processor: under QEMU, with and without dot products.
test-arm:
	@command -v aarch64-linux-gnu-g++ >/dev/null && command -v qemu-aarch64 >/dev/null || \
	  { echo "make test-arm needs a cross compiler and an emulator: apt install g++-aarch64-linux-gnu qemu-user" >&2; exit 2; }
	$(call build_native_tests,arm,-DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
	  -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_EXE_LINKER_FLAGS=-static)
	qemu-aarch64 -cpu cortex-a76 build/arm/tests/native_tests
	qemu-aarch64 -cpu cortex-a72 build/arm/tests/native_tests

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# pip of the base interpreter fills the environment: Debian's Python has no pip to put into it.
$(STAMP): pyproject.toml constraints.txt native/CMakeLists.txt $(wildcard native/*.cpp native/*.h native/*.inl)
	$(PYTHON) -m venv --without-pip .venv
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --constraint constraints.txt --editable '.[torch,serve,dev]'
	touch $@

# llama.cpp is compiled here, which takes some minutes the first time.
bench-cpu: $(STAMP)
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --constraint constraints.txt 'llama-cpp-python' gguf
	$(BIN)/python benchmarks/bench_cpu.py --out $(RUNS)/bench-cpu

clean:
	rm -rf .venv build report.html figures .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
