# Every target sets up what it needs; `make setup` alone makes .venv.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.ready
COMPILED := .venv/.compiled
SERVERS ?= 1
SECONDS_EACH ?= 60

.PHONY: setup compile plain run run-ensemble test coverage check generate mutants fuzz bench clean conformance conformance-wire conformance-fuzz \
	conformance-handover conformance-kazoo conformance-kafka conformance-hbase conformance-clients conformance-crash \
	conformance-mixed conformance-reconfig conformance-addresses conformance-words bench-failover bench-ensemble faults sim

# Compiled modules hide their sources: what is older than a source, or left of a build that failed, goes before anything runs.
setup: $(STAMP)
	@if [ ! -e $(COMPILED) ] || [ -n "$$(find zkpy protocol -name '*.py' -newer $(COMPILED))" ]; then \
		rm -f $(COMPILED); find zkpy protocol *__mypyc.*.so -name '*.so' -print -delete 2>/dev/null \
		| sed -n '1s/.*/compiled modules were stale and are removed: make compile/p'; fi

$(STAMP): pyproject.toml setup.py
	rm -f $(COMPILED) *__mypyc.*.so
	find zkpy protocol -name '*.so' -delete  # of modules that setup.py names no more, too: they could not be imported
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "where there is a C compiler the hot modules are compiled: two minutes, once (ZKPY_COMPILE=0 leaves it out)"
	touch $(COMPILED).begun
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	! ls *__mypyc.*.so >/dev/null 2>&1 || mv $(COMPILED).begun $(COMPILED)
	$(BIN)/python -m compileall -q zkpy protocol  # starts are fast also where Python may not write bytecode
	touch $@

compile: setup $(COMPILED)  ## the hot modules as machine code, after a change of the sources

$(COMPILED): $(STAMP) $(shell find zkpy protocol -name '*.py') | setup
	touch $@.begun
	ZKPY_COMPILE=1 $(BIN)/python -m pip install --quiet --no-deps --editable .
	mv $@.begun $@

plain: setup  ## plain Python from now on
	rm -f $(COMPILED)
	find zkpy protocol -name '*.so' -delete
	rm -f *__mypyc.*.so

run: setup  ## a server on port 2181, data in ./zkpy-data
	$(BIN)/zkpy server

run-ensemble: setup  ## three servers of one ensemble: ports 2181-2183, 2888-2890, 3888-3890, data in ./zkpy-data/1-3; Ctrl-C stops them
	$(BIN)/python bin/run_ensemble.py

test: setup  ## needs Python only; tests the form that is there, .ci/run both
	$(BIN)/python -m pytest -n 2

coverage: plain  ## the same with branch coverage of zkpy/ and protocol/; fails below 95 %
	$(BIN)/python -m pytest -n 2 --cov --cov-branch

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m zkpy_protocol.codegen --check

generate: setup  ## protocol/zkpy_protocol/records.py from the schema, docs/zab-lessons.md from its table
	$(BIN)/python -m zkpy_protocol.codegen
	$(BIN)/python -m tests.mutants.table

sim: setup  ## whole ensembles in virtual time: SEED=… RUNS=…; interrupted, it goes on; ALL=1 does not stop at a failure, TRACE=1 shows one
	$(BIN)/python -m tests.simulation.runner $(if $(SEED),--seed $(SEED)) --runs $(or $(RUNS),1000) $(if $(TRACE),--trace) $(if $(ALL),--all)

mutants: setup  ## known bugs put into the code, one at a time: their tests have to fail; ONLY="4925 3104" for some lessons
	$(BIN)/python -m tests.mutants.run $(ONLY)

fuzz: plain  ## coverage-guided, SECONDS_EACH per input surface
	$(BIN)/python -m tests.fuzz.run --seconds $(SECONDS_EACH)

bench: compile  ## beside Apache ZooKeeper 3.9.5: needs Java, Maven, cc
	$(BIN)/python bench/run.py

bench-ensemble: compile  ## three servers beside three of Apache's
	$(BIN)/python bench/ensemble.py

bench-failover: compile  ## three servers whose leader is killed, beside Apache's
	$(BIN)/python bench/failover.py

# The rest needs Java and Maven, and fetches what it compares with: conformance/README.md.
conformance: conformance-wire conformance-handover conformance-clients conformance-crash conformance-mixed \
	conformance-reconfig conformance-addresses conformance-words

conformance-wire: setup
	$(BIN)/python conformance/golden_wire.py

conformance-fuzz: setup
	$(BIN)/python conformance/fuzz.py --resume

conformance-handover: setup
	$(BIN)/python conformance/handover.py

conformance-kazoo: setup
	$(BIN)/python conformance/kazoo_suite.py --servers $(SERVERS)

conformance-kafka: setup
	$(BIN)/python -m pip install --quiet --requirement conformance/systems-requirements.txt
	$(BIN)/python conformance/kafka_run.py --servers $(SERVERS)
	$(BIN)/python conformance/kafka_run.py --tls

conformance-hbase: setup
	$(BIN)/python conformance/hbase_run.py --servers $(SERVERS)

conformance-clients: setup
	$(BIN)/python conformance/clients/run.py

conformance-crash: setup
	$(BIN)/python conformance/crash_run.py

conformance-mixed: setup
	$(BIN)/python conformance/mixed_run.py

conformance-reconfig: setup
	$(BIN)/python conformance/reconfig_run.py

conformance-addresses: setup  ## root; says SKIPPED without
	$(BIN)/python conformance/multi_address_run.py

conformance-words: setup
	$(BIN)/python conformance/ensemble_words.py

faults: setup  ## three servers in network namespaces: root, ip, iptables; SERVER=apache:3.9.5 for real ones
	$(BIN)/python conformance/faults_run.py --server $(or $(SERVER),zkpy)

clean:
	rm -rf .venv .work build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
	find . -name '*.so' -delete
