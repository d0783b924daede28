# make run: everything from nothing. Needs Python 3.11 or newer, make, and a package index.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=
BENCH_ARGS ?=
FAULTS_ARGS ?=
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Each test process runs clusters of its own and waits for them half of the time: three keep two cores busy. Who has no
# tests left takes over some of another one, or the last would end minutes after the others.
TEST_PROCESSES ?= 3

.DEFAULT_GOAL := help
.PHONY: help install run test lint bench faults proto clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## the virtual environment alone, for a machine that runs a part of the system

run: $(VENV)/.installed ## a gateway and three workers on the bundled model; Ctrl-C stops them
	@exec $(BIN)/python manage.py runcluster

test: $(VENV)/.installed-dev ## the whole test suite; PYTEST_ARGS="-k ring" for a part
	@exec $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .

bench: $(VENV)/.installed-dev ## speed, memory and balance, beside nginx; takes some minutes (needs wrk and nginx)
	@exec $(BIN)/python bench/run.py $(BENCH_ARGS)

faults: $(VENV)/.installed-dev ## the fault matrix at full scale, into docs/faults.md; about half an hour
	@exec $(BIN)/python tests/faults/report.py $(FAULTS_ARGS)

# A compiler whose code runs on the protobuf of requirements.txt; it wants a setuptools of its own, so it has its own place.
PROTOC := $(VENV)/protoc
proto: ## generates the code of the gRPC messages anew, from the .proto files
	@"$(PYTHON)" -m venv $(PROTOC)
	@$(PROTOC)/bin/python -m pip install --quiet --disable-pip-version-check grpcio-tools==1.76.0
	$(PROTOC)/bin/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. gateway_app/rpc/*.proto

clean: ## removes the virtual environment and caches; keeps the database and var/
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@if [ -z "$(PYTHON)" ] || ! "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		echo "Python 3.11 or newer is needed; found: $$("$(PYTHON)" --version 2>/dev/null || echo none)." \
			"Install it, or name one: make PYTHON=/path/to/python3.11" >&2; exit 1; fi
	@echo "Making $(VENV) with $$("$(PYTHON)" --version)" >&2
	@"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); \
		echo "That Python cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

# The order-only prerequisite: a virtual environment's directory changes with every installation.
$(VENV)/.installed: requirements.txt | $(VENV)/bin/python
	@echo "Installing requirements.txt (several minutes the first time)" >&2
	@$(PIP_INSTALL) -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements.txt requirements-dev.txt requirements-data.txt | $(VENV)/bin/python
	@echo "Installing requirements-dev.txt (several minutes the first time)" >&2
	@$(PIP_INSTALL) -r requirements-dev.txt
	@$(PIP_INSTALL) --no-deps -r requirements-data.txt
	@touch $(VENV)/.installed $@
