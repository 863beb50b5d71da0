# Four commands; each makes the virtual environment it needs in .venv, once.
#
#   make demo     train the example LSTM with random padded batches and with seqstream's, and compare
#   make test     run the tests                      TESTS="tests/test_shuffling.py -k order" for some of them
#   make check    ruff, formatting, mypy --strict
#   make bench    measure against other ways         BENCH="--help" for its options; SEQSTREAM_DATA names a folder of corpora

PYTHON ?= python3
VENV ?= .venv
TESTS ?=
BENCH ?=

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: help demo test check bench

# Modules are compiled when first imported instead of all at once, which halves the installation. So the compiled ones must be kept.
export PYTHONDONTWRITEBYTECODE :=
PIP_INSTALL = $(VENV)/bin/python -u -m pip install --disable-pip-version-check --no-input --no-compile -c constraints.txt
# Of what pip says: the larger downloads, what it is doing, and errors. All of it is in pip.log.
PIP_SUMMARY = tee -a $(VENV)/pip.log | sed -u -nE \
	-e 's/^ *Downloading ([^-]+)-([^-]+)-.* (\([0-9.]+ [MG]B\)).*/   downloading \1 \2 \3/p' \
	-e 's/^Installing collected packages: .*/   installing/p' -e '/^ERROR/p'

help:
	@sed -nE 's/^#   //p' Makefile

demo: $(VENV)/.ready-to-run
	@echo "== an LSTM on the docstring corpus: examples/train_lstm.py"
	@$(VENV)/bin/python examples/train_lstm.py

test: $(VENV)/.ready-to-test
	@echo "== tests"
	@$(VENV)/bin/python -m pytest -n $$($(VENV)/bin/python -c 'import os; print(min(4, 1 + (os.cpu_count() or 1)))') \
		--dist loadscope --no-loadscope-reorder $(TESTS)

check: $(VENV)/.ready-to-test
	@echo "== ruff check"
	@$(VENV)/bin/ruff check
	@echo "== ruff format --check"
	@$(VENV)/bin/ruff format --check
	@echo "== mypy --strict seqstream"
	@$(VENV)/bin/mypy --strict seqstream

bench: $(VENV)/.ready-to-test
	@echo "== benchmarks on $${SEQSTREAM_DATA:-the docstring corpus, since SEQSTREAM_DATA is not set}"
	@$(VENV)/bin/python -m benchmarks $(BENCH)

$(VENV)/.ready-to-run: pyproject.toml constraints.txt
	@echo "== setting up $(VENV), once: a minute where downloads are quick; PyTorch is most of it"
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 15) or sys.exit("Python must be 3.11 to 3.14, got "\
	"%d.%d; name another one: make PYTHON=python3.12" % sys.version_info[:2])'
	@$(PYTHON) -c 'import venv, ensurepip' || { echo "$(PYTHON) cannot make virtual environments; on Debian: apt install python3-venv"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) -e '.[fast,plots,report]' 2>&1 | $(PIP_SUMMARY)
	@touch $@

$(VENV)/.ready-to-test: $(VENV)/.ready-to-run
	@echo "== adding what tests and checks need, once"
	@$(PIP_INSTALL) -e '.[dev]' 2>&1 | $(PIP_SUMMARY)
	@touch $@
