# The commands of this project; `make` lists them. `make demo` and `make test` set up what they need.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench soak gates compile-gate bench-gpu

# With an active virtual environment, work in it; otherwise in .venv (scripts/setup.sh does the same).
ENVIRONMENT := $(or $(VIRTUAL_ENV),.venv)
PYTHON_HERE := "$(ENVIRONMENT)/bin/python"
# On a machine whose own Python has torch and triton, no environment is made to bench a GPU.
PYTHON_THERE := $(if $(wildcard $(ENVIRONMENT)/bin/python),$(PYTHON_HERE),python3)
TEST_EXTRAS := dev parity speech eval report data
# Two workers pay from about a minute of tests on; more than four only cost memory.
PYTEST_WORKERS ?= -n auto --maxprocesses 4
BENCHMARKS := mel tokenize pattern_step train_step generate

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

setup: ## make .venv from requirements.lock, or install into the active environment
	@scripts/setup.sh report eval

demo: setup ## train and score one model over five modalities, and write runs/demo/report.html
	@$(PYTHON_HERE) -m unimodal.cli.main demo

test: ## run the quick tests
	@scripts/setup.sh $(TEST_EXTRAS)
	@$(PYTHON_HERE) -m pytest -q $(PYTEST_WORKERS) $(PYTEST_ARGS)

soak: ## run every test, long ones and those for a GPU included
	@scripts/setup.sh $(TEST_EXTRAS)
	@$(PYTHON_HERE) -m pytest -q -m "not gates" $(PYTEST_WORKERS) $(PYTEST_ARGS)
	@$(MAKE) --no-print-directory gates

check: ## formatting, lint and types
	@scripts/setup.sh $(TEST_EXTRAS)
	@$(PYTHON_HERE) -m ruff format --check .
	@$(PYTHON_HERE) -m ruff check .
	@$(PYTHON_HERE) -m mypy

bench: ## time the parts that docs/benchmarks.md reports; compiled ones need a C++ compiler
	@scripts/setup.sh $(TEST_EXTRAS)
	@set -e; for name in $(BENCHMARKS); do echo "== $$name"; \
	    $(PYTHON_HERE) -m unimodal.benchmarks.$$name; done

gates: ## prove the Triton kernels without a GPU: in the interpreter, and compiled for three cards
	@scripts/setup.sh $(TEST_EXTRAS) gpu
	@TRITON_INTERPRET=1 $(PYTHON_HERE) -m pytest -q -m gates $(PYTEST_WORKERS) tests/kernels
	@$(PYTHON_HERE) -m unimodal.kernels.compile_gate

compile-gate: ## compile every kernel in every size and dtype, and rewrite the table of it
	@scripts/setup.sh $(TEST_EXTRAS) gpu
	@$(PYTHON_HERE) -m unimodal.kernels.compile_gate --all --write

bench-gpu: ## on a GPU: kernels against float64, then their speed; under ten minutes
	@$(PYTHON_THERE) -m unimodal.kernels.bench.gpu
