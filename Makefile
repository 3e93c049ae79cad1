# sudo make run    installs what is missing and runs the sensor live with the default rules
# sudo make test   installs what the tests need and runs them all
# make replay      the same engine over a recording: no root, no BCC, no particular kernel

SHELL := /bin/bash
PREFIX ?= /opt/sensor
DESTDIR ?=
# More arguments for run, replay, bench, fuzz or pytest: make run ARGS='--duration 60'
ARGS ?=
RECORDING ?= $(firstword $(wildcard docs/examples/*.jsonl docs/examples/*.jsonl.zst))
PYTHON := .venv/bin/python
# Root must leave no byte code behind in a user's checkout.
export PYTHONDONTWRITEBYTECODE := 1

.PHONY: help run setup replay bench test lint test-unit test-live test-vm fuzz soak generate manifest install uninstall clean

help:
	@sed -n '1,3s/^# //p' Makefile
	@echo 'more: setup lint test-unit test-live test-vm fuzz soak bench generate manifest install uninstall clean'

run: need-root
	@tools/setup run
	@exec .venv/bin/sensor run --events all $(ARGS)

setup:
	@tools/setup run

replay:
	@tools/setup replay
	@test -n '$(RECORDING)' || { echo 'make replay: no recording in docs/examples; name one: RECORDING=FILE' >&2; exit 2; }
	@exec .venv/bin/sensor replay $(RECORDING) --format table $(ARGS)

bench: setup-test
	@exec $(PYTHON) -m tests.bench $(ARGS)

# Cheap first: a broken checkout is told in seconds. Of the kernels the oldest and the newest; `make test-vm` runs all.
test: need-root lint test-unit test-live
	KERNEL="$${KERNEL:-$$($(PYTHON) -c 'from tests.vm.matrix import OLDEST_AND_NEWEST; print(*OLDEST_AND_NEWEST)')}" \
	  $(PYTHON) -m tests.vm $(ARGS)
	@echo 'all tests passed'

lint: setup-test
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy

test-unit: setup-test
	$(PYTHON) -m pytest -m 'not live and not vm' --ignore=tests/live --ignore=tests/vm $(ARGS)

test-live: need-root setup-test
	$(PYTHON) -m pytest -m live $(ARGS)

test-vm: need-root setup-test
	$(PYTHON) -m tests.vm $(ARGS)

# Every reader of foreign bytes for FUZZ_SECONDS (600) each; ARGS='sigma falco' picks, ARGS=--list names them.
fuzz: setup-test
	@$(PYTHON) -c 'import atheris' 2>/dev/null || $(PYTHON) -m pip install --quiet --editable '.[fuzz]'
	@exec $(PYTHON) -m tests.fuzz $(ARGS)

# Loads, attachments and failed loads by the thousand, here and on every kernel of the matrix: hours.
soak: need-root setup-test
	SENSOR_SOAK=1 $(PYTHON) -m pytest -s tests/live/test_soak.py tests/live/test_load_failures.py
	KERNEL="$${KERNEL:-$$($(PYTHON) -c 'from tests.vm.images import KERNELS; print(*KERNELS)')}" \
	  TEST='soak-long' $(PYTHON) -m tests.vm $(ARGS)

generate: setup-test
	tools/generate

# What each probe compiles to, for review: helpers, instructions, maps. Compares nothing; tests do.
manifest: need-root setup-test
	$(PYTHON) -m tests.live.manifest > build-manifest.tmp && mv build-manifest.tmp docs/manifest.json

install: need-root
	@tools/install install '$(DESTDIR)' '$(PREFIX)'

uninstall: need-root
	@tools/install uninstall '$(DESTDIR)' '$(PREFIX)'

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

.PHONY: setup-test need-root
setup-test:
	@tools/setup test

# DESTDIR stages files for a package, which needs no root.
need-root:
	@if [ "$$(id -u)" != 0 ] && [ -z '$(DESTDIR)' ]; then \
	  echo 'make $(MAKECMDGOALS): needs root; fix: sudo make $(MAKECMDGOALS)' >&2; exit 3; fi
