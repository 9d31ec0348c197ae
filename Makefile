# `make study`, `make test` and `make lab` set up what they need; nothing outside .venv is touched.
PYTHON ?= $(shell for version in 3.11 3.12 3.13; do python$$version -c 'import ensurepip' 2>/dev/null && echo python$$version && break; done)
BIN := .venv/bin
TRANSFORMERS := $(shell grep '^transformers==' requirements.lock)
LAB := JUPYTERLAB_SETTINGS_DIR=$(CURDIR)/build/jupyterlab/settings JUPYTERLAB_WORKSPACES_DIR=$(CURDIR)/build/jupyterlab
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: study test test-all test-fast test-browser test-kernel test-newest test-transformers test-fuzz lint audit notebooks site gpu lab clean

study: .venv/ready
	$(BIN)/dycoke-lab study

test: .venv/ready lint
	$(BIN)/python -m pytest $(PARALLEL) -m "not browser and not matrix"

# `make test`, with every method on every family that can run it, where `make test` tries two
test-all: .venv/ready lint
	$(BIN)/python -m pytest $(PARALLEL) -m "not browser"

# under two minutes: without notebooks, and without tests of over 5 seconds
test-fast: .venv/ready
	$(BIN)/python -m pytest $(PARALLEL) -m "not notebook and not slow and not browser and not matrix"

# in JupyterLab, with headless Chromium (Debian's package); leaves screenshots and latencies in build/browser
test-browser: .venv/ready
	command -v chromium >/dev/null || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq chromium; }
	$(BIN)/python -m pytest -m browser

# the kernel for GPUs without a GPU: in Triton's interpreter, and compiled; the version is that of torch's CUDA build
test-kernel: .venv/ready build/triton/ready
	TRITON_CACHE_DIR=build/triton/cache TRITON_INTERPRET=1 PYTHONPATH=build/triton $(BIN)/python -m pytest tests/runtime/test_kv_swap.py
	TRITON_CACHE_DIR=build/triton/cache PYTHONPATH=build/triton $(BIN)/python -m pytest tests/runtime/test_kv_swap.py

# whether the newest transformers changes what this library relies on
test-newest: .venv/ready
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --upgrade --target build/newest transformers
	PYTHONPATH=$(CURDIR)/build/newest $(BIN)/python -m pytest

# transformers' own tests of models, from its source package, inside a context that compresses nothing
test-transformers: .venv/ready build/transformers-tests/ready
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -o addopts= -o filterwarnings=ignore -q -rs \
		--import-mode=importlib tests/transformers_inside/published.py tests/transformers_inside/generating.py

# a thousand drawn compositions, inputs and calls, of which `make test` runs fifty; prints how they ended
test-fuzz: .venv/ready
	FUZZ_CASES=1000 TRANSFORMERS_VERBOSITY=error $(BIN)/python -m pytest -s tests/fuzz

# pip makes no wheel of it; only its folder tests is unpacked, under a name that is not ours
build/transformers-tests/ready: requirements.lock | .venv/ready
	rm -rf $(@D) && mkdir -p $(@D)
	$(BIN)/pip download -q --disable-pip-version-check --no-deps --no-binary transformers -d $(@D) $(TRANSFORMERS)
	tar -xzf $(@D)/$(subst ==,-,$(TRANSFORMERS)).tar.gz -C $(@D) --strip-components=1 $(subst ==,-,$(TRANSFORMERS))/tests
	mv $(@D)/tests $(@D)/transformers_tests
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --upgrade --target $(@D) parameterized==0.9.0
	touch $@

build/triton/ready: .venv/ready
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --upgrade --target build/triton triton==3.7.1
	touch $@

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# known vulnerabilities of what requirements.lock pins; needs the network
audit: build/audit/ready
	build/audit/bin/pip-audit --requirement requirements.lock --no-deps --disable-pip

build/audit/ready:
	$(PYTHON) -m venv build/audit
	build/audit/bin/pip install -q --disable-pip-version-check pip-audit==2.10.1
	touch $@

# execute the committed notebooks in place
notebooks: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False \
		--ExecutePreprocessor.store_widget_state=False notebooks/*.ipynb notebooks/appendix/*.ipynb

# docs and notebooks, as they are committed, in build/site/index.html: opened from disk, loads nothing from elsewhere
site: .venv/ready
	rm -rf build/site
	$(BIN)/python -m sphinx -q -E -W --keep-going -c docs -d build/doctrees . build/site

# ten minutes of a CUDA GPU: time and memory at the 7B shape; continues where it stopped
gpu: .venv/ready
	$(BIN)/dycoke-lab bench --shape llava-ov-7b --gpu-plan --minutes 10 --device cuda

# JupyterLab as a lecture room needs it: no news, large text, side bar closed, notebook 00 open
lab: .venv/ready build/jupyterlab/ready
	$(LAB) $(BIN)/jupyter lab --ip=127.0.0.1 $(if $(filter 0,$(shell id -u)),--allow-root) notebooks

build/jupyterlab/ready: | .venv/ready
	mkdir -p $(@D) && cp -r docs/teaching/jupyterlab/settings $(@D)
	$(LAB) $(BIN)/jupyter lab workspaces import docs/teaching/jupyterlab/workspace.json
	touch $@

# torch first and alone: where pip knows a CPU build of this version, it is used, without gigabytes of CUDA
.venv/ready: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python 3.11, 3.12 or 3.13 with venv (a package of its own in Debian and Ubuntu): install one, or name one, make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install -q --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

clean:
	rm -rf .venv build *.egg-info
