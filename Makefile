# The whole developer interface. Everything lives in .venv; nothing needs to be installed before.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# As many tests at a time as there are cores, up to four: most of them start processes of their own.
WORKERS := -n auto --maxprocesses 4 --dist worksteal
PLUGINS := $(sort $(wildcard orbit_plugins/*))
# Programs start as they do for users, whose pip has compiled what it installed.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-site check bench docs isolation clean

$(VENV)/ready: pyproject.toml constraints.txt scripts/make_venv.sh $(addsuffix /pyproject.toml,$(PLUGINS))
	PYTHON=$(PYTHON) sh scripts/make_venv.sh $(VENV)
	touch $@

demo: $(VENV)/ready  ## watch a bridge, an endpoint and a job; KEEP=1 leaves them running
	$(BIN)/python scripts/demo.py $(if $(KEEP),--keep)

test: $(VENV)/ready  ## run all tests, which must cover enough of each package
	$(BIN)/python -m pytest -q $(WORKERS) --cov --cov-report=term
	$(BIN)/python scripts/covered.py

test-site: $(VENV)/ready  ## run the tests on a real SLURM, which they install and start; needs root
	$(BIN)/python -m pytest -q -m site tests/site

check: $(VENV)/ready  ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/ready  ## print the table of ratios and write benchmarks/results.md
	$(BIN)/python benchmarks/run.py

docs: $(VENV)/ready  ## test the documentation: examples run, references are complete
	$(BIN)/python -m pytest -q tests/test_docs.py tests/test_hooks_documented.py

isolation: $(VENV)/ready  ## build all wheels; test each plugin with core alone, and the template renamed
	$(BIN)/python scripts/isolation.py $(WORKERS)

clean:
	rm -rf $(VENV) dist
