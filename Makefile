# What Next?: everything a person or a machine does with a clone. `make` alone lists it.

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
    $$python -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
    && echo $$python && break; done)

BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -n auto --dist worksteal
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --no-input
# One empty file per set of extras says that the environment holds what pyproject.toml asks for.
RUN := .venv/.installed-run
DEV := .venv/.installed-dev
SERVE := .venv/.installed-serve
DOCS := .venv/.installed-docs
NOTEBOOKS := .venv/.installed-notebooks
DATA := data/ml-100k.parquet
MODELS := models/agent.safetensors models/critic.safetensors
# Not the models themselves: an interrupted training saves them too, and make would delete a target in the making.
TRAINED := models/.trained

# Python's environments name their folder in their files: in a clone that was copied or moved they are another one's.
MADE_IN := $(shell sed -n 's|^command = .* -m venv \(--[a-z-]* \)*||p' .venv/pyvenv.cfg 2>/dev/null)
ifneq ($(MADE_IN),$(if $(MADE_IN),$(CURDIR)/.venv))
$(warning .venv was made for $(MADE_IN), whose code it runs; `make distclean` and again makes one for this folder)
endif

.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help install demo run train test test-all browser check mutate results tables picture gallery notebooks bench-scale loop-demo bench docs client lock release-check clean distclean announce FORCE

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

install: $(RUN) ## the environment alone, in .venv

run: announce $(TRAINED) ## get ml-100k, train by src/setup.txt, recommend; what is there already is used again
	@echo; echo "== Recommendation: src/main.py src/setup.txt train=no"
	$(BIN)/python src/main.py src/setup.txt train=no

demo: $(SERVE) ## a small model, simulated listeners and a page in the browser; Ctrl-C ends it
	$(BIN)/what-next demo

train: $(DATA) ## train by src/setup.txt, whether or not there are models already
	@rm -f $(TRAINED)
	@$(MAKE) --no-print-directory $(TRAINED)

test: $(DEV) ## the quick tests
	$(PYTEST)

test-all: $(DEV) ## all tests
	$(PYTEST) -m "" --hypothesis-profile=thorough

browser: ## a browser for the tests of the page, Debian's chromium, where apt and root are there; axe-core, where npm is
	@npm install --no-save --no-package-lock --silent axe-core@4 2>/dev/null || \
	    echo "The test of the page's accessibility needs axe-core, which npm could not bring; it is skipped."
	@for name in chromium chromium-browser google-chrome; do \
	    if command -v $$name >/dev/null; then echo "There is a browser already: $$(command -v $$name)"; exit 0; fi; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update && apt-get install --yes --no-install-recommends chromium; \
	else \
	    echo "The tests of the page need Chromium or Chrome on the PATH (on Debian: sudo apt install chromium)."; \
	    echo "Without one they are skipped; everything else is tested."; fi

check: $(DEV) ## style, strict types, imports (among the tests), tests of several seconds as well
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(PYTEST) -m "not slow"

mutate: $(DEV) ## breaks metrics and estimators on purpose, and counts how often a test notices; a quarter of an hour
	$(INSTALL) -e '.[pandas,dev,mutate]'
	$(BIN)/python tests/mutate.py

results: $(DATA) ## measures the founding tables of docs/results.md: three seeds on two data sets
	$(BIN)/python benchmarks/results.py

tables: $(RUN) ## measures what docs/results.md lacks, for hours; `benchmarks/tables.py --help` says how to do less
	$(BIN)/python benchmarks/tables.py

picture: $(RUN) ## draws docs/picture.svg, the README's picture, from docs/results.json
	$(BIN)/python benchmarks/picture.py

bench-scale: $(DEV) ## draws docs/scale.svg and its tables from what was measured; `benchmarks/bench_scale.py --keep` measures anew
	$(BIN)/python benchmarks/scale_picture.py

gallery: $(DEV) ## draws the pictures of docs/gallery.md that the others do not, in seconds
	$(BIN)/python benchmarks/gallery.py

loop-demo: $(DEV) ## a simulated shop learns from its own log night after night, beside shops that do not; a quarter of an hour
	$(BIN)/python benchmarks/loop.py

bench: $(DEV) ## all benchmarks, as JSON lines
	@set -e; for benchmark in benchmarks/bench_*.py; do $(BIN)/python $$benchmark; done

