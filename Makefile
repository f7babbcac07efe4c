# make demo   search, export and retrain a real network on real images
# make demo-detection  the same for a detector (YOLOv8; 18 minutes of processor time)
# make test   run the tests
# make test-sweep  run the slow tests that this leaves out
# make test-core  run the docs on plain PyTorch where only torch and numpy are installed
# make lint   ruff, mypy and the layers of the package
# make sweep  take every family of the zoos through mmdms (an hour; goes on where it was)
# Each sets up .venv first (several minutes: mmcv is compiled), and only once.

PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.installed

# Idle OpenMP threads sleep instead of spinning: as fast on a free machine, and
# ten times as fast where another process wants the same cores.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: venv demo demo-detection test test-sweep test-core sweep lint benchmark-deps clean

venv: $(STAMP)

$(BIN)/python:
	$(PYTHON) -m venv .venv

# mmcv's ops compile in 6 minutes on two cores with these flags, and in three
# times that without. --no-build-isolation: the build must see the torch that
# is installed, not fetch its own.
$(STAMP): requirements/build.txt requirements/openmmlab.txt requirements/runtime.txt requirements/commands.txt \
		requirements/demo.txt requirements/tests.txt setup.py | $(BIN)/python
	$(BIN)/python -m pip install -r requirements/build.txt
	MMCV_WITH_OPS=1 MAX_JOBS=2 CFLAGS="-O1 -g0" $(BIN)/python -m pip install --no-build-isolation \
		-r requirements/openmmlab.txt
	$(BIN)/python -m pip install -r requirements/runtime.txt -r requirements/commands.txt \
		-r requirements/demo.txt -r requirements/tests.txt
	$(BIN)/python -m pip install --no-build-isolation --no-deps -e .
	touch $@

demo: venv
	$(BIN)/python tools/demo.py

demo-detection: venv
	$(BIN)/python tools/demo_detection.py

# One process per core, each test file in one of them: its fixtures are built once. `make test WORKERS=0` uses one process.
WORKERS ?= logical

test: venv
	$(BIN)/python -m pytest tests -n $(WORKERS) --maxprocesses 4 --dist loadfile

# The slow tests that `make test` and .ci/run leave out.
test-sweep: venv
	$(BIN)/python -m pytest tests -m sweep -n $(WORKERS) --maxprocesses 4 --dist loadfile

sweep: venv
	$(BIN)/python benchmarks/sweep_zoo.py --out work_dirs/sweep.jsonl

CORE := .venv-core

$(CORE)/.installed: requirements/core.txt setup.py
	$(PYTHON) -m venv $(CORE)
	$(CORE)/bin/python -m pip install -r requirements/core.txt
	$(CORE)/bin/python -m pip install --no-deps -e .
	touch $@

# The core needs torch and numpy alone: an environment of these two runs the pages of docs/ that need no more.
test-core: $(CORE)/.installed
	mkdir -p work_dirs/core
	cd work_dirs/core && $(CURDIR)/$(CORE)/bin/python $(CURDIR)/tests/core_only.py

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy mmdms
	$(BIN)/lint-imports

benchmark-deps: venv
	$(BIN)/python -m pip install -r requirements/benchmark.txt

clean:
	rm -rf .venv $(CORE) build dist *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
