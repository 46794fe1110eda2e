# make demo        set up, then transcribe the samples with the demonstration model
# make test        set up, then run the tests, side by side on as many cores as there are
# make quick       the same without the slow ones
# make check       set up, then style, types, what the built wheel holds, and the kernels of other
#                  processors where there is qemu-user to emulate them
# make reference   add PyTorch, with which `make test` also recomputes what it compares with

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
# The version stands in pyproject.toml alone.
GGML = $(shell sed -n 's/^ *"\(ggml-python==[^"]*\)",$$/\1/p' pyproject.toml)
# More flags for a GPU build, such as make demo GGML_FLAGS=-DGGML_CUDA=ON
GGML_FLAGS ?=

SIDE_BY_SIDE = --numprocesses auto --maxprocesses 4 --dist worksteal

.PHONY: demo test quick check reference clean

# The default build of ggml-python lacks the llamafile kernels, and a cached wheel may be one.
$(READY): pyproject.toml $(wildcard granite_gguf/ggml/native/*.[ch])
	$(PYTHON) -m venv $(VENV) || (echo "On Debian and Ubuntu: apt install python3-venv"; exit 1)
	$(BIN)/pip install --quiet --upgrade pip
	CMAKE_ARGS="-DGGML_LLAMAFILE=ON $(GGML_FLAGS)" \
		$(BIN)/pip install --no-cache-dir --no-binary ggml-python $(GGML)
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

demo: $(READY)
	$(BIN)/granite-gguf transcribe granite_gguf/data/sample-1.flac granite_gguf/data/sample-2.flac \
		granite_gguf/data/sample-3.flac

test: $(READY)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

quick: $(READY)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow"

check: $(READY)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m pytest tests/check_package.py tests/check_emulated.py

reference: $(READY)
	$(BIN)/pip install --quiet 'torch==2.13.0'
	$(BIN)/pip install --quiet --editable '.[test,reference,upstream]'

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
