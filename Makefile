# Two commands do all the set-up on a fresh machine: `make demo` and `make test`. `make help` lists the rest.
#
# PYTHON=python3.12 picks an interpreter, PIP_ARGS adds options to pip (an index with CPU builds of torch, say),
# DEMO_ARGS, TEST_ARGS, SIM_ARGS, BITSTREAM_ARGS and BENCH_ARGS are passed on. TASK and SEEDS choose a part of bench-accuracy.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
JOBS ?= 2
DEMO := build/demo

.PHONY: help setup system demo test test-rest test-all lint format sim bitstream bench bench-accuracy bench-performance bench-real docs clean

help: ## show this list
	@echo 'make VERB, where VERB is one of'
	sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20
	echo "Options: PYTHON, PIP_ARGS, JOBS (processes), ROOM, DEMO_ARGS, TEST_ARGS, SIM_ARGS, BITSTREAM_ARGS, BENCH_ARGS, TASK, SEEDS"

setup: $(READY) system ## make .venv with the pinned dependencies (once)

demo: setup ## everything once, on real speech: train, prune, quantize, simulate, synthesize, report (about 5 minutes)
	@$(BIN)/sparsegate demo $(DEMO_ARGS)

test: setup ## every room, every cell at every level, a bitstream (under 10 minutes); ROOM=hw/engine runs one room
	@room='$(ROOM)'
	if [ -n "$$room" ] && [ ! -d "tests/$$room" ]; then
	  echo "There is no room tests/$$room, expected one of: $$(cd tests && find . -mindepth 1 -type d -not -name '_*' | sed 's|^\./||' | sort | paste -sd ' ')" >&2
	  exit 1
	fi
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m 'not slow' $(TEST_ARGS) "tests$${room:+/$$room}"

test-rest: setup ## the tests that `make test` leaves out: whole designs placed, routed and simulated, more drawn shapes
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m slow $(TEST_ARGS)

test-all: test test-rest ## the whole suite

lint: setup ## format, lint, types, import directions
	@$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## let ruff format and mend what it can
	@$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

sim: setup $(DEMO)/program.safetensors ## RTL of the demo's network against the golden model, on every simulator
	@for simulator in verilator icarus amaranth; do
	  if [ $$simulator = icarus ] && ! command -v iverilog >/dev/null; then echo 'icarus: skipped, iverilog is not installed'; continue; fi
	  $(BIN)/sparsegate simulate $(DEMO)/program.safetensors --data vowels --sequences 4 --simulator $$simulator $(SIM_ARGS)
	done

bitstream: setup $(DEMO)/program.safetensors ## bitstream of the demo's network for a ULX3S-85F (BITSTREAM_ARGS='--board ...')
	@$(BIN)/sparsegate synth $(DEMO)/program.safetensors $(BITSTREAM_ARGS)

$(DEMO)/program.safetensors: | $(READY)
	@$(BIN)/sparsegate demo --skip-rtl --skip-synth --out $(DEMO)

bench: setup ## throughput of the golden model against torch, of Verilated RTL against Amaranth's simulator
	@$(BIN)/sparsegate bench golden
	$(BIN)/sparsegate bench rtl

bench-accuracy: setup ## docs/benchmarks/accuracy.json and its pictures again: seven tasks, three seeds (hours; TASK=vowels SEEDS=1 takes minutes)
	@python=$(BIN)/python
	has() { $$python -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)' "$$1"; }
	case '$(TASK)' in
	  vowels|engines|characters) ;;
	  *) has librosa || $$python -m pip install --disable-pip-version-check -c constraints.txt $(PIP_ARGS) -e '.[real]';;
	esac
	case '$(TASK)' in
	  ''|speakers) has resemblyzer || $$python -m pip install --disable-pip-version-check $(PIP_ARGS) --no-deps 'resemblyzer==0.1.4';;
	esac
	$(BIN)/sparsegate bench accuracy $(if $(TASK),--task $(TASK)) $(if $(SEEDS),--seeds $(SEEDS)) --jobs $(JOBS) --out docs/benchmarks/accuracy.json $(BENCH_ARGS)
	$(BIN)/sparsegate pictures docs/benchmarks/accuracy.json --format svg --out docs/benchmarks
	kept=build/bench/accuracy/characters-0
	case '$(TASK)' in
	  ''|characters) [ ! -e $$kept/float-g2.safetensors ] || $(BIN)/sparsegate pictures $$kept/float-plain.safetensors --after $$kept/float-g2.safetensors --data characters --format svg --out docs/benchmarks;;
	esac

