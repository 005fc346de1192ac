# make train: train the default network on real images.  make test: the whole suite.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One thread a process: the suite runs two processes, and oversubscribed OpenMP barriers are slow.
WORKERS ?= 2

.PHONY: train test lint docs docs-links

train: $(VENV)/installed
	$(BIN)/python train.py

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, with the gallery executed, into docs/_build/html. CSC_NETS_GALLERY=0 leaves the gallery out.
docs: $(VENV)/installed-docs
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -b html -q -W --keep-going docs docs/_build/html

docs-links: $(VENV)/installed-docs # needs a network
	CSC_NETS_GALLERY=0 $(BIN)/python -m sphinx -b linkcheck -q docs docs/_build/linkcheck

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $@

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@
