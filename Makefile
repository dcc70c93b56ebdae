# `make demo` and `make test` do all their set-up themselves, and are quick the second time.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lowest newest gpu lint wheel example docs tables mutants bench clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("scalekv needs Python >= 3.10; run: make PYTHON=python3.11 ...") if sys.version_info < (3, 10) else None'
	$(PYTHON) -m venv .venv
	$(INSTALL) --editable '.[dev]'
	touch $@

DEMO := --policy full --policy uniform --policy h2o --policy snapkv --policy scalekv --policy fold --budget 10%
demo: .venv/ready  ## generate digits and captions under several policies, side by side, into demo/ and demo/captions/
	$(BIN)/scalekv generate 0 3 5 8 $(DEMO) --out demo
	$(BIN)/scalekv generate "a red circle left of a blue square" "three yellow triangles" "a green circle above a red triangle" $(DEMO) --out demo/captions

test: .venv/ready  ## the test suite in a few minutes: every promise, few examples
	$(BIN)/pytest -n auto --maxprocesses 4 -m 'not thorough'

test-all: .venv/ready  ## the test suite with many examples and all that takes long
	HYPOTHESIS_PROFILE=thorough $(BIN)/pytest -n auto --maxprocesses 4

# The lowest Python on this machine that scalekv supports.
LOWEST_PYTHON ?= $(firstword $(foreach minor,10 11 12 13 14,$(shell python3.$(minor) -c 'print("python3.$(minor)")' 2>/dev/null)) $(PYTHON))
PINNED_TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
TESTS ?= -m 'not thorough'
EXTRAS := '.[hub,plot,testing,text,video]' pytest-xdist torchmetrics

lowest:  ## the tests with the lowest versions of all dependencies; TORCH=VERSION takes another torch, TESTS=... some tests
	$(LOWEST_PYTHON) -m venv build/lowest
	sed '$(if $(TORCH),s/^torch==.*/torch==$(TORCH)/)' constraints-lowest.txt > build/lowest/constraints.txt
	build/lowest/bin/python -m pip install --quiet --disable-pip-version-check --constraint build/lowest/constraints.txt --editable $(EXTRAS)
	build/lowest/bin/pytest -n auto --maxprocesses 4 $(TESTS)

newest:  ## the tests with the newest versions of all dependencies but torch; TORCH=VERSION takes another torch
	$(PYTHON) -m venv build/newest
	echo "torch==$(or $(TORCH),$(PINNED_TORCH))" > build/newest/constraints.txt
	build/newest/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --constraint build/newest/constraints.txt --editable $(EXTRAS)
	build/newest/bin/pytest -n auto --maxprocesses 4 $(TESTS)

DEVICE ?= cuda
ifeq ($(DEVICE),cpu)
gpu: .venv/ready
	$(BIN)/python docs/gpu.py --device cpu
else
gpu:  ## on a machine with a CUDA device: the tests marked cuda, then times and bytes into docs (make gpu DEVICE=cpu tries it small)
	@if nvidia-smi -L 2>/dev/null | grep -q GPU; then $(MAKE) gpu-measure; else echo "make gpu: nvidia-smi lists no GPU on this machine; nothing was measured (make gpu DEVICE=cpu tries the script)"; fi

.PHONY: gpu-measure
gpu-measure: .venv-gpu/ready
	.venv-gpu/bin/python docs/gpu.py --device $(DEVICE)
endif

.venv-gpu/ready: pyproject.toml
	$(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

lint: .venv/ready  ## format, lint and types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	set -e; for version in 3.10 3.11 3.13; do $(BIN)/mypy --python-version $$version; done

wheel: .venv/ready  ## build sdist and wheel, check them, install each into a clean environment, and run what README shows
	rm -rf dist build/clean
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m twine check --strict dist/*
	$(PYTHON) -m venv build/clean
	build/clean/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt dist/*.tar.gz
	build/clean/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall dist/*.whl
	sed -n '/^```python/,/^```/p' README.md | grep -v '^```' > build/ten_lines.py
	cd build && clean/bin/python ten_lines.py
	cd build && clean/bin/scalekv policies && clean/bin/scalekv generate 3 --policy scalekv --budget 10% --out clean/out && clean/bin/scalekv generate "a red circle" --policy scalekv --budget 10% --out clean/captions

example:  ## install scalekv and the example plugin into a clean environment, and run the plugin's tests there
	rm -rf build/example
	$(PYTHON) -m venv build/example
	build/example/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt . 'docs/examples/scalekv-randomk[test]'
	build/example/bin/scalekv plugins
	cd docs/examples/scalekv-randomk && ../../../build/example/bin/pytest -q

.venv/docs: .venv/ready
	$(INSTALL) --editable '.[docs]'
	touch $@

docs: .venv/docs tables  ## the documentation as a site, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

tables: .venv/ready  ## write the tables that come from the registry into the documentation
	$(BIN)/python docs/tables.py

mutants: .venv/ready  ## break the cache and the selectors in every small way, and list what no test notices (an hour)
	$(INSTALL) 'mutmut>=3.8'
	rm -rf build/mutants
	mkdir -p build/mutants
	cp -r scalekv_core policies/scalekv_policies adapters/scalekv_adapters tests build/mutants
	cp tests/mutation.toml build/mutants/pyproject.toml
	cd build/mutants && HYPOTHESIS_PROFILE=same OMP_NUM_THREADS=1 ../../$(BIN)/mutmut run
	cd build/mutants && ../../$(BIN)/mutmut results

bench: .venv/ready  ## attention at Infinity-2B geometry: time, shares and bytes of every policy (some minutes)
	$(BIN)/scalekv bench

clean:  ## forget environments and outputs
	rm -rf .venv .venv-gpu build dist demo site .cache .hypothesis .pytest_cache .mypy_cache .ruff_cache
