# Two commands do everything on a fresh machine: `make demo` and `make test`.
SHELL := /bin/bash
TESTBED := .venv/bin/testbed
.PHONY: demo test test-netem lint engine bench clean setup-demo setup-test

## demo: set up, then run the quickstart lab: real split inference across fading links, with a report
demo: setup-demo
	$(TESTBED) run topologies/quickstart.yaml --duration 30s

## test: set up, then run every test that this machine can run
test: setup-test lint engine
	@status=0; \
	.venv/bin/python -m pytest -m parallel -n auto tests/unit || status=$$?; \
	.venv/bin/python -m pytest -m 'not parallel' || status=$$?; \
	exit $$status

## test-netem: the tests that need a kernel with netem and cgroup v2, in a User-Mode Linux guest
test-netem: setup-test
	.venv/bin/python -m pytest tests/netem/test_guest.py

## lint: ruff and mypy
lint: setup-test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

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
