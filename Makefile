# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Path and Python of the environment; the stamp of a complete one has the same text.
IDENTITY := $(BIN)/python -Ic 'import sys; print(sys.prefix, *sys.version_info[:2])' 2>/dev/null
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Reports the progress of pip, which takes a minute; fails unless the last line is "done".
PROGRESS := awk -v all=$$(grep -c == requirements-dev.txt) ' \
	/^Collecting/ && ++n % 20 == 0 { print "  " n " of " all " packages downloaded"; fflush() } \
	/^Installing collected/ { print "  unpacking " n " packages, which takes half a minute"; fflush() } \
	$$0 == "done" { ok = 1 } \
	END { exit !ok }'
COMPILE := PYTHONWARNINGS=ignore CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --upgrade --generate-hashes \
	--strip-extras --allow-unsafe --no-build-isolation --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	--no-emit-options

IMAGES := ghcr.io/linuxfoundation/lfx-v2-email-service
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"$$/\1/p' shared/__init__.py)
COMMIT = $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
NAMESPACE ?= lfx
# Tests mostly wait for servers and timers, so there are more workers than cores: with 4 workers, two cores were idle
# for a third of the time.
WORKERS ?= 6

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-postfix bench bench-compare chaos faults smtp-faults check format run-relay run-tracker \
	check-relay check-tracker docker-build helm-install-local chart-docs version image lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-19s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Install everything into .venv

# An environment that was moved, is incomplete or has lost its Python is created again; any other is updated.
ifneq ($(shell $(IDENTITY)),$(shell cat $(STAMP) 2>/dev/null))
.PHONY: $(STAMP)
endif
$(STAMP): pyproject.toml requirements-dev.txt
	@test -s $(STAMP) && test "$$($(IDENTITY))" = "$$(cat $(STAMP))" || { \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
			{ echo "Python 3.11 or newer is needed, for example: make setup PYTHON=python3.12" >&2; exit 1; }; \
		rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); }
	@echo "Installing into $(VENV) ..."
	@{ PYTHONUNBUFFERED=1 $(PIP) install --require-hashes --requirement requirements-dev.txt && echo done; } | $(PROGRESS)
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@$(IDENTITY) > $(STAMP)

demo: $(STAMP) ## Send real emails through an embedded stack and show what comes back (KEEP=1 leaves it running)
	@KEEP=$(KEEP) exec $(BIN)/python -m tests.demo

test: $(STAMP) ## Run all tests (ARGS="-k pool" for some, WORKERS=0 in one process)
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal $(ARGS)

test-postfix: $(STAMP) ## Deliver through a real Postfix (needs root and Debian's package; says so where it is missing)
	@$(BIN)/python -m pytest -rs tests/postfix $(ARGS)

bench: $(STAMP) ## Measure (SCENARIO="send_plain events", ARGS="--runs 5 --json FILE"; soak, growth and status_to only by name, DURATION=600)
	@$(BIN)/python -m tests.bench $(if $(DURATION),--duration $(DURATION)) $(ARGS) $(SCENARIO)

bench-compare: $(STAMP) ## Measure alternately with another revision (BASE=main) or program (PROGRAM=path)
	@test -n "$(BASE)$(PROGRAM)" || { echo "Name a revision, make bench-compare BASE=main, or a program: PROGRAM=path" >&2; exit 1; }
	@$(BIN)/python -m tests.bench $(if $(BASE),--base "$(BASE)") $(if $(PROGRAM),--program "$(PROGRAM)") $(ARGS) $(SCENARIO)

chaos: $(STAMP) ## Kill NATS nodes and processes under load, and look for losses (DURATION=90, SEED=1, ARGS="with-keys --verbose")
	@$(BIN)/python -m tests.chaos $(if $(DURATION),--duration $(DURATION)) $(if $(SEED),--seed $(SEED)) $(ARGS)

faults: $(STAMP) ## Lose, delay and change single NATS messages under load (DURATION=60, SEED=1, ARGS="--logs DIRECTORY")
	@$(BIN)/python -m tests.faults $(if $(DURATION),--duration $(DURATION)) $(if $(SEED),--seed $(SEED)) $(ARGS)

smtp-faults: $(STAMP) ## Send over a mail server that refuses, cuts and stalls at random, and check each reply (SEED=1, ARGS="--count 10000")
	@$(BIN)/python -m tests.smtp_faults $(if $(SEED),--seed $(SEED)) $(ARGS)

check: $(STAMP) ## Formatting, lint, types, import rules, Dockerfiles, licence headers
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/hadolint Dockerfile.relay Dockerfile.tracker
	@.ci/licence-headers

format: $(STAMP) ## Format the code and apply the lint rules that can be applied
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

run-relay: .env $(STAMP) ## Run the relay with the variables of .env
	@set -a; . ./.env; set +a; exec $(BIN)/lfx-email-relay serve --create-missing

run-tracker: .env $(STAMP) ## Run the tracker with the variables of .env, its probes on TRACKER_PORT (8081)
	@set -a; . ./.env; set +a; PORT=$${TRACKER_PORT:-8081} exec $(BIN)/lfx-email-tracker serve --create-missing

check-relay: .env $(STAMP) ## Try each dependency of the relay with the variables of .env
	@set -a; . ./.env; set +a; exec $(BIN)/lfx-email-relay check

check-tracker: .env $(STAMP) ## Try each dependency of the tracker with the variables of .env
	@set -a; . ./.env; set +a; exec $(BIN)/lfx-email-tracker check

.env:
	@echo ".env does not exist. Copy it: cp .env.example .env, and change it as you need." >&2; exit 1

docker-build: ## Build both images, tagged latest (needs Docker)
	@for process in relay tracker; do \
		docker build --file Dockerfile.$$process --tag $(IMAGES)/email-$$process:latest \
			--build-arg VERSION=$(VERSION) --build-arg COMMIT=$(COMMIT) . || exit 1; \
	done

helm-install-local: ## Install both charts with their values.local.yaml (needs Helm and a cluster; NAMESPACE=lfx)
	@for process in relay tracker; do \
		chart=charts/lfx-v2-email-$$process; \
		test -f $$chart/values.local.yaml || \
			{ echo "$$chart/values.local.yaml does not exist. Copy values.local.example.yaml in the same folder." >&2; exit 1; }; \
		helm upgrade --install --create-namespace --namespace $(NAMESPACE) lfx-v2-email-$$process $$chart \
			--values $$chart/values.local.yaml || exit 1; \
	done

chart-docs: $(STAMP) ## Write the tables of values into the READMEs of the charts
	@$(BIN)/python -m tests.charts.readme

version: # Of code, images and charts; shared/__init__.py has it, and tests compare the charts with it
	@echo $(VERSION)

image: # Name of the image of PROCESS that docker-build builds
	@echo $(IMAGES)/email-$(PROCESS):latest

lock: $(STAMP) ## Resolve the requirements again, pinned by hash (with Python 3.11, so that they fit all newer ones)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "Use the oldest Python: make clean, then make lock PYTHON=python3.11" >&2; exit 1; }
	@$(COMPILE) --output-file requirements-build.txt requirements-build.in
	@$(COMPILE) --extra relay --extra otel --output-file requirements-relay.txt pyproject.toml
	@$(COMPILE) --extra tracker --extra otel --output-file requirements-tracker.txt pyproject.toml
	@$(COMPILE) --all-extras --output-file requirements-dev.txt pyproject.toml requirements-dev.in

clean: ## Remove the environment, builds and caches
	@rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
