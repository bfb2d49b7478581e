# Each target does all the set-up that it needs; a second run takes none.
# As root on Debian the packages are installed too; elsewhere the message says what to install.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup lint test demo interop bench asan fuzz clean

help:
	@echo "make demo     one server, one client, real traffic through the tunnel (root)"
	@echo "make test     unit, property, simulation and end-to-end tests (the last as root)"
	@echo "make interop  Debian's sstpc and pppd, in a virtual machine, against our server (root)"
	@echo "make bench    what it costs on this machine, into docs/performance.md (root; QUICK=1 is short)"
	@echo "make asan     the native packet path under AddressSanitizer and UndefinedBehaviorSanitizer: its tests"
	@echo "make fuzz     the same build, fuzzed for FUZZ_SECONDS=60"
	@echo "make lint     ruff, mypy --strict, the layers"
	@echo "make setup    only the set-up: Debian packages, .venv"
	@echo "make clean    remove what these targets made"

setup: .venv/installed

NATIVE := $(wildcard sstpfarm/dataplane/*.pyx sstpfarm/dataplane/*.px[di] sstpfarm/dataplane/*.h)

# The stamp lives in .venv, so that removing .venv is a fresh start.
.venv/installed: pyproject.toml setup.py $(NATIVE) deploy/debian-packages.txt
	@deploy/install-packages base
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "$(PYTHON) is too old or missing: Python 3.11 or newer is needed (make PYTHON=...)" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "Making .venv"; $(PYTHON) -m venv .venv; }
	@echo "Installing Python packages into .venv"
	@$(BIN)/python -m pip -qq --disable-pip-version-check --no-input \
	    install --root-user-action=ignore --retries 5 --editable '.[dev]'
	@touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/test-installed: deploy/debian-packages.txt | setup
	@[ "$$(id -u)" != 0 ] || deploy/install-packages test
	@touch $@

TWO := $(BIN)/python -m pytest -n 2 --dist loadfile
ONE := $(BIN)/python -m pytest

# Two files at once, but for tests that are marked "alone"; then the rows of docs/parity.md once more on the plain path.
test: setup .venv/test-installed
	$(TWO) tests/arch tests/unit tests/property tests/sim tests/twin
	$(TWO) -m "not alone" tests/e2e
	$(ONE) -m alone tests/e2e
	SSTPFARM_DATAPLANE=pure $(TWO) -m "parity and not alone" tests/e2e
	SSTPFARM_DATAPLANE=pure $(ONE) -m "parity and alone" tests/e2e

demo: setup
	$(BIN)/sstpfarm demo

.venv/interop-installed: deploy/debian-packages.txt | setup
	@deploy/install-packages interop
	@touch $@

interop: setup .venv/test-installed .venv/interop-installed
	tests/interop/vm/build
	$(BIN)/python -m pytest tests/interop

.venv/bench-installed: deploy/debian-packages.txt | setup
	@deploy/install-packages bench
	@touch $@

BENCH := build/bench/bin
NATIVE_CFLAGS := -O3 -Wall -Wextra -Werror -D_GNU_SOURCE

$(BENCH)/tunnel: bench/native/tunnel.c bench/native/frames.c bench/native/frames.h | .venv/bench-installed
	@mkdir -p $(@D)
	gcc $(NATIVE_CFLAGS) -o $@ $(filter %.c,$^) -lssl -lcrypto

$(BENCH)/flows: bench/native/flows.c | .venv/bench-installed
	@mkdir -p $(@D)
	gcc $(NATIVE_CFLAGS) -o $@ $<

bench: setup $(BENCH)/tunnel $(BENCH)/flows
	$(BIN)/python -m bench $(if $(QUICK),--quick) $(BENCH_OPTIONS)

# A copy of the tree, so that nothing else imports the sanitized module.
SANITIZED := build/asan
SANITIZED_PYTHON = cd $(SANITIZED) && PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
    LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" $(CURDIR)/$(BIN)/python
FUZZ_SECONDS ?= 60

.PHONY: sanitized
sanitized: setup
	@rm -rf $(SANITIZED)
	@mkdir -p $(SANITIZED)
	@cp -r sstpfarm tests setup.py pyproject.toml README.md LICENSE $(SANITIZED)
	@find $(SANITIZED) -name '*.so' -delete
	cd $(SANITIZED) && SSTPFARM_SANITIZE=1 $(CURDIR)/$(BIN)/python setup.py -q build_ext --inplace

asan: sanitized
	$(SANITIZED_PYTHON) -m pytest -p no:cacheprovider tests/twin

fuzz: sanitized
	$(SANITIZED_PYTHON) -m tests.fuzz.fuzz_dataplane --seconds $(FUZZ_SECONDS)

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find sstpfarm -name '*.so' -delete
	find sstpfarm tests loadtest bench -name __pycache__ -type d -prune -exec rm -rf {} +
