# Needs python3 (3.11 or newer), make and git. Everything else is installed into .venv.
PYTHON ?= python3
# an index with the torch build of your accelerator; empty takes what pip is set up with
TORCH_INDEX_URL ?=
EXTRAS ?= dev
BIN := .venv/bin
# one stamp for each choice of extras, so that asking for another one installs it
COMMA := ,
STAMP := .venv/.installed-$(subst $(COMMA),-,$(EXTRAS))

.PHONY: pipeline test check setup ui clean

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
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

ui: setup
	$(BIN)/longcat ui

# what can be made again by installing; workspace/ holds results and stays
clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
