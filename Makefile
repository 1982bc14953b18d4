# Every target makes its own .venv first; nothing but Python 3.11, pip, make and a C++ compiler is needed.
# The install is editable; after a module was moved or renamed, run `make clean` once.
PYTHON ?= python3
RUNS ?= memfloor-runs

BIN := .venv/bin
STAMP := .venv/installed

.PHONY: report test check bench-cpu clean

report: $(STAMP)
	$(BIN)/memfloor study --out $(RUNS)
	$(BIN)/memfloor report $(RUNS) -o report.html

test: $(STAMP)
	$(BIN)/python -m pytest -q

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# pip of the base interpreter fills the environment: Debian's Python has no pip to put into it.
$(STAMP): pyproject.toml constraints.txt native/CMakeLists.txt $(wildcard native/*.cpp native/*.h)
	$(PYTHON) -m venv --without-pip .venv
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --constraint constraints.txt --editable '.[torch,dev]'
	touch $@

# llama.cpp is compiled here, which takes some minutes the first time.
bench-cpu: $(STAMP)
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --constraint constraints.txt 'llama-cpp-python' gguf
	$(BIN)/python benchmarks/bench_cpu.py --out $(RUNS)/bench-cpu

clean:
	rm -rf .venv build report.html figures .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
