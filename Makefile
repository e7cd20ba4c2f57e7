# Two commands do everything on a fresh machine: `make demo` and `make test`.
VENV ?= .venv
PYTHON ?= python3
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.PHONY: demo test slow lint docs clean

demo: $(STAMP)
	$(VENV)/bin/jensen fit digits -m diffusion -o runs/demo --budget 2m30s

test: $(STAMP)
	$(PY) -m pytest -n auto --maxprocesses 4

slow: $(STAMP)
	$(PY) -m pytest -m slow

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

docs: $(STAMP)
	@$(PY) -c "import mkdocs" 2>/dev/null || $(PY) -m pip install -q -c constraints.txt -e '.[docs]'
	$(PY) -m mkdocs build --strict

clean:
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache

# With a valid stamp nothing is asked of the network.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "jensen needs python >= 3.11 as '$(PYTHON)'; name another with make PYTHON=python3.12"; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || { echo "cannot make a virtual environment in $(VENV): is the python venv module installed?"; exit 1; }
	@echo "installing into $(VENV) (once; a few minutes)"
	@$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt torch 2>$(VENV)/pip.log || { echo "cannot install torch: no network, or no such version here (details: $(VENV)/pip.log); connect and run the same command again"; exit 1; }
	@$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]' 2>$(VENV)/pip.log || { echo "cannot install jensen's dependencies: no network? (details: $(VENV)/pip.log); connect and run the same command again"; exit 1; }
	@touch $@
