# Each target sets up what it needs and then does its job; a second call only does the job.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALL = -m pip install --quiet --constraint constraints.txt
# How tests run; with coverage: make test PYTEST="-m coverage run -m pytest"
PYTEST ?= -m pytest
STAMP = $(VENV)/.installed

# The reference models live in an environment of their own: torch is large, and not everyone's build of it is the same.
OPENMMLAB ?= .venv-openmmlab
TORCH ?= torch==2.13.0

.PHONY: help demo test test-slurm test-browser docs lint hooks coverage rooms lock bench mutate clean openmmlab test-openmmlab

help:
	@echo "make demo    set up and run everything on a rendered miniature Human3.6M, in ./demo"
	@echo "make test    set up and run the tests"
	@echo "make openmmlab       set up the reference models as well, in ./$(OPENMMLAB)"
	@echo "make test-openmmlab  set them up and prove that they agree with their authors' code"
	@echo "make test-slurm    install a SLURM, boot it on this machine and run the tests of the cluster (as root)"
	@echo "make test-browser  install a Chromium (as root) and open the report in it"
	@echo "make docs    the documentation, in ./site"
	@echo "make lint    ruff, mypy, spelling, the links of the documentation"
	@echo "make coverage    what the tests that ran with coverage have reached; see CONTRIBUTING.md"
	@echo "make hooks   the same before every commit"
	@echo "make rooms   the picture of the packages and what they import"
	@echo "make lock    the newest versions that fit pyproject.toml, into constraints.txt"
	@echo "make mutate  whether the tests notice small changes of the code; see CONTRIBUTING.md"
	@echo "make bench   what is claimed about speed"

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python $(INSTALL) --editable '.[dev,zarr]'
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/xycd models fetch embedded
	$(BIN)/xycd demo demo

test: $(STAMP)
	$(BIN)/python $(PYTEST) -m 'not slurm and not openmmlab' --ignore tests/slurm

# The last four come without what they ask for: OpenCV's desktop build, and packages that would have to be compiled.
$(OPENMMLAB)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; found = sys.version_info[:2]; \
		sys.exit(0 if found in ((3, 11), (3, 12)) else "mmdet and mmpose are for Python 3.11 and 3.12. " \
		f"Found: {found[0]}.{found[1]}. Name another: make openmmlab PYTHON=python3.12")'
	$(PYTHON) -m venv $(OPENMMLAB)
	$(OPENMMLAB)/bin/python -m pip install --quiet --upgrade pip
	$(OPENMMLAB)/bin/python $(INSTALL) $(TORCH) --editable '.[dev,zarr,openmmlab]'
	$(OPENMMLAB)/bin/python -m pip install --quiet --no-deps \
		mmengine==0.10.7 mmcv-lite==2.1.0 mmdet==3.3.0 mmpose==1.3.2
	@touch $@

openmmlab: $(OPENMMLAB)/.installed

test-openmmlab: openmmlab
	$(OPENMMLAB)/bin/python $(PYTEST) -m openmmlab

test-slurm: $(STAMP)
	tests/slurm/install.sh
	XYCD_REQUIRE_SLURM=1 $(BIN)/python $(PYTEST) tests/slurm

$(VENV)/.docs: $(STAMP)
	$(BIN)/python $(INSTALL) --editable '.[docs]'
	@touch $@

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	$(BIN)/python $(PYTEST) tests/docs/test_hooks.py

test-browser: $(STAMP)
	tests/install-chromium.sh
	XYCD_REQUIRE_BROWSER=1 $(BIN)/python $(PYTEST) -m browser tests/etl/report

lint: $(STAMP)
	$(BIN)/pre-commit run --all-files

# Of all tests that ran with PYTEST="-m coverage run -m pytest": branches of the packages, at least 90 %.
coverage: $(STAMP)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under 90

hooks: $(STAMP)
	$(BIN)/pre-commit install

rooms: $(STAMP)
	$(BIN)/python -m tests.rooms

# torch and what it needs stay free: a cluster's own build of it may be another. backports-strenum 1.3 is for Python 3.10,
# which uv overlooks.
lock: $(STAMP)
	printf '%s\n' '$(TORCH)' 'backports-strenum<1.3' | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --upgrade --no-header \
		--no-annotate pyproject.toml - | grep -vE '^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==' > constraints.new
	mv constraints.new constraints.txt

$(VENV)/.bench: $(STAMP)
	$(BIN)/python $(INSTALL) --editable '.[bench]'
	@touch $@

bench: $(VENV)/.bench
	$(BIN)/xycd models fetch embedded
	$(BIN)/python -m benchmarks --table docs/performance.md

$(VENV)/.mutation: $(STAMP)
	$(BIN)/python $(INSTALL) --editable '.[mutation]'
	@touch $@

# One room, or all; of each, all mutants or a random sample: make mutate ROOM=etl/stages/blocks SAMPLE=300
ROOM ?=
SAMPLE ?= 0
mutate: $(VENV)/.mutation
	$(BIN)/python -m tests.mutants $(ROOM) --sample $(SAMPLE)

clean:
	rm -rf $(VENV) $(OPENMMLAB) demo site .mypy_cache .ruff_cache .pytest_cache
