# mlperf-det: `make run` trains and reports on this machine, `make test` runs the tests.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: run test test-long integration lint perf clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3,10) <= sys.version_info[:2] <= (3,13) and "Python 3.10 to 3.13 is needed; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[train,dev]'
	touch $@

run: $(STAMP)
	$(BIN)/mlperf-det accept

# One thread a worker: two workers that each start a thread a core would spend their time waiting for each other.
test: $(STAMP) lint
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses=auto --dist=worksteal

# Networks at full size on real photos (with the sample data beside the checkout), whole sessions with and without faults.
test-long: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses=auto --dist=worksteal --timeout=900 -m long

# A real Slurm cluster and real containers; needs root and what .ci/install installs.
integration: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m integration tests/integration

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

perf: $(STAMP)
	$(BIN)/python -m tests.perf

clean:
	rm -rf $(VENV) out out-* .pytest_cache .ruff_cache .mypy_cache .hypothesis