bench-performance: setup ## docs/benchmarks/performance.json and docs/roofline.md again (hours; BENCH_ARGS=--no-pnr takes minutes)
	@python=$(BIN)/python
	has() { $$python -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)' "$$1"; }
	has librosa || $$python -m pip install --disable-pip-version-check -c constraints.txt $(PIP_ARGS) -e '.[real]'
	has resemblyzer || $$python -m pip install --disable-pip-version-check $(PIP_ARGS) --no-deps 'resemblyzer==0.1.4'
	$(BIN)/sparsegate bench --json docs/benchmarks/performance.json --points docs/benchmarks/synthesis.json --roofline docs/roofline.md $(BENCH_ARGS)

bench-real: setup ## docs/benchmarks/real_models.json again: two networks that others trained, on real speech (about 10 minutes)
	@python=$(BIN)/python
	has() { $$python -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)' "$$1"; }
	has librosa || $$python -m pip install --disable-pip-version-check -c constraints.txt $(PIP_ARGS) -e '.[real]'
	# for its weights alone: what the package depends on is not needed to read them
	has resemblyzer || $$python -m pip install --disable-pip-version-check $(PIP_ARGS) --no-deps 'resemblyzer==0.1.4'
	$(BIN)/sparsegate bench real --out docs/benchmarks/real_models.json $(BENCH_ARGS)

docs: setup ## the page of commands from their own help, and the site in build/docs
	@python=$(BIN)/python
	$$python -c 'import furo, myst_parser, sphinx' 2>/dev/null || $$python -m pip install --disable-pip-version-check -c constraints.txt $(PIP_ARGS) -e '.[docs]'
	$$python -m sparsegate_app.cli.document docs/reference/cli.md
	$$python -m sphinx -q -W --keep-going -j auto -b html docs build/docs
	echo 'The site: build/docs/index.html'

clean: ## remove everything generated except .venv
	@rm -rf build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find sw hw sim tests -name __pycache__ -type d -prune -exec rm -rf {} +

# --- how .venv is made -----------------------------------------------------------------------------------------------

# Debian's packages: a compiler, make and perl for Verilator, Icarus for the second opinion. Installed only where we may.
system: | $(READY)
	@missing=()
	command -v iverilog >/dev/null || missing+=(iverilog)
	command -v icebox_vlog >/dev/null || missing+=(fpga-icestorm)
	command -v c++ >/dev/null || missing+=(g++)
	command -v perl >/dev/null || missing+=(perl)
	[ $${#missing[@]} -eq 0 ] && exit 0
	packages="$${missing[*]}"
	if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then as=()
	elif command -v apt-get >/dev/null && sudo -n true 2>/dev/null; then as=(sudo -n)
	else
	  echo "Not installed: $$packages. To install: sudo apt-get install $$packages" >&2
	  case " $$packages " in *' g++ '*|*' perl '*) echo 'Verilator cannot build a simulation without g++ and perl.' >&2; exit 1;; esac
	  echo 'Going on without; what needs Icarus Verilog or icebox_vlog is skipped.' >&2
	  exit 0
	fi
	echo "Installing with apt-get: $$packages"
	"$${as[@]}" apt-get update -qq || true
	"$${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$packages >/dev/null ||
	  { echo "apt-get could not install $$packages; install them by hand and run make again" >&2; exit 1; }

$(READY): pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo 'Installing the pinned dependencies into .venv (some 2 GB once unpacked; this takes minutes) ...'
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt $(PIP_ARGS) -e '.[dev]'
	touch $@

$(VENV)/bin/python:
	@python=''
	for candidate in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11); do
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$candidate; break; fi
	done
	if [ -z "$$python" ]; then
	  echo 'SparseGate needs Python 3.11 or newer, found: '"$$($(or $(PYTHON),python3) --version 2>&1 || true)"'. Name one with make PYTHON=/path/to/python3.' >&2
	  exit 1
	fi
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then
	  echo "$$python cannot make virtual environments. On Debian and Ubuntu: sudo apt-get install python3-venv" >&2
	  exit 1
	fi
	echo "Making $(VENV) with $$("$$python" --version)"
	"$$python" -m venv $(VENV)
