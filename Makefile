# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

# One thread a process: more threads than free cores spin, measured 4 to 8 times slower.
export OMP_NUM_THREADS ?= 1

# Two files at a time, each process with a Ray of its own: while one waits for its Ray the other goes on. In the order of
# tests/conftest.py, not by their numbers of tests: files of few tests take longest.
TOGETHER := --numprocesses=2 --dist=loadfile --no-loadscope-reorder

.PHONY: demo test test-slow test-cluster benchmark lint format install constraints clean

demo: $(INSTALLED)  ## the whole way on the phantom, in a few minutes on two cores
	$(BIN)/sadm-ray run --config configs/phantom.yaml

test: $(INSTALLED)  ## all tests but the slow ones
	$(BIN)/pytest $(TOGETHER) -m "not slow and not cluster" --durations=20

test-slow: $(INSTALLED)  ## tests that take minutes: killed processes, scores of damaged files
	$(BIN)/pytest $(TOGETHER) -m slow --durations=0 --durations-min=1

test-cluster: $(INSTALLED)  ## on two machines made of namespaces: wants root, openssh-server, rsync, iproute2
	VENV=$(abspath $(VENV)) KEEP="$(CURDIR)" bash tests/cluster/two-hosts.sh $(abspath $(BIN))/pytest -m cluster

benchmark: $(INSTALLED)  ## about a minute: fails if a training step became twice as slow beside MONAI's
	$(BIN)/python -m benchmarks.short --check

lint: $(INSTALLED)  ## style, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(INSTALLED)

$(INSTALLED): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; say which: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,eval]'
	touch $@

constraints: $(INSTALLED)  ## pin what is installed now, after a deliberate upgrade
	{ sed -n 1p constraints.txt; $(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//'; } > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
