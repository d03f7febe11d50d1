# Two commands: `make book` and `make test`. `make` alone lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# A user's own Python settings must not reach into the environment.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV

# Set on the command line (make book COHORT=malf); only the first two also from the environment.
PYTHON ?= python3
CORES ?= $(shell getconf _NPROCESSORS_ONLN)
VENV := .venv
COHORT := mni
PROFILE := quick
SEED := 0
LESSONS :=
OWN :=
GRID := wide
BUILD := _build

# The folder of the pages, as tools/book.py names it.
HTML = $(if $(filter mni-quick,$(COHORT)-$(PROFILE)),html,html-$(COHORT)-$(PROFILE))

PY := $(VENV)/bin/python
STAMP := $(VENV)/.complete

.PHONY: help book pdf lambda results full test lint notebooks env cluster browser lock clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18
	@echo
	@echo "  make book COHORT=mni|malf|own  PROFILE=smoke|quick|full  SEED=0  CORES=$(CORES)"
	@echo "            LESSONS='03 04 05'   run only these (and what they need), render no pages"
	@echo "            OWN=FOLDER           your NIfTI files, with COHORT=own"
	@echo "  make lambda GRID=wide|book  COHORT=…  PROFILE=…  CORES=…"
	@echo "            PYTHON=python3       the Python (3.10 to 3.13) that makes the environment"

book: $(STAMP) ## run the lessons and render the book; prints where its front page is
	@$(PY) -m tools.book build --build "$(BUILD)" --cohort "$(COHORT)" --profile "$(PROFILE)" \
	  --seed "$(SEED)" --own "$(OWN)" --lessons "$(LESSONS)" --cores "$(CORES)"

pdf: book ## the whole book as one PDF (needs Chromium)
	@$(PY) -m tools.pdf "$(BUILD)/$(HTML)" "$(BUILD)/$(HTML).pdf"

lambda: $(STAMP) ## run what is missing of a grid of λ runs (config/lambda.yaml)
	@$(PY) -m tools.book grid --build "$(BUILD)" --cohort "$(COHORT)" --profile "$(PROFILE)" \
	  --own "$(OWN)" --grid "$(GRID)" --cores "$(CORES)"

results: $(STAMP) ## tables and figures of the committed records: results/lambda/tables, README, _build
	@$(PY) -m tools.results tables --build "$(BUILD)"

full: $(STAMP) ## train and compare anew on real people in 3D (config/real.yaml; many hours)
	@$(PY) -m tools.real all --build "$(BUILD)/real" --results "$(BUILD)/real/results"

# A file's tests stay together: the pages' tests share one smoke build.
test: lint ## all tests, after the lint
	@$(PY) -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile

lint: $(STAMP) ## the style of the code, and the layers of the package
	@$(PY) -m ruff check . && $(PY) -m ruff format --check .
	@$(VENV)/bin/lint-imports --no-cache --no-logo

notebooks: $(STAMP) ## write notebooks/*.ipynb from their .py sources
	@$(PY) -m tools.book notebooks

env: $(STAMP) ## the environment alone (in .venv, from requirements.lock)

cluster: $(STAMP) ## add Snakemake's plugin for a SLURM cluster to the environment
	@$(PY) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("ERROR: the SLURM plugin needs Python 3.11 or later; this environment has %d.%d. Remove $(VENV) and name one: make cluster PYTHON=python3.11" % sys.version_info[:2])'
	@$(PY) -m pip install --disable-pip-version-check --no-input --quiet --no-deps --require-hashes -r requirements-cluster.lock

browser: $(STAMP) ## add what tests the pages in Chromium (which has to be installed)
	@$(PY) -m pip install --disable-pip-version-check --no-input --quiet --require-hashes -r requirements-browser.lock

# The stamp comes last: without it, what stands in the folder is not trusted and made anew.
# `venv --clear` would empty the folder that a link leads to.
$(STAMP): requirements.lock
	@test ! -L $(VENV) || { echo "ERROR: $(VENV) is a symbolic link to $$(readlink $(VENV)), and making the environment would empty that folder. Remove the link (rm $(VENV)), then run make again." >&2; exit 1; }
	@command -v "$(PYTHON)" >/dev/null || { echo "ERROR: no '$(PYTHON)' on this machine. Install Python 3.10 to 3.13, or name one: make book PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; ok = (3, 10) <= sys.version_info[:2] <= (3, 13); ok or sys.exit("ERROR: %s is Python %d.%d; this book needs 3.10 to 3.13. Name one: make book PYTHON=/path/to/python3.11" % ((sys.executable,) + sys.version_info[:2]))'
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { echo "ERROR: '$(PYTHON)' has no venv module. On Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	@rm -f $@
	@echo "Environment: $(VENV), from requirements.lock (about 180 packages; some minutes, once)"
	@"$(PYTHON)" -m venv --clear $(VENV)
	@$(PY) -m pip install --disable-pip-version-check --no-input --progress-bar off --require-hashes -r requirements.lock \
	  | awk '/^Collecting/ { if (++n % 25 == 0) { print "  " n " packages found"; fflush() } } /^Installing/ { print "  installing " NF - 3 " packages"; fflush() }'
	@$(PY) -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	@touch $@

lock: ## resolve pyproject.toml anew into requirements.lock and those of make cluster and make browser
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && "$(PYTHON)" -m venv "$$folder" \
	  && "$$folder/bin/pip" install --disable-pip-version-check --quiet uv \
	  && "$$folder/bin/uv" pip compile --quiet --upgrade --universal --python-version 3.10 --generate-hashes \
	     --extra train --extra baselines --extra book --extra test --no-header --no-annotate \
	     pyproject.toml -o "$$folder/lock" \
	  && "$$folder/bin/uv" pip compile --quiet --upgrade --no-deps --universal --python-version 3.11 --generate-hashes \
	     --group cluster --no-header --no-annotate -o "$$folder/cluster" \
	  && "$$folder/bin/uv" pip compile --quiet --upgrade --universal --python-version 3.10 --generate-hashes \
	     --group browser --constraint "$$folder/lock" --no-header --no-annotate -o "$$folder/browser" \
	  && cp "$$folder/lock" requirements.lock && cp "$$folder/cluster" requirements-cluster.lock \
	  && cp "$$folder/browser" requirements-browser.lock \
	  && echo "the lock files are new; make env, make cluster and make browser install them"

clean: ## remove everything that was built (not the environment)
	@rm -rf "$(BUILD)"
