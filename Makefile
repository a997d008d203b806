# Two commands do all set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(VENV)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Two processes: JAX compiles on one core each.
PYTEST := $(RUN) -m pytest --numprocesses 2 --dist worksteal

# Without LLVM's passes and XLA's younger generator of code for CPUs, programs compile in a third of
# the time. `test` has it so throughout; `test-all` holds against PyTorch what users run.
QUICK_TO_COMPILE := --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false
# Collecting imports PyTorch and TensorFlow, so the first pass looks at no more files than it must.
UNOPTIMISED = $$(grep -l 'mark\.unoptimised' tests/test_*.py)

.PHONY: help demo test test-all test-slow drill lint types format clean

help: ## Show what can be made.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/installed-for-tests: $(VENV)/installed
	$(PIP) --editable '.[test,dev]'
	touch $@

# Large pages: on a Linux CPU, up to half of an update otherwise goes into page faults.
demo: export GLIBC_TUNABLES = glibc.malloc.hugetlb=1
demo: $(VENV)/installed ## Pre-train a tiny model on the embedded corpus and export it.
	$(RUN) -m voc2vec_jax.train --config configs/tiny.py --workdir runs/demo --train.num-steps 200
	$(RUN) -m tools.plot_metrics runs/demo --table

test: lint types ## Check what a change is likely to break: every command and every module.
	XLA_FLAGS="$(QUICK_TO_COMPILE)" $(PYTEST) -m 'not thorough and not slow'

test-all: lint types ## Run everything that CI runs: also more cases, devices and processes.
	XLA_FLAGS="$(QUICK_TO_COMPILE)" $(PYTEST) -m 'unoptimised and not slow' $(UNOPTIMISED)
	$(PYTEST) -m 'not unoptimised and not slow'

test-slow: $(VENV)/installed-for-tests ## Run the tests of full-size models and long runs.
	$(RUN) -m pytest -m slow -s

drill: $(VENV)/installed-for-tests ## Kill a run of one and of two processes again and again, and compare.
	$(RUN) -m tests.drill --seed 0

lint: $(VENV)/installed-for-tests ## Check style.
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(VENV)/installed-for-tests ## Check types.
	$(RUN) -m mypy

format: $(VENV)/installed-for-tests ## Apply the style.
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean: ## Remove what was made here.
	rm -rf $(VENV) runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
