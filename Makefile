# One-line verbs. Every one makes the environment it needs.
PYTHON ?= python3
BIN := .venv/bin


.PHONY: help venv serve test lint types wheel js browser bench sim fuzz soak gpu-test gpu-bench clean

help:           ## these verbs
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

.venv/made: setup.cfg constraints.txt
	@echo "making .venv, with torch in it: this takes a minute, or a few"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[server,web,dev]'
	@touch $@

venv: .venv/made  ## the environment, in .venv

serve: venv     ## the daemon on the built-in models, with the page at http://127.0.0.1:7480
	@exec $(BIN)/inferd serve --web

test: venv      ## every test, under 5 minutes on 2 cores
	$(BIN)/python -m pytest

lint: venv      ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv     ## mypy --strict, package and client
	$(BIN)/mypy inferd clients/python/inferd_client

wheel: venv     ## the wheel, installed and tried in a clean environment
	$(BIN)/python tests/wheel.py

js: venv        ## the JavaScript client: types, build, tests in Node
	cd clients/js && npm ci --no-audit --no-fund && npm run types && npm run build && npm test

browser: venv   ## the page and the client in a real Chromium (CHROMIUM=/usr/bin/chromium)
	cd clients/js && npm ci --no-audit --no-fund && npm run page && npm run test:browser && npm run test:page

bench: venv     ## rates, latencies and CPU beside their limits, in one run (about 5 minutes)
	$(BIN)/python benchmarks/throughput.py

sim: venv       ## the scheduler in a simulated world: the tables of docs/SCHEDULING.md
	$(BIN)/python -m tests.sim

fuzz: venv      ## hostile bytes at the decoder, SECONDS=120
	$(BIN)/python tests/fuzz/fuzz_wire.py --seconds $(or $(SECONDS),120)

soak: venv      ## SECONDS=60 each: every answer its own; with killed workers; callers who change their minds
	$(BIN)/python -m tests.soak --seconds $(or $(SECONDS),60)
	$(BIN)/python -m tests.soak --seconds $(or $(SECONDS),60) --kill-every 2
	$(BIN)/python -m tests.storm --seconds $(or $(SECONDS),60)

gpu-test: venv  ## the tests that need a CUDA device
	$(BIN)/python -m tests.gpu

gpu-bench: venv ## the benchmark on CUDA
	$(BIN)/python benchmarks/throughput.py --device cuda

clean:          ## the environment and what was built
	rm -rf .venv build dist *.egg-info clients/js/node_modules clients/js/dist clients/js/dist-test .mypy_cache .pytest_cache .ruff_cache .hypothesis bench-out
