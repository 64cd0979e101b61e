# Needs python3 (3.11 or newer), make and git. Everything else is installed into .venv.
PYTHON ?= python3
# an index with the torch build of your accelerator; empty takes what pip is set up with
TORCH_INDEX_URL ?=
EXTRAS ?= dev
BIN := .venv/bin
# one stamp for each choice of extras, so that asking for another one installs it
COMMA := ,
STAMP := .venv/.installed-$(subst $(COMMA),-,$(EXTRAS))

# torch_npu has an environment of its own: where it is installed, torch cannot be imported without CANN or its emulator
EMULATOR := .venv-emulator

# MindSpore wants an older numpy than longcat, so it lives by itself; nothing of longcat is in there
MINDSPORE := .venv-mindspore

.PHONY: pipeline test check docs setup ui emulator test-emulator mindspore test-mindspore test-cluster drill clean

pipeline: setup
	$(BIN)/longcat run

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "longcat needs python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version)"; exit 2; }
	@echo "installing into .venv, about two minutes"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

test: setup
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive longcat tasks flows .ci
	$(BIN)/python .ci/audit.py constraints.txt
	$(BIN)/python .ci/audit.py constraints-mindspore.txt
	$(BIN)/python -m docs.build

# the documentation as a site in site/; broken links are errors
docs: setup
	$(BIN)/python -m docs.build

ui: setup
	$(BIN)/longcat ui

emulator: $(EMULATOR)/.installed

$(EMULATOR)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(EMULATOR)
	$(EMULATOR)/bin/pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) torch==2.13.0
	$(EMULATOR)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[emulator]'
	@touch $@

test-emulator: emulator
	$(EMULATOR)/bin/longcat emulate -- python -m pytest -q tests/emulator

mindspore: $(MINDSPORE)/.installed

$(MINDSPORE)/.installed: constraints-mindspore.txt
	$(PYTHON) -m venv $(MINDSPORE)
	$(MINDSPORE)/bin/pip install --quiet --disable-pip-version-check --requirement constraints-mindspore.txt
	@touch $@

# within 8 minutes with the installation, if the machine is quiet
test-mindspore: setup mindspore
	timeout --signal=INT 1200 $(BIN)/python -m pytest -q tests/mindspore

# two nodes of a Slurm cluster on this machine, within 8 minutes if it is quiet; needs Debian's packages of Slurm, or root to install them
test-cluster: setup
	timeout --signal=INT 1200 $(BIN)/python -m pytest -q tests/cluster

# hurts a run at random, 25 times or for 6 minutes
drill: setup
	timeout 1800 $(BIN)/python benchmarks/drill.py --kills 25 --seed 1 --minutes 6

# what can be made again by installing; workspace/ holds results and stays
clean:
	rm -rf .venv $(EMULATOR) $(MINDSPORE) build site *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
