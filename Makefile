# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Where the environment lies and for which Python: the stamp of a good one says the same.
IDENTITY := $(BIN)/python -Ic 'import sys; print(sys.prefix, *sys.version_info[:2])' 2>/dev/null
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
COMPILE := PYTHONWARNINGS=ignore CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --upgrade --generate-hashes \
	--strip-extras --allow-unsafe --no-build-isolation --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	--no-emit-options

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format run-relay run-tracker lock clean

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Install everything into .venv

# An environment that was moved, left half made, or has lost its Python is made anew; any other is brought up to date.
ifneq ($(shell $(IDENTITY)),$(shell cat $(STAMP) 2>/dev/null))
.PHONY: $(STAMP)
endif
$(STAMP): pyproject.toml requirements-dev.txt
	@test -s $(STAMP) && test "$$($(IDENTITY))" = "$$(cat $(STAMP))" || { \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
			{ echo "Python 3.11 or newer is needed, for example: make setup PYTHON=python3.12" >&2; exit 1; }; \
		rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); }
	@echo "Installing into $(VENV) ..."
	@$(PIP) install --require-hashes --requirement requirements-dev.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@$(IDENTITY) > $(STAMP)

demo: $(STAMP) ## Send real emails through an embedded stack and show what comes back (KEEP=1 leaves it running)
	@KEEP=$(KEEP) $(BIN)/python -m tests.demo

test: $(STAMP) ## Run all tests (ARGS="-k pool" for some)
	@$(BIN)/python -m pytest $(ARGS)

check: $(STAMP) ## Formatting, lint, types, import rules, licence headers
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@.ci/licence-headers

format: $(STAMP) ## Format the code and mend what can be mended
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

run-relay: .env $(STAMP) ## Run the relay with the variables of .env
	@set -a; . ./.env; set +a; exec $(BIN)/lfx-email-relay serve --create-buckets

run-tracker: .env $(STAMP) ## Run the tracker with the variables of .env, its probes on TRACKER_PORT (8081)
	@set -a; . ./.env; set +a; PORT=$${TRACKER_PORT:-8081} exec $(BIN)/lfx-email-tracker serve --create-buckets

.env:
	@echo "There is no .env yet: cp .env.example .env, and change it to your liking." >&2; exit 1

lock: $(STAMP) ## Resolve the requirements anew, pinned by hash (with Python 3.11, so that they hold for all newer ones)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "Lock with the oldest Python: make clean, then make lock PYTHON=python3.11" >&2; exit 1; }
	@$(COMPILE) --extra relay --output-file requirements-relay.txt pyproject.toml
	@$(COMPILE) --extra tracker --output-file requirements-tracker.txt pyproject.toml
	@$(COMPILE) --all-extras --output-file requirements-dev.txt pyproject.toml requirements-dev.in

clean: ## Remove what was made
	@rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
