# Everything needs only `python3` (3.11 or 3.12) and a package index; each goal does its own set-up.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready-$(shell cat constraints.txt pyproject.toml | cksum | cut -d' ' -f1)
JOBS ?= 2

.PHONY: demo test lint setup clean
.DELETE_ON_ERROR:

setup: $(READY)

$(READY): constraints.txt pyproject.toml
	@echo "== Installing codesign and its pinned dependencies into $(VENV) (once; about 1.5 GB, a few minutes)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)) and \
	  "codesign needs Python 3.11 or 3.12, found " + sys.version.split()[0] + "; run make PYTHON=python3.11")'
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt "torch==2.13.0"
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@rm -f $(VENV)/.ready-*
	@touch $@

demo: $(READY)
	@echo "== Training a small SqueezeNext on handwritten digits, then choosing, compiling and measuring bit widths"
	@$(VENV)/bin/codesign run examples/digits.toml

test: lint
	@echo "== Tests"
	@$(VENV)/bin/pytest -q -n $(JOBS)

lint: $(READY)
	@echo "== Style and types"
	@$(VENV)/bin/ruff format --check --quiet .
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) runs build *.egg-info .mypy_cache .ruff_cache .pytest_cache
