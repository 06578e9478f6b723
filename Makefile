# Everything a newcomer needs: each target first makes the virtual environment it runs in.
# Python 3.11 to 3.13 with its venv module is all that must be there; PYTHON=python3.12 names another than python3.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo demo-live install triton test test-all browser lint format bench bench-fidelity bench-goodput bench-policies bench-days bench-log bench-forecast bench-forecast-speed clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input --constraint constraints.txt

# Three stamps: the bare environment, the core (what `demo` needs), and test tools with torch on top of it.
CREATED := $(VENV)/.created
CORE := $(VENV)/.core-installed
TEST := $(VENV)/.test-installed
BROWSER := $(VENV)/.browser-installed
# A Triton server for the CPU, in an environment of its own since it wants an old numpy.
TRITON_VENV := .venv-triton
TRITON := $(TRITON_VENV)/.installed
# Forecasters of others, in an environment of their own: a comparison is all they are for.
PEERS_VENV := .venv-peers
PEERS := $(PEERS_VENV)/.installed

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-20s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(CORE) ## play a trace through the whole loop and write a report; TRACE=file plays your own
	@$(BIN)/partita demo $(if $(TRACE),--trace "$$TRACE")

demo-live: $(CORE) $(TRITON) ## control a real Triton server under a changing load, and compare with replay (Linux x86-64)
	@$(BIN)/partita demo-live $(if $(TRACE),--trace "$$TRACE")

# Tests that only compute run on all cores; those that start commands and databases of their own, and wait a lot, three at
# a time, file by file; those in which requests must be answered in time run one at a time.
PURE := tests/unit tests/properties tests/golden
STARTED := tests/e2e tests/contracts tests/postgres tests/crash
TIMED := $(filter-out tests/bench tests/gpu $(PURE) $(STARTED),$(sort $(patsubst %/,%,$(dir $(wildcard tests/*/test_*.py)))))

install: $(CORE) ## install the core into .venv, for use as .venv/bin/partita

triton: $(TRITON) ## install a Triton server for the CPU into .venv-triton (Linux, Python 3.11 or 3.12)

test: lint $(TEST) try-triton ## lint, then run every test that takes no more than a few seconds
	@$(BIN)/python -m pytest -q -n auto -m "not slow" $(PURE)
	@$(BIN)/python -m pytest -q -n 3 --dist loadfile -m "not slow" $(STARTED)
	@$(BIN)/python -m pytest -q -m "not slow" $(TIMED)

test-all: export PARTITA_EXAMPLES ?= 200
test-all: lint $(TEST) try-triton ## lint, then run the slow tests too, and more examples of each property
	@$(BIN)/python -m pytest -q -n auto $(PURE)
	@$(BIN)/python -m pytest -q $(STARTED) $(TIMED)

browser: $(BROWSER) ## open the reports in Chromium, wide and narrow, light and dark (PARTITA_SCREENSHOTS=folder keeps pictures)
	@$(BIN)/python -m pytest -q tests/browser

lint: $(TEST) ## check style, types and layers
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

format: $(TEST) ## put the code into its format, and mend what can be mended
	@$(BIN)/ruff check --fix-only --quiet
	@$(BIN)/ruff format

bench: $(TEST) ## measure speed
	@$(BIN)/python tests/bench/bench_replay_speed.py

bench-log: $(TEST) ## measure how many requests a second the live log takes (minutes)
	@$(BIN)/python tests/bench/bench_log.py

bench-fidelity: $(TEST) ## compare the disciplines with reference schedulers (needs PARTITA_REFERENCE_DIR)
	@$(BIN)/python tests/bench/bench_fidelity.py

bench-goodput: $(TEST) ## compare the goodput of all disciplines over many workloads (half an hour)
	@$(BIN)/python tests/bench/bench_goodput.py

bench-policies: $(TEST) ## compare the policies on real traces (needs PARTITA_REFERENCE_DIR; minutes)
	@$(BIN)/python tests/bench/bench_policies.py

bench-days: $(TEST) ## replay ten real days, 2.4 billion requests (needs PARTITA_REFERENCE_DIR; up to half an hour)
	@$(BIN)/python tests/bench/bench_days.py $(DAYS)

bench-forecast: $(PEERS) ## compare the forecasters with those of others (needs PARTITA_REFERENCE_DIR; one or two hours; FORECAST="--series 3 --keep folder" takes less)
	@$(PEERS_VENV)/bin/python tests/bench/bench_forecast.py $(FORECAST)

bench-forecast-speed: $(TEST) ## time the forecasters for thousands of services
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python tests/bench/bench_forecast_speed.py

clean: ## remove .venv, build outputs and caches (never the database)
	@rm -rf $(VENV) $(TRITON_VENV) $(PEERS_VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(CREATED):
	@command -v $(PYTHON) >/dev/null || { echo "Partita needs Python 3.11 to 3.13; there is no $(PYTHON) here." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "Partita needs Python 3.11 to 3.13; $(PYTHON) is $$($(PYTHON) -V 2>&1). Another one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@touch $@

# setuptools first and no build isolation, so that the build too runs on the pinned version.
$(CORE): $(CREATED) pyproject.toml constraints.txt
	@echo "Installing Partita into $(VENV); this takes a minute or two the first time."
	@$(PIP) setuptools
	@$(PIP) --no-build-isolation --editable .
	@touch $@

$(TEST): $(CORE)
	@echo "Installing the test tools and torch into $(VENV)."
	@$(PIP) --no-build-isolation --editable '.[test,torch]'
	@touch $@

# Playwright drives the Chromium that is there; it would fetch one of its own only if it were told to.
$(BROWSER): $(TEST)
	@$(PIP) --no-build-isolation --editable '.[browser]'
	@touch $@

$(TRITON): constraints-triton.txt
	@echo "Installing a Triton server into $(TRITON_VENV)."
	@$(PYTHON) -m venv $(TRITON_VENV)
	@$(TRITON_VENV)/bin/python -m pip install -qq --disable-pip-version-check --no-input \
	  --constraint constraints-triton.txt nvidia-pytriton
	@touch $@

# A peer that does not install here is left out; the comparison says so.
$(PEERS): pyproject.toml constraints.txt
	@echo "Installing Partita and forecasters of others into $(PEERS_VENV); this takes minutes the first time."
	@$(PYTHON) -m venv $(PEERS_VENV)
	@$(PEERS_VENV)/bin/python $(wordlist 2,99,$(PIP)) setuptools
	@$(PEERS_VENV)/bin/python $(wordlist 2,99,$(PIP)) --no-build-isolation --editable .
	@for peer in statsforecast lightgbm prophet; do \
	  $(PEERS_VENV)/bin/python $(wordlist 2,99,$(PIP)) $$peer || echo "$$peer cannot be installed here."; done
	@touch $@

# Where there is no server for this machine, its tests say so and are skipped.
.PHONY: try-triton
try-triton:
	@$(MAKE) -s $(TRITON) 2>/dev/null || echo "No Triton server can be installed here; its tests are skipped."
