# Every command of the project; `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
COMPILED := .compiled
# What WEIGHBRIDGE_* a person has set for a server of their own must not leak into tests and demo.
CLEAN := env -u WEIGHBRIDGE_BASE_URL -u WEIGHBRIDGE_API_KEY -u WEIGHBRIDGE_ADMIN_KEY -u WEIGHBRIDGE_INFERENCE_KEY

.DEFAULT_GOAL := help
.PHONY: help setup demo run test test-compiled test-cluster check format compiled bench bench-gateway bench-ingest bench-scale simulate crashes mutants soak soak-control openapi lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv and install the project with its locked dependencies

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Weighbridge needs Python 3.11 or newer; this is %s. Set PYTHON=…" % sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade-strategy only-if-needed \
		--constraint constraints.txt --editable '.[test]'
	@touch $@

demo: $(STAMP) ## Run the main job on real input: S3, version, deploy, rollout under load, rollback
	@$(CLEAN) $(BIN)/weighbridge demo

run: $(STAMP) ## Start a server on this machine and stay up
	@$(BIN)/weighbridge up

test: $(STAMP) ## Run the whole test suite
	@$(CLEAN) $(BIN)/python -m pytest -n 2 --dist loadfile

test-cluster: $(STAMP) ## Run the tests on a real Ray cluster of three machines; installs ray
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade-strategy only-if-needed \
		--constraint constraints.txt --editable '.[test,ray]'
	@$(CLEAN) $(BIN)/python -m pytest tests/cluster -n 2 --dist loadfile --no-loadscope-reorder

compiled: $(COMPILED)/.installed ## Compile the gateway's data path, into .compiled/; needs a C compiler and Python's headers

$(COMPILED)/.installed: $(STAMP) hatch_build.py $(shell find src -name '*.py')
	@rm -rf $(COMPILED)
	@WEIGHBRIDGE_COMPILE=1 PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet \
		--disable-pip-version-check --no-deps --target $(COMPILED) .
	@touch $@

test-compiled: $(COMPILED)/.installed ## Run the gateway's tests on its compiled modules
	@PYTHONPATH=$(COMPILED) $(BIN)/python -c 'import sys; from weighbridge.gateway.wire import client; \
		sys.exit(None if client.__file__.endswith(".so") else "the plain module is found first: " + client.__file__)'
	@$(CLEAN) PYTHONPATH=$(CURDIR)/$(COMPILED) $(BIN)/python -m pytest -n 2 --dist loadfile \
		tests/unit/gateway tests/http/gateway tests/system/gateway

check: $(STAMP) ## Format, lint, types, import directions
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

format: $(STAMP) ## Format the code and mend what lint can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(STAMP) ## Run the benchmarks and write benchmarks/results/
	@$(CLEAN) $(BIN)/python -m benchmarks

bench-gateway: $(COMPILED)/.installed ## Measure the gateway beside the proxies installed here
	@$(CLEAN) $(BIN)/python -m benchmarks gateway

bench-ingest: $(STAMP) ## Compare weight syncs with other S3 clients, into benchmarks/results/
	@$(CLEAN) $(BIN)/python -m benchmarks ingest

bench-scale: $(STAMP) ## Measure a fleet of 1,000 endpoints, weights to nodes, and a Ray cluster where ray is installed
	@$(CLEAN) $(BIN)/python -m benchmarks scale distribution

simulate: $(STAMP) ## Play SEEDS worlds of the deterministic simulation, or replay SEED with its log
	@$(CLEAN) $(BIN)/python -m simulation $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),2000))

crashes: $(STAMP) ## Kill a control plane before and after each durable step of known stories
	@$(CLEAN) $(BIN)/python -m simulation.crashes

mutants: $(STAMP) ## Plant known bugs in the planners, one at a time, and see each caught
	@$(CLEAN) $(BIN)/python -m simulation.mutants

soak: $(STAMP) ## Play 100,000 worlds (or SEEDS) in all, on from where docs/evidence/simulation.md ends
	@$(CLEAN) $(BIN)/python -m simulation --seeds $(or $(SEEDS),100000) --evidence

soak-control: $(STAMP) ## Kill three control planes at random for MINUTES (10) and write docs/evidence/control-planes.md
	@$(CLEAN) PYTHONPATH=tests:tests/system $(BIN)/python tests/system/server/roles/plane_kills.py \
		--minutes $(or $(MINUTES),10) --seed $(or $(SEED),1) --evidence

openapi: $(STAMP) ## Write docs/api/openapi.json anew
	@$(BIN)/python -m weighbridge.api.schema > docs/api/openapi.json

lock: ## Write constraints.txt anew from pyproject.toml's ranges
	@rm -rf .lock-venv && $(PYTHON) -m venv .lock-venv
	@.lock-venv/bin/python -m pip install --quiet --disable-pip-version-check '.[test,ray]'
	@.lock-venv/bin/python -m pip freeze --exclude weighbridge > constraints.txt
	@rm -rf .lock-venv

clean: ## Remove what make has made
	rm -rf $(VENV) $(COMPILED) .lock-venv dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
