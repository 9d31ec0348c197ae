.PHONY: test
test: .venv/ready
	.venv/bin/python -m pytest -q
.venv/ready:
	python3 -m venv .venv
	.venv/bin/pip install -q torch==2.13.0
	.venv/bin/pip install -q transformers==5.23.0 torchvision==0.28.0 pytest tqdm setuptools wheel
	.venv/bin/pip install -q --no-deps --no-build-isolation -e .
	touch $@
