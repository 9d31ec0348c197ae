# `make study`, `make test` and `make lab` set up what they need; nothing outside .venv is touched.
PYTHON ?= $(shell for version in 3.11 3.12 3.13; do python$$version -c 'import ensurepip' 2>/dev/null && echo python$$version && break; done)
BIN := .venv/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: study test test-browser test-kernel test-newest lint notebooks gpu lab clean

study: .venv/ready
	$(BIN)/python -m dycoke_lab study

# in a real JupyterLab, by headless Chromium (Debian's package); screenshots and latencies are left in build/browser
test-browser: .venv/ready
	command -v chromium >/dev/null || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq chromium; }
	$(BIN)/python -m pytest -m browser

test: .venv/ready lint
	$(BIN)/python -m pytest

# the kernel for GPUs without a GPU: in Triton's interpreter, and compiled; the version is the one that torch's CUDA build brings
test-kernel: .venv/ready build/triton/ready
	TRITON_CACHE_DIR=build/triton/cache TRITON_INTERPRET=1 PYTHONPATH=build/triton $(BIN)/python -m pytest tests/test_fetch.py
	TRITON_CACHE_DIR=build/triton/cache PYTHONPATH=build/triton $(BIN)/python -m pytest tests/test_fetch.py

# whether the newest transformers changes what this library relies on
test-newest: .venv/ready
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --upgrade --target build/newest transformers
	PYTHONPATH=$(CURDIR)/build/newest $(BIN)/python -m pytest

build/triton/ready: .venv/ready
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --upgrade --target build/triton triton==3.7.1
	touch $@

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# the committed notebooks, anew, with what they show
notebooks: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False \
		--ExecutePreprocessor.store_widget_state=False notebooks/*.ipynb

# ten minutes of a CUDA GPU: time and memory at the 7B shape; goes on where it stopped
gpu: .venv/ready
	$(BIN)/python -m dycoke_lab bench --shape llava-ov-7b --gpu-plan --minutes 10 --device cuda

lab: .venv/ready
	$(BIN)/jupyter lab --ip=127.0.0.1 $(if $(filter 0,$(shell id -u)),--allow-root) notebooks

# torch first and alone: a machine that offers a CPU build of this version then uses it, not gigabytes of CUDA
.venv/ready: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python 3.11, 3.12 or 3.13 with venv (a package of its own in Debian and Ubuntu): install one, or name one, make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install -q --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

clean:
	rm -rf .venv build *.egg-info
