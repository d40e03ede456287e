# One entry for every job of this repository; `make help` lists them. Everything it makes lands under build/.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

VENV := build/venv
BIN := $(CURDIR)/$(VENV)/bin
PYTHON ?= python3
ARGS ?=
TARGET ?= native

# The copy of the collection that playbooks run from: the built archive, installed. Unit tests, lint and sanity read the checkout instead.
# (Collections of PyPI's `ansible` package are found in the virtual environment without being named.)
INSTALLED = ANSIBLE_COLLECTIONS_PATH="$(CURDIR)/build/collections" PATH="$(BIN):$$PATH"

.PHONY: help venv dev collection lint lint-light sanity unit molecule test test-fast demo demo-upgrade demo-down bench lock clean

help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

venv: ## everything the other targets need, into build/venv, from requirements.lock by hash (a no-op while the lock is unchanged)
	@PYTHON="$(PYTHON)" scripts/venv

dev: venv
	@mkdir -p build/dev/ansible_collections/openrtc
	@ln -sfnT "$(CURDIR)" build/dev/ansible_collections/openrtc/livekit

collection: venv ## build the archive and install it into build/collections (a no-op while no file changed)
	@scripts/collection

lint: dev ## yamllint, ansible-lint (production profile), and this repository's own rules
	@scripts/lint

lint-light: dev ## lint without ansible-lint: seconds
	@scripts/lint --light

sanity: venv ## ansible-test sanity, all of its tests
	@scripts/sanity $(ARGS)

unit: dev ## pytest tests/unit (ARGS="-k word" selects)
	@(PATH="$$PATH:/usr/sbin"; command -v redis-server && command -v haproxy) >/dev/null || lab/bootstrap # the tests start real ones
	@$(BIN)/python -m pytest tests/unit -q -n 4 $(ARGS)

molecule: collection ## molecule scenarios on the lab (ARGS="default" selects)
	@$(INSTALLED) scripts/molecule $(ARGS)

test: ## lint, sanity, unit, molecule; the last line is the sum
	@$(PYTHON) scripts/stages.py lint sanity unit molecule

test-fast: ## what needs no lab: lint-light and unit
	@$(PYTHON) scripts/stages.py lint-light unit

demo: collection ## six hosts, a cluster on them, real calls, an upgrade under them; report in build/demo (TARGET=compose: in containers, TARGET=kubernetes: in a cluster)
	@$(INSTALLED) scripts/demo --target $(TARGET) up

demo-upgrade: collection ## one more upgrade of the demo cluster under calls
	@$(INSTALLED) scripts/demo --target $(TARGET) upgrade

demo-down: collection ## remove what the demo made
	@$(INSTALLED) scripts/demo --target $(TARGET) down

bench: dev collection ## tests/bench/*.py one after the other; raw JSON under build/bench
	@$(INSTALLED) scripts/bench $(ARGS)

lock: ## requirements.lock anew from requirements.txt and requirements-dev.in
	@scripts/venv lock

clean: ## remove build/ (run demo-down first if the lab is up)
	rm -rf build .ansible
