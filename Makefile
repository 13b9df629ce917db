# One-line verbs. Every one makes the environment it needs.
PYTHON ?= python3
BIN := .venv/bin


.PHONY: help venv serve test lint types wheel js browser bench sim chaos fuzz fuzz-live faults faults-short soak gpu-test gpu-bench clean

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

test: venv      ## every test but the faults, under 5 minutes on 2 cores
	$(BIN)/python -m pytest -n 2 --dist worksteal --ignore tests/faults

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

chaos: venv     ## the daemon's core in made-up lives full of faults, on a virtual clock: SEEDS=2000 (about a minute)
	$(BIN)/python -m tests.sim.chaos --seeds $(or $(SEEDS),2000)

fuzz: venv      ## hostile bytes at decoders and session, SECONDS=120, or FRAMES=10000000 however long that takes
	$(BIN)/python -m tests.fuzz.run $(if $(FRAMES),--frames $(FRAMES),--seconds $(or $(SECONDS),120))

fuzz-live: venv ## FRAMES=100000 mutated frames at a live daemon (2 minutes; 1000000: 18), and what a good client notices
	$(BIN)/python -m tests.fuzz.live --frames $(or $(FRAMES),100000)

faults-short: venv  ## a short form of every fault (about 2 minutes)
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/faults

faults: venv    ## every fault of the catalogue into a real daemon, one line each (about 10 minutes; ROWS="T7 T15")
	$(BIN)/python -m tests.faults $(ROWS)

soak: MIN ?= 3
soak: venv      ## MIN=3 minutes: every answer its own, without faults and with them; callers who change their minds
	$(BIN)/python -m tests.soak --seconds $$(( $(MIN) * 60 / 6 ))
	$(BIN)/python -m tests.soak --seconds $$(( $(MIN) * 60 / 2 )) --fault-every 10 --json bench-out/soak.json
	$(BIN)/python -m tests.storm --seconds $$(( $(MIN) * 60 / 3 ))

gpu-test: venv  ## the tests that need a CUDA device
	$(BIN)/python -m tests.gpu

gpu-bench: venv ## the benchmark on CUDA
	$(BIN)/python benchmarks/throughput.py --device cuda

clean:          ## the environment and what was built
	rm -rf .venv build dist *.egg-info clients/js/node_modules clients/js/dist clients/js/dist-test .mypy_cache .pytest_cache .ruff_cache .hypothesis bench-out
