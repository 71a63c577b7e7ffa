# Everything runs from .venv; an environment that happens to be active does not matter.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Of another Python or another project, these would reach into ours.
unexport PYTHONHOME PYTHONPATH VIRTUAL_ENV CONDA_PREFIX
unexport PIP_TARGET PIP_PREFIX PIP_USER PIP_ROOT PIP_DRY_RUN PIP_REQUIRE_VIRTUALENV
unexport PIP_NO_DEPS PIP_CONSTRAINT PIP_NO_INDEX
unexport UV_SYSTEM_PYTHON UV_PROJECT_ENVIRONMENT UV_CONSTRAINT UV_OVERRIDE UV_TARGET
unexport UV_NO_VERIFY_HASHES
# Imports without cached bytecode are 2-4 times slower.
unexport PYTHONDONTWRITEBYTECODE
# uv does not read pip's settings; a mirror given to pip is meant for both.
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif

BIN := .venv/bin
READY := .venv/.ready
UV_FLAGS := --python $(BIN)/python --quiet
LOCK_FLAGS := --excludes requirements-excludes.txt --python-version 3.11 --no-annotate \
  --generate-hashes --quiet

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(READY) ## Install Python packages into .venv, with a Python 3.11 from here or fetched by uv

$(READY): requirements.txt pyproject.toml
	@found=; seen=; \
	for candidate in "$${PYTHON:-python3.11}" python3.11 python3 python; do \
	  version=$$("$$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue; \
	  if [ "$$version" = 3.11 ]; then found=$$candidate; break; fi; \
	  seen=$${seen:-$$candidate}; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "No Python 3.11 here$${seen:+ ($$seen is $$("$$seen" --version 2>&1))}; fetching one with uv ..." >&2; \
	  tools=$$(mktemp -d); trap 'rm -rf "$$tools"' EXIT; \
	  uv=$$(command -v uv) || { uv=$$tools/bin/uv; \
	    "$${seen:-python3}" -m pip install -qq --disable-pip-version-check --target "$$tools" 'uv>=0.9' >&2 || \
	    { "$${seen:-python3}" -m venv "$$tools" && "$$tools/bin/pip" install -qq 'uv>=0.9'; } >&2; } || true; \
	  "$$uv" python find --quiet 3.11 >/dev/null 2>&1 || "$$uv" python install 3.11 || true; \
	  found=$$("$$uv" python find --quiet 3.11 2>/dev/null) || true; \
	  if [ -z "$$found" ]; then \
	    echo "Python 3.11 is needed, was not found, and could not be fetched. Install it, then:" >&2; \
	    echo "  make setup PYTHON=/path/to/python3.11" >&2; \
	    exit 1; \
	  fi; \
	fi; \
	echo "Setting up .venv with $$("$$found" --version) ..."; \
	"$$found" -m venv .venv; \
	$(BIN)/python -m pip install -qq --disable-pip-version-check --upgrade 'uv>=0.9'; \
	$(BIN)/uv pip sync $(UV_FLAGS) --compile-bytecode --require-hashes requirements.txt; \
	$(BIN)/uv pip install $(UV_FLAGS) --no-deps --editable .; \
	echo $$SECONDS > $@; \
	echo "Installed $$(grep -c == requirements.txt) packages in $$SECONDS s."

.PHONY: lock
lock: $(READY) ## Resolve requirements*.in into the lock and the part of it that the image installs
	$(BIN)/uv pip compile requirements-dev.in $(LOCK_FLAGS) --upgrade -o requirements.txt
	$(BIN)/uv pip compile requirements.in -c requirements.txt --excludes requirements-image-excludes.txt \
	  $(LOCK_FLAGS) -o requirements-image.txt

.PHONY: check
check: $(READY) ## Lint, format check, types; needs no service and no network
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python .ci/variables.py

.PHONY: audit
audit: $(READY) ## What is unsafe in the code, vulnerable or without an allowed licence in the lock; build/sbom.cdx.json
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive include dags plugins feature_repo
	$(BIN)/python .ci/audit.py

.PHONY: pin
pin: $(READY) ## Pin the images of Dockerfile and docker-compose.yaml by digest; needs docker and a registry
	$(BIN)/python .ci/pin.py

.PHONY: check-pins
check-pins: $(READY) ## Fail if an image is not pinned by a digest
	$(BIN)/python .ci/pin.py --check

.PHONY: test
test: $(READY) ## Run the tests, with the embedded services and no network
	TZ=UTC $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: test-slow
test-slow: $(READY) ## The tests that take longest: whole chains in any order, nights on end, kills, backups
	TZ=UTC $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'slow and not faults'

.PHONY: test-airflow
test-airflow: $(READY) ## Run a small chain through a real Airflow: keys, backfills, failures, an approval
	TZ=UTC $(BIN)/pytest -m 'airflow and not e2e'

.PHONY: test-faults
test-faults: $(READY) ## 1,000 kills, 200 shuffled histories; what others do beside ours
	TZ=UTC $(BIN)/pytest -m faults

.PHONY: test-e2e
test-e2e: $(READY) ## Kill tasks and scheduler of a real Airflow in a backfill; outages of Postgres; the pages
	TZ=UTC $(BIN)/pytest -m e2e

.PHONY: test-stack
test-stack: $(READY) ## The part of test-e2e that is about compose: its services share no disk, and end while they work
	TZ=UTC $(BIN)/pytest -m e2e tests/e2e/test_stack.py

.PHONY: test-pages
test-pages: $(READY) ## The part of test-e2e that is about the pages: the demo's, in Debian's chromium
	TZ=UTC $(BIN)/pytest -m e2e tests/e2e/test_pages.py

.PHONY: pages
pages: ## Check, test and build plugins/www into its dist/; needs Node.js and npm
	cd plugins/www && npm ci --no-audit --no-fund && npm run check && npm test && npm run build

.PHONY: check-pages
check-pages: pages ## The same, and fail if dist/ is not what its sources make
	@test -z "$$(git status --porcelain plugins/www/dist)" || \
	  { git status --short plugins/www/dist; echo "plugins/www/dist is not what its sources make: commit what \`make pages\` wrote." >&2; exit 1; }

.PHONY: bench
bench: bench-online bench-training-set bench-pains bench-backfill bench-batch-rules bench-gate bench-score bench-train bench-models bench-discovery bench-monitor bench-nights bench-drift bench-estimates bench-volume bench-ui bench-rollout bench-serve bench-scale ## All benchmarks, one after the other

.PHONY: bench-online
bench-online: $(READY) ## Online store against stock Feast: time, memory, reads
	@$(BIN)/python -W ignore -m benchmarks.online

.PHONY: bench-training-set
bench-training-set: $(READY) ## Training sets against Feast's own engines: time, CPU, memory, equal values
	@$(BIN)/python -W ignore -m benchmarks.training_set

.PHONY: bench-pains
bench-pains: $(READY) ## What stock Feast does with late and corrected data, beside ours
	@$(BIN)/python -W ignore -m benchmarks.pains

.PHONY: scoreboard
scoreboard: $(READY) ## 23 pains of this stack, row by row beside what others do; writes docs/scoreboard.md
	@OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m benchmarks.scoreboard

.PHONY: bench-backfill
bench-backfill: $(READY) ## Two years at once against day by day; one more day as history grows; memory
	@$(BIN)/python -W ignore -m benchmarks.backfill

.PHONY: bench-batch-rules
bench-batch-rules: $(READY) ## How often the row count rule refuses good days, and finds half and doubled ones
	@$(BIN)/python -W ignore -m benchmarks.batch_rules

.PHONY: bench-gate
bench-gate: $(READY) ## How often the gate promotes challengers that are as good, worse or better
	@$(BIN)/python -W ignore -m benchmarks.gate docs/gate.svg

.PHONY: bench-monitor
bench-monitor: $(READY) ## How often drift is alarmed where there is none, how surely where there is
	@OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m benchmarks.monitor

.PHONY: bench-estimates
bench-estimates: $(READY) ## How near performance is estimated before labels are known, how often its bounds hold it
	@OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m benchmarks.estimates

.PHONY: bench-nights
bench-nights: $(READY) ## A year of nights of a real shop: what is alarmed, asked for and promoted
	@$(BIN)/python -W ignore -m benchmarks.nights

.PHONY: bench-drift
bench-drift: $(READY) ## What measuring drift costs, beside scipy's test and Evidently
	@OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m benchmarks.drift

.PHONY: bench-volume
bench-volume: $(READY) ## How often a table's volume is called unusual where nothing happens, and what is found
	@OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m benchmarks.volume

.PHONY: bench-ui
bench-ui: $(READY) ## How fast the pages answer on two years of days of 100,000 customers
	@$(BIN)/python -W ignore -m benchmarks.ui

.PHONY: bench-rollout
bench-rollout: $(READY) ## How often a rollout is right about its challenger, though it looks every night
	@OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m benchmarks.rollout

.PHONY: bench-serve
bench-serve: $(READY) ## How fast scores are served by key, beside MLflow's and Feast's servers; ways to score
	@$(BIN)/python -W ignore -m benchmarks.serve

.PHONY: bench-scale
bench-scale: $(READY) ## What a day costs as customers grow to a million, in shards, and after five years
	@$(BIN)/python -W ignore -m benchmarks.scale

.PHONY: bench-score
bench-score: $(READY) ## What scores and their reasons cost beside prediction alone: time, memory
	@$(BIN)/python -W ignore -m benchmarks.score

.PHONY: bench-train
bench-train: $(READY) ## What a fit costs beside XGBoost's alone, in memory and from the disk
	@$(BIN)/python -W ignore -m benchmarks.train

.PHONY: bench-models
bench-models: $(READY) ## How good the models are, and what searching and calibrating add
	@$(BIN)/python -W ignore -m benchmarks.models

.PHONY: bench-discovery
bench-discovery: $(READY) ## How often features are proposed where there is nothing to find, and what they are worth
	@$(BIN)/python -W ignore -m benchmarks.discovery

.PHONY: demo
demo: $(READY) ## Watch a change of habits from alarm to recovery, on generated customers; ends by itself
	@$(BIN)/python demo/run.py

.PHONY: up
up: $(READY) ## Start Postgres and Airflow on this machine; prints URL and login
	@$(BIN)/evergreen up

.PHONY: down
down: $(READY) ## Stop them
	@$(BIN)/evergreen down

.PHONY: status
status: $(READY) ## Tell what runs, what is in the tables, what is stale and what mends it
	@$(BIN)/evergreen status

.PHONY: env
env: ## Write .env for docker-compose.yaml from .env.example, with new secrets; never over another
	@if [ -e .env ]; then echo ".env is there already; its secrets are in use. Add to it by hand." >&2; exit 1; fi
	@umask 077; while IFS= read -r line; do \
	  case $$line in \
	    AIRFLOW_FERNET_KEY=) line+=$$(openssl rand -base64 32 | tr '+/' '-_') ;; \
	    [A-Z]*=) line+=$$(openssl rand -hex 24) ;; \
	  esac; \
	  printf '%s\n' "$$line"; \
	done < .env.example > .env
	@echo "Wrote .env. Airflow's administrator is admin, MLflow's evergreen; their passwords are in it."

.PHONY: backup
backup: $(READY) ## Save databases, warehouse and artifacts; `evergreen restore` puts them back
	@$(BIN)/evergreen backup

.PHONY: image
image: ## Build the container image evergreen:local
	docker build --tag evergreen:local .

.PHONY: notes
notes: ## What CHANGELOG.md says of VERSION=x.y.z, if pyproject.toml is of that version
	@$(or $(wildcard $(BIN)/python),python3) .ci/notes.py "$(VERSION)"

.PHONY: clean
clean: ## Remove caches; keeps .venv and the data
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis build include/*.egg-info
	find dags feature_repo include plugins tests -name __pycache__ -type d -prune -exec rm -rf {} +
