# segcore: set-up, demo and checks. `make help` lists the targets.
# Another Python: `make setup PYTHON=python3.12`. Another place for packages: pip's own variables (PIP_FIND_LINKS, ...).

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup demo ui test test-slow test-mask-rcnn lint format reference openlayers lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## Create .venv with everything in requirements.lock (all extras but zoo)

# The lock is whole, so pip need not resolve it (--no-deps: a minute instead of a quarter of an hour). Only torch
# differs between builds: the second line adds what the build at hand asks for (CUDA libraries, or nothing).
$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else \
		"segcore needs Python 3.11 to 3.13, got %d.%d: make PYTHON=/path/to/python3.12 ..." % v)'
	@$(PYTHON) -c 'import ensurepip, venv' || { echo 'Python has no venv module: apt-get install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --no-deps --requirement requirements.lock
	$(PIP) install --quiet --constraint requirements.lock torch
	$(PIP) install --quiet --no-deps --editable .
	@touch $@

demo: setup ## Run the main job on sample images, as a Prefect flow: scores, report, model under demo/
	$(BIN)/segcore demo

ui: setup ## Open Prefect's pages on the runs of `make demo`, at http://127.0.0.1:4200
	PREFECT_HOME=$(CURDIR)/demo/prefect PREFECT_SERVER_ANALYTICS_ENABLED=false DO_NOT_TRACK=1 $(BIN)/prefect server start

# Two at a time: most tests are one thread, and slow ones often wait. loadfile: those of a file share its servers.
test: setup ## Run the tests that take seconds
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist worksteal

test-slow: setup ## Run the slow tests (kills, servers, large images, more cases)
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile

# torchvision's build for this torch, in a folder of its own: beside a CPU torch stand-ins take its compiled part's place.
ZOO := .zoo

$(ZOO)/.installed: requirements.lock
	$(PIP) install --quiet --no-deps --upgrade --target $(ZOO) $(TORCHVISION)
	@touch $@

test-mask-rcnn: setup $(ZOO)/.installed ## Run the tests of Mask R-CNN, which need torchvision
	PYTHONPATH=$(ZOO) $(BIN)/python -m pytest -n 2 --dist loadfile tests/e2e/test_mask_rcnn.py tests/models/test_mask_rcnn.py \
		tests/training/test_choice.py tests/training/test_detection.py

lint: setup ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## Let ruff format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reference: setup ## Write docs/commands.md and the tables of formats from the code itself
	$(BIN)/python -m flows.reference

# Only what the viewer uses, in one file that needs no network; the licences of what is in it go with it.
OPENLAYERS := ol@10.11.0
ESBUILD := esbuild@0.25.12

openlayers: ## Renew the viewer's copy of OpenLayers (needs npm)
	@folder=$$(mktemp -d) && cp segcore/view/static/openlayers/entry.js $$folder && cd $$folder && \
	npm install --silent --no-audit --no-fund --ignore-scripts $(OPENLAYERS) $(ESBUILD) && \
	node_modules/.bin/esbuild entry.js --bundle --minify --format=esm --target=es2020 --legal-comments=none --outfile=ol.js && \
	for name in ol rbush quickselect; do echo "== $$name"; cat node_modules/$$name/LICENSE*; echo; done > LICENSES.txt && \
	cp ol.js node_modules/ol/ol.css LICENSES.txt $(CURDIR)/segcore/view/static/openlayers/

# A universal lock: one file for 3.11 to 3.13, with markers where they differ. CUDA packages stay out (see .installed).
# What is locked stays, unless pyproject.toml rules it out; `make lock UV_FLAGS=--upgrade` renews all but torch.
TORCH := torch==2.13.0
TORCHVISION := torchvision==0.28.0
EXTRAS = $(shell $(PYTHON) -c 'import tomllib; \
	print(*sorted({*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]} - {"zoo"}))')

lock: ## Renew requirements.lock after a change of dependencies (needs uv)
	cp requirements.lock requirements.lock.new
	echo '$(TORCH)' | uv pip compile --quiet --universal --python-version 3.11 $(EXTRAS:%=--extra %) --no-header --no-annotate \
	    --no-emit-index-url $(UV_FLAGS) --constraint - --output-file requirements.lock.new pyproject.toml
	{ echo '# Every package of segcore with all extras but zoo, for Python 3.11 to 3.13; made by `make lock`.'; \
	  echo '# Install it with `make setup`. CUDA packages are absent: the build of torch at hand names those it needs.'; \
	  grep -vE '^(nvidia-|cuda-|triton|torch=|pywin32)' requirements.lock.new; echo '$(TORCH)'; } > requirements.lock
	rm requirements.lock.new

clean: ## Remove .venv and the demo's workspace
	rm -rf $(VENV) $(ZOO) demo
