# `make demo` and `make test` set up all that they need in .venv; other Pythons: `make PYTHON=python3.12 test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# What npm writes when it has finished.
NODE_PACKAGES := tests/editor/node_modules/.package-lock.json
# What the losses are measured beside, in an environment of its own, for nothing else needs it.
BENCH_VENV := .venv-bench
BENCH := $(BENCH_VENV)/bin/python
BENCH_READY := $(BENCH_VENV)/.ready
PEERS := monai kornia pytorch-metric-learning entmax coral-pytorch optax
# They ask for torchvision, which has no build for the CPU alone; their losses, all that is imported, need none of it.
PEERS_WITHOUT_DEPENDENCIES := timm segmentation-models-pytorch
INSTALL_PEER = $(BENCH) -m pip install --quiet --disable-pip-version-check \
	-c constraints.txt -c benchmarks/constraints.txt

.PHONY: demo test test-slow check generate docs bench clean

demo: $(READY)
	$(BIN)/losskit validate examples
	$(BIN)/python examples/train.py

# Two processes run the tests: more threads than one in each would only wait for each other.
test: $(READY) $(NODE_PACKAGES)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow"

# What takes tens of seconds a test: real compilers, many ranks, hostile input, and the frameworks, which are about as
# heavy as all else together, so that only this target installs them.
test-slow: $(READY) $(NODE_PACKAGES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[frameworks]"
	OMP_NUM_THREADS=1 CI_REQUIRES_FRAMEWORKS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m slow

check: $(READY) docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m scripts.generate --check

generate: $(READY)
	$(BIN)/python -m scripts.generate

docs: $(READY)
	$(BIN)/sphinx-build -q -W -b html docs docs/_build

bench: $(BENCH_READY) $(NODE_PACKAGES)
	$(BENCH) -m benchmarks.validation
	$(BENCH) -m benchmarks.losses --allocator default
	$(BENCH) -m benchmarks.losses --allocator reusing
	$(BENCH) -m benchmarks.criterion

# A peer that has no build for this Python or system is left out, and no other with it; the benchmark says so.
$(BENCH_READY): pyproject.toml constraints.txt benchmarks/constraints.txt
	test -x $(BENCH) || $(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	for peer in $(PEERS); do $(INSTALL_PEER) $$peer || echo "$$peer is left out"; done
	for peer in $(PEERS_WITHOUT_DEPENDENCIES); do $(INSTALL_PEER) --no-deps $$peer || echo "$$peer is left out"; done
	$(BENCH) -m compileall -q losskit
	touch $@

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	$(BIN)/python -m compileall -q losskit
	touch $@

# Without npm, the tests of what editors do with the schema are skipped.
$(NODE_PACKAGES): tests/editor/package-lock.json
	@if command -v npm > /dev/null; then npm ci --silent --prefix tests/editor && touch $@; \
	else echo "npm is not installed: the tests in tests/editor that need it are skipped"; fi

clean:
	rm -rf $(VENV) $(BENCH_VENV) tests/editor/node_modules docs/_build examples/output .hypothesis .mypy_cache .pytest_cache .ruff_cache