notebooks: $(NOTEBOOKS) ## runs the notebooks of docs/notebooks, and keeps what they show
	$(BIN)/python -m pytest --nbmake --overwrite --nbmake-timeout=600 -o addopts= docs/notebooks

docs: $(DOCS) ## the documentation, in site/
	$(BIN)/python docs/generate.py
	$(BIN)/zensical build --clean --strict

client: $(DEV) ## typed clients of the service, from its schema: clients/python, and with npm clients/what-next.d.ts
	$(INSTALL) -e '.[client]'
	@mkdir -p clients
	$(BIN)/python -c 'import json, what_next.serving.http.app; from what_next.serving.http.schema import document; \
	    print(json.dumps(document(True)))' > clients/openapi.json
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/openapi-python-client generate --path clients/openapi.json --output-path clients/python --overwrite
	@if command -v npx >/dev/null; then \
	    npx --yes openapi-typescript@7 clients/openapi.json --default-non-nullable=false --output clients/what-next.d.ts; \
	else echo "There is no npx, so no client in TypeScript was made."; fi

lock: $(DEV) ## resolves everything anew for requirements.lock, keeping the releases that still fit
	$(INSTALL) -e '.[release]'
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --generate-hashes --no-header --quiet -o requirements.lock

release-check: lock ## builds wheel and sdist; tries them in fresh environments, on each Python there is and with each extra
	git diff --exit-code requirements.lock || { echo "requirements.lock was older than pyproject.toml; commit it"; exit 1; }
	$(BIN)/python tests/release.py

clean: ## remove the models of `make run`, the built documentation and caches
	rm -rf $(MODELS) models/agent.* models/critic.* $(TRAINED) site dist docs/reference
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .cache
	find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## the same, and the environment and the data of `make run`
	rm -rf .venv data/ml-100k.*

announce:
	@echo "What Next? from nothing to a recommendation:"
	@echo "  1. environment in .venv   $(if $(wildcard $(RUN)),there already,1-3 min; downloads 0.4 GB (with CUDA: 2.9 GB))"
	@echo "  2. data ml-100k           $(if $(wildcard $(DATA)),there already,seconds; downloads 2-5 MB)"
	@if $(MAKE) --no-print-directory --question $(TRAINED) 2>/dev/null; \
	    then echo "  3. training               there already: models/ is newer than src/setup.txt and the data"; \
	    else echo "  3. training               under 3 min on 2 cores"; fi
	@echo "  4. recommendation         seconds"
	@echo "To train anew: make train. To begin anew: make clean."

$(BIN)/python:
ifeq ($(strip $(PYTHON)),)
	@echo "What Next? needs Python 3.11 or newer with its venv module (on Debian and Ubuntu: apt install python3-venv)." >&2
	@echo "Found: $$(python3 --version 2>/dev/null || echo no python3). Name another with: make PYTHON=/path/to/python3.12 run" >&2
	@exit 2
endif
	@"$(PYTHON)" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "What Next? needs Python 3.11 or newer with its venv module; $(PYTHON) is" \
	    "$$("$(PYTHON)" --version 2>/dev/null || echo no Python)" >&2; exit 2; }
	"$(PYTHON)" -m venv .venv

$(RUN): pyproject.toml | $(BIN)/python
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip  # whoever made .venv was killed
	$(INSTALL) -e '.[pandas]'
	@touch $@

$(SERVE): $(RUN)
	$(INSTALL) -e '.[serve]'
	@touch $@

$(DEV): $(RUN)
	$(INSTALL) -e '.[pandas,dev]'
	@touch $@

$(NOTEBOOKS): $(RUN)
	$(INSTALL) -e '.[pandas,report,notebooks]'
	@touch $@

$(DOCS): $(RUN)
	$(INSTALL) -e '.[docs]'
	@touch $@

$(DATA): | $(RUN)
	@echo; echo "== Data: what-next data get ml-100k"
	$(BIN)/what-next data get ml-100k

ifneq ($(words $(wildcard $(MODELS))),2)
$(TRAINED): FORCE
endif
$(TRAINED): src/setup.txt $(DATA) | $(RUN)
	@echo; echo "== Training: src/main.py src/setup.txt"
	$(BIN)/python src/main.py src/setup.txt
	@touch $@
