# Each target goes from a bare clone to its end by itself: it makes .venv, installs the pinned
# versions of what it needs, once, and runs. Another Python: make test PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt
PINS := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo demo-page test check clean

help: ## Show this list.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

demo: $(VENV)/.for-demo ## Train a small CKS on drawn stickers, let it choose, write a page of it.
	$(BIN)/python scripts/demo.py

demo-page: $(VENV)/.for-demo-page ## The same, then a page on 127.0.0.1 where the model answers you.
	$(BIN)/python scripts/demo.py --serve

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

$(VENV)/.for-demo-page: $(PINS) | $(BIN)/python
	$(PIP) --editable ".[demo]"
	@touch $@

$(VENV)/.for-test: $(PINS) | $(BIN)/python
	$(PIP) --editable ".[dev,paddle,demo]"
	@touch $@

$(VENV)/.for-check: $(PINS) | $(BIN)/python
	$(PIP) ruff
	@touch $@
