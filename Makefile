# The front door. Needs Python 3.11 or newer and make, nothing else: `make run` on a fresh checkout installs
# everything below this folder and serves a real model. `make help` lists what there is.

PYTHON ?= python3
# The worker's dependencies: worker-cpu, or worker-gpu on a machine with NVIDIA GPUs.
WORKER ?= worker-cpu
KILLS ?= 100
# Each with a PostgreSQL and a Valkey of its own.
TEST_PROCESSES ?= logical --maxprocesses 8

CONTROL := .venv/bin/python
CONTROL_READY := .venv/.installed
WORKER_READY := .venv-worker/.installed-$(WORKER)
TORCH = $(filter torch==%,$(shell cat infra/requirements/$(WORKER).txt))
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu

.PHONY: help run demo test test-fast chaos bench lint format lock stop clean
.DEFAULT_GOAL := help

help:
	@echo 'make run              serve Hone on http://127.0.0.1:8000 until Ctrl-C (PORT=, HONE_HOME=)'
	@echo 'make demo             see the whole loop run by itself, with a real model'
	@echo 'make test             every test; `make test-fast` leaves out those that take minutes'
	@echo 'make chaos KILLS=100  kill processes at random while work runs'
	@echo 'make bench            measure'
	@echo 'make lint             style, types, imports, migrations, the schema; `make format` repairs style'
	@echo 'make lock             resolve infra/requirements/*.txt anew from pyproject.toml'
	@echo 'make stop             stop what a killed `make run` has left behind'
	@echo 'make clean            remove environments, caches and .hone (data and models)'
	@echo
	@echo 'WORKER=worker-gpu installs vLLM for NVIDIA GPUs; PYTHON=python3.12 chooses an interpreter.'

run: $(CONTROL_READY) $(WORKER_READY)
	@$(CONTROL) -m infra.dev run

demo: $(CONTROL_READY) $(WORKER_READY)
	@$(CONTROL) -m infra.demo

# Those that start the whole product want the machine to themselves.
test: test-fast
	$(CONTROL) -m pytest -m "e2e or chaos"

test-fast: $(CONTROL_READY) $(WORKER_READY)
	$(CONTROL) -m pytest -m "not e2e and not chaos" -n $(TEST_PROCESSES) --dist loadfile

chaos: $(CONTROL_READY) $(WORKER_READY)
	HONE_CHAOS_KILLS=$(KILLS) $(CONTROL) -m pytest -m chaos --timeout 0

bench: $(CONTROL_READY) .venv-worker/.installed-bench
	$(CONTROL) -m tests.bench

lint: $(CONTROL_READY)
	$(CONTROL) -m ruff check .
	$(CONTROL) -m ruff format --check .
	$(CONTROL) -m mypy
	.venv/bin/lint-imports
	$(CONTROL) -W ignore::RuntimeWarning manage.py makemigrations --check --dry-run --settings config.settings.test
	$(CONTROL) manage.py spectacular --validate --fail-on-warn --file /dev/null --settings config.settings.test

format: $(CONTROL_READY)
	$(CONTROL) -m ruff check --fix .
	$(CONTROL) -m ruff format .

lock: .hone/lock-venv/.installed
	@.hone/lock-venv/bin/python infra/dev/lock.py $(EXTRAS)

stop: $(CONTROL_READY)
	@$(CONTROL) -m infra.dev stop

clean:
	@if [ -f $(CONTROL_READY) ]; then $(CONTROL) -m infra.dev stop; fi
	rm -rf .hone .venv .venv-worker .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# A stamp is written last, so an interrupted installation is taken up again. pip's own configuration decides where
# packages come from.

$(CONTROL_READY): infra/requirements/dev.txt pyproject.toml
	@$(call create_environment,.venv)
	$(CONTROL) -m pip install --no-deps -r infra/requirements/dev.txt
	$(CONTROL) -m pip install --no-deps -e .
	@touch $@

# torch's CPU build is not on PyPI: where the configured indexes have none, PyTorch's own is asked.
$(WORKER_READY): infra/requirements/$(WORKER).txt pyproject.toml
	@$(call create_environment,.venv-worker)
	@rm -f .venv-worker/.installed-*
	.venv-worker/bin/python -m pip install --no-deps $(TORCH) || \
		.venv-worker/bin/python -m pip install --no-deps --extra-index-url $(TORCH_CPU_INDEX) $(TORCH)
	.venv-worker/bin/python -m pip install --no-deps -r infra/requirements/$(WORKER).txt
	.venv-worker/bin/python -m pip install --no-deps -e .
	@touch $@

# With what the trainer is compared with.
.venv-worker/.installed-bench: infra/requirements/worker-bench.txt $(WORKER_READY)
	.venv-worker/bin/python -m pip install --no-deps -r infra/requirements/worker-bench.txt
	@touch $@

.hone/lock-venv/.installed:
	@$(call create_environment,.hone/lock-venv)
	.hone/lock-venv/bin/python -m pip install uv
	@touch $@

define create_environment
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Hone needs Python 3.11 or newer; this is " + \
	sys.version.split()[0] + ". Name a newer one: make PYTHON=python3.12 ...")' && $(PYTHON) -m venv $(1)
endef
