# Two commands do everything on a fresh machine: `make demo` and `make test`. `make check` is for every change.
SHELL := /bin/bash
TESTBED := .venv/bin/testbed
PYTEST := .venv/bin/python -m pytest
# neither root nor an engine nor a clock
UNIT := not root and not docker and not netem and not gpu and not quiet
QUICK := $(UNIT) and not thorough
# as many as there are cores: they compute
CHECKS_AT_ONCE ?= $(shell nproc)
# labs wait more than they compute: more of them at once than there are cores
LABS_AT_ONCE ?= $(shell echo $$(( $$(nproc) + 1 )))
.PHONY: demo check test test-netem test-pythons lint kernels engine bench clean setup-demo setup-test

## demo: set up, then run the quickstart lab: real split inference across fading links, with a report
demo: setup-demo
	$(TESTBED) run topologies/quickstart.yaml --duration 30s

## check: lint, types, and the tests that need neither root nor a clock: two minutes
check:
	@$(MAKE) --no-print-directory -j 2 lint kernels
	$(PYTEST) -n $(CHECKS_AT_ONCE) --dist loadgroup -m '$(QUICK)' tests/unit tests/golden

## test: set up, then run every test that this machine can run: those of function several at a time; those that want all
## labs and the engine for themselves, and meanwhile what needs neither: those with a kernel of their own, which at most
## copies an image out of the engine at its start, and those that only compute; then those that judge the clock one by one
test:
	@$(MAKE) --no-print-directory -j 3 lint kernels engine
	@export HYPOTHESIS_PROFILE=thorough; status=0; \
	$(PYTEST) -n $(LABS_AT_ONCE) --dist loadgroup --no-loadscope-reorder -m 'not (quiet or alone or guest or computes)' \
	    tests/docker tests/emulation tests/netem tests/unit tests/golden || status=$$?; \
	$(PYTEST) -n $(LABS_AT_ONCE) --dist loadgroup --no-loadscope-reorder -m '(alone or guest or computes) and not quiet' \
	    tests/netem/test_guest_docker.py tests/docker tests/netem/test_guest.py tests/unit tests/golden || status=$$?; \
	$(PYTEST) -m quiet tests/unit tests/emulation tests/docker tests/netem || status=$$?; \
	exit $$status

## test-netem: the tests that need a kernel with netem and cgroup v2, in a User-Mode Linux guest
test-netem: setup-test
	$(PYTEST) tests/netem/test_guest.py

## test-pythons: the tests of `make check` on every Python from 3.11 to 3.14 that is here (each downloads PyTorch)
test-pythons: setup-test
	@scripts/test-pythons -m '$(UNIT)' tests/unit tests/golden

## lint: ruff, mypy, and that every import points the right way
lint: setup-test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

## kernels: compile once what each worker of pytest would compile
kernels: setup-test
	.venv/bin/python -m tests.compile_kernels

## bench: the figures of docs/figures.md, as JSON under build/benchmarks
bench: setup-test
	.venv/bin/python -m benchmarks

## clean: remove what set-up and runs made (not the runs)
clean:
	-$(TESTBED) down --all
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache *.egg-info

## engine: start a Docker Engine if none answers, and build the images
engine: setup-test
	@scripts/engine

setup-demo:
	@scripts/setup demo

setup-test:
	@scripts/setup test
