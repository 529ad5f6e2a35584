# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
COMPILE := PYTHONWARNINGS=ignore CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --upgrade --generate-hashes --strip-extras \
	--allow-unsafe --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format run-relay run-tracker lock clean

help: ## Show what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## Install everything into .venv

$(STAMP): pyproject.toml requirements-dev.txt
	@$(BIN)/python -c '' 2>/dev/null || { rm -rf $(VENV); $(PYTHON) -m venv $(VENV); }
	@echo "Installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

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

run-relay: $(STAMP) .env ## Run the relay with the variables of .env
	@set -a; . ./.env; set +a; exec $(BIN)/lfx-email-relay serve --create-buckets

run-tracker: $(STAMP) .env ## Run the tracker with the variables of .env, its probes on TRACKER_PORT (8081)
	@set -a; . ./.env; set +a; PORT=$${TRACKER_PORT:-8081} exec $(BIN)/lfx-email-tracker serve --create-buckets

.env:
	@echo "There is no .env yet: cp .env.example .env, and change it to your liking." >&2; exit 1

lock: ## Resolve the requirements anew, pinned by hash
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-tools hatchling
	@$(COMPILE) --extra relay --output-file requirements-relay.txt pyproject.toml
	@$(COMPILE) --extra tracker --output-file requirements-tracker.txt pyproject.toml
	@$(COMPILE) --all-extras --output-file requirements-dev.txt pyproject.toml requirements-dev.in

clean: ## Remove what was made
	@rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
