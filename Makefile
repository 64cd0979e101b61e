# Needs python3 (3.11 or newer), make and git. Everything else is installed into .venv.
PYTHON ?= python3
# an index with the torch build of your accelerator; empty takes what pip is set up with
TORCH_INDEX_URL ?=
EXTRAS ?= dev
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: pipeline test check setup ui clean

pipeline: setup
	$(BIN)/longcat run

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "longcat needs python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version)"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

test: setup
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

ui: setup
	$(BIN)/longcat ui

clean:
	rm -rf .venv workspace build *.egg-info
