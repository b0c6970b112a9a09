# make demo    simulate a robot, run the matcher, write demo/report.html
# make test    everything that is tested quickly (about 5 minutes on 2 cores)
# make test-slow   the rest, with 200,000 random inputs; about half an hour on 2 free cores
# make soak    the node for hours: about six (SOAK="frames --minutes 10" for a part)
# make audit   known faults of pinned packages, and a list of them
# make docs    the pages and the Python API as HTML in build/site; warnings are errors
# make lint    style and strict types
# Each sets itself up in .venv, in any order and again; nothing is needed but python3 with venv.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# A CPU build serves the tests; name another with `make test TORCH=...`.
TORCH  ?= torch==2.13.0
# What the tests last passed with, as CI has it: make test LOCK=test/requirements.lock
LOCK   ?=
PINNED := $(if $(LOCK),-c $(LOCK))
STRICT := l2m_ros/types l2m_ros/errors.py l2m_ros/geometry l2m_ros/matching l2m_ros/engines \
          l2m_ros/export l2m_ros/tracking l2m_ros/frames/messages.py

.PHONY: demo test test-slow soak lint format docs audit lock clean

demo: $(VENV)/.demo-ready
	$(BIN)/l2m demo --out demo

test: $(VENV)/.test-ready
	$(BIN)/python -m pytest -q $(PYTEST_ARGS)

# Each test has an hour (a full machine is ten times slower): one that hangs is named, the rest goes on.
test-slow: $(VENV)/.test-ready build/audit/.ready
	$(BIN)/python -m pytest -q -m slow --timeout 3600 --durations 15 $(PYTEST_ARGS)
	L2M_FUZZ=200000 $(BIN)/python -m pytest -q test/fuzz --timeout 3600 $(PYTEST_ARGS)

soak: $(VENV)/.test-ready
	$(BIN)/python -m pytest -q -m soak $(PYTEST_ARGS)
	$(BIN)/python benchmarks/soak.py $(SOAK)

lint: $(VENV)/.test-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(STRICT)

# Not --quiet: mkdocs counts only the warnings that it prints.
docs: $(VENV)/.docs-ready
	$(BIN)/mkdocs build --strict

format: $(VENV)/.test-ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "l2m_ros needs Python 3.10 or newer; name one with: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "python3-venv is missing: sudo apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo-ready: setup.py | $(VENV)/bin/pip
	$(BIN)/pip install -q -e '.[ros,onnx,fast,view,map]'
	@touch $@

$(VENV)/.docs-ready: setup.py | $(VENV)/bin/pip
	$(BIN)/pip install -q -e '.[docs]'
	@touch $@

$(VENV)/.test-ready: setup.py | $(VENV)/bin/pip
	$(BIN)/pip install -q $(PINNED) $(TORCH)
	$(BIN)/pip install -q $(PINNED) -e '.[test]'
	@touch $@

# Known faults of what the tests are pinned to, and a list of it (CycloneDX); an environment of its own.
audit: build/audit/.ready
	build/audit/bin/python .ci/audit.py --lock test/requirements.lock --sbom build/sbom.json \
	  $(if $(OSV),--osv-url $(OSV))

build/audit/.ready:
	$(PYTHON) -m venv build/audit
	build/audit/bin/pip install -q pip-audit cyclonedx-bom
	@touch $@

lock: $(VENV)/.test-ready
	echo "# What the tests last passed with (x86-64, Python 3.11): \`make lock\` writes it." > test/requirements.lock
	$(BIN)/pip freeze --exclude-editable | sed 's/+cpu//' >> test/requirements.lock

clean:
	rm -rf $(VENV) build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache
