# `make help` lists the targets. Everything runs in the project's own environment, .venv, made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python -m layerfit
REPORT := $(BIN)/python -m layerfit.report
T ?=
G ?=
O ?=
need-T = $(if $(T),,$(error name a table: make $@ T=nano_main; tables: $(basename $(notdir $(wildcard conf/table/*.yaml)))))

M ?=
METHODS := $(filter-out vanilla,$(basename $(notdir $(wildcard conf/method/*.yaml))))
need-M = $(if $(filter $(METHODS),$(M)),,$(error $(if $(M),M=$(M) is no method that trains,name a method): make $@ M=lisa; methods: $(METHODS)))

.PHONY: help install demo test test-all test-gpu contract check table todo estimate rerun tune prefetch tables figures report claims wandb-report bench clean
help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/installed  ## make the environment (exact versions of requirements.lock)

# The lock names every package, so no dependency is looked for: galore-torch, a reference of the tests, would bring
# bitsandbytes, which nothing here uses and which peft imports wherever it finds it, for a quarter of a command's start.
$(VENV)/installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("layerfit needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

demo: install  ## run the embedded comparison and print its table (minutes, no GPU, no network)
	$(REPORT) table demo

test: install  ## run the test suite
	$(BIN)/python -m pytest -n 2

test-all: install  ## run the slow and the exhaustive tests too (more than an hour)
	$(BIN)/python -m pytest -n 2 -m 'not gpu'

test-gpu: install  ## run the tests that need a CUDA device (elsewhere: one line that says so)
	DS_ACCELERATOR=cuda $(BIN)/python -m pytest -rs -m gpu tests/gpu

contract: install  ## hold one method to its contract on every engine, one rank and two: make contract M=lisa
	$(need-M)CONTRACT_METHOD=$(M) $(BIN)/python -m pytest -k 'one_rank or two_ranks' tests/engines/test_contract.py

check: install  ## lint, format, types, fast tests
	$(BIN)/ruff check layerfit scripts tests
	$(BIN)/ruff format --check layerfit scripts tests
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2

table: install  ## run the missing runs of a table and print it: make table T=nano_main [O="hydra/launcher=slurm"]
	$(need-T)$(REPORT) table $(T) $(O)

todo: install  ## list the missing runs of a table: make todo T=nano_main
	$(need-T)@$(REPORT) todo $(T)

rerun: install  ## run tables from scratch in outputs/rerun and compare: make rerun T=lisa_main.nano (no T: all embedded ones)
	$(REPORT) rerun $(T)

estimate: install  ## memory, fit, FLOPs and hours of a table's rows before they run: make estimate T=nano_main [O="--gpu a100"]
	$(need-T)@$(BIN)/python -m layerfit.estimate $(T) $(O)

tune: install  ## run a table's tuning grid and commit to a choice: make tune T=nano_main
	$(need-T)$(REPORT) tune $(T)

prefetch: install  ## fill MIRROR=dir with what T= (or G="model=... dataset=... eval=...") needs; CHECK=1 only looks
	$(if $(T)$(G),,$(error name a table, or a run's groups: make $@ T=mirror MIRROR=dir, or make $@ G="model=tinyllama dataset=lima" MIRROR=dir))
	$(if $(MIRROR),,$(error name the folder to fill: make $@ $(if $(T),T=$(T) )MIRROR=dir))
	@$(BIN)/python -m layerfit.prefetch $(T) $(G) --mirror '$(MIRROR)' $(if $(CHECK),--check) $(if $(HASH),--hash)

tables: install  ## render every table from the committed records (seconds, no torch)
	@$(REPORT) render --all --no-figures

figures: install  ## tables, and their figures
	@$(REPORT) render --all

wandb-report: install  ## a W&B dashboard from the records, T=nano_main or T=all; without a key it is written to outputs/
	$(need-T)@$(BIN)/python -m layerfit.report.wandb_report $(T) $(O)

claims: install  ## test the claims of the slides on the committed records, write results/claims.md
	@$(BIN)/python -m layerfit.claims

report: install  ## every table, figure and run as one HTML file: outputs/report/index.html
	@$(BIN)/python -m layerfit.page

bench: install  ## measure something as a ratio: make bench B=switching, or B=evaluation MIRROR=...
	$(if $(wildcard scripts/bench_$(B).py),,$(error name a benchmark, make bench B=switching; there are: $(patsubst scripts/bench_%.py,%,$(wildcard scripts/bench_*.py))))
	$(BIN)/python scripts/bench_$(B).py $(if $(MIRROR),--mirror $(MIRROR))

clean:  ## remove working files; the environment and results stay
	rm -rf outputs .pytest_cache .ruff_cache .mypy_cache
