# Each target goes from a bare clone to its end by itself: it makes .venv, installs the pinned
# versions of what it needs, once, and runs. Another Python: make test PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt
PINS := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test check clean

help: ## Show this list.
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

demo: $(VENV)/.for-demo ## Train a small CKS on drawn stickers, let it choose, write a page of it.
	$(BIN)/python scripts/demo.py

test: $(VENV)/.for-test ## Run the tests (TESTS="-k ocr" hands pytest arguments).
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TESTS)

check: $(VENV)/.for-check ## Lint every Python file.
	$(BIN)/ruff check .

clean: ## Remove what the targets made: .venv, builds, caches, the demo's output.
	rm -rf $(VENV) build dist *.egg-info demo_output .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "cks needs Python 3.10 or newer; name one: make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.for-demo: $(PINS) | $(BIN)/python
	$(PIP) --editable .
	@touch $@

$(VENV)/.for-test: $(PINS) | $(BIN)/python
	$(PIP) --editable ".[dev,paddle]"
	@touch $@

$(VENV)/.for-check: $(PINS) | $(BIN)/python
	$(PIP) ruff
	@touch $@
