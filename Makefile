# Two commands do all the set-up: `make demo` runs the main job, `make test` passes the tests.
# Both install from wheels into .venv; PIP_ARGS is handed to pip (an index of your own, say).
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PIP_ARGS ?=
TEST_PROCESSES ?= 2
BIN := .venv/bin
LINTED := framepack service worker bench tests

.PHONY: demo test lint chaos clean settings dashboards digests audit sbom

demo: .venv/up.installed
	@$(BIN)/python -m service.demo

test: lint
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile \
	  --cov=framepack --cov=service --cov=worker --cov-report=term:skip-covered

lint: .venv/test.installed
	$(BIN)/ruff check $(LINTED)
	$(BIN)/ruff format --check $(LINTED)
	$(BIN)/lint-imports
	$(BIN)/mypy $(LINTED)

.venv/%.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo 'Python 3.11 or later is needed: make PYTHON=/path/to/python' >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[$*]'
	@touch $@

# Random kills, freezes, outages and storage faults against the whole service for so long, then a recount.
SECONDS ?= 600
SEED ?= 7
chaos: .venv/test.installed
	$(BIN)/python -m tests.faults --seconds $(SECONDS) --seed $(SEED)

# Known advisories about every version in constraints.txt; fails too where nobody could be asked, and says so.
audit: .venv/test.installed
	$(BIN)/python deploy/supply_chain.py audit

# A CycloneDX bill of materials of each image, in out/sbom.
sbom: .venv/test.installed
	$(BIN)/python deploy/supply_chain.py sbom out/sbom

# Pages and files that are written by code; tests hold them to it.
settings: .venv/test.installed
	$(BIN)/python -c 'import sys; from service.reference import reference; from worker.settings import WorkerSettings; \
	  sys.stdout.write(reference(WorkerSettings))' > docs/settings.md

dashboards:
	$(PYTHON) deploy/grafana/build.py

# Digests of all images from their registries, for docker compose --env-file; nothing where one does not answer.
digests:
	@deploy/digests.sh

clean:
	rm -rf .venv data out .pytest_cache .mypy_cache .ruff_cache .coverage
