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
# Imports without cached bytecode are 2-4 times slower.
unexport PYTHONDONTWRITEBYTECODE
# uv does not read pip's settings; a mirror given to pip is meant for both.
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif

BIN := .venv/bin
READY := .venv/.ready
UV_FLAGS := --python $(BIN)/python --quiet

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(READY) ## Install Python packages into .venv (Python 3.11 needed); instant when up to date

$(READY): requirements.txt pyproject.toml
	@found=; \
	for candidate in "$${PYTHON:-python3.11}" python3.11 python3 python; do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; \
	  then found=$$candidate; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "Python 3.11 is needed and neither python3.11 nor python3 is it." >&2; \
	  echo "Install it, or name it: make setup PYTHON=/path/to/python3.11" >&2; \
	  exit 1; \
	fi; \
	echo "Setting up .venv with $$("$$found" --version) ..."; \
	"$$found" -m venv .venv; \
	$(BIN)/python -m pip install -qq --disable-pip-version-check --upgrade 'uv>=0.9'; \
	$(BIN)/uv pip sync $(UV_FLAGS) requirements.txt; \
	$(BIN)/uv pip install $(UV_FLAGS) --no-deps --editable .; \
	echo $$SECONDS > $@; \
	echo "Installed $$(grep -c == requirements.txt) packages in $$SECONDS s."

.PHONY: lock
lock: $(READY) ## Resolve requirements.in into requirements.txt
	$(BIN)/uv pip compile requirements.in --excludes requirements-excludes.txt \
	  --python-version 3.11 --no-annotate --upgrade --quiet -o requirements.txt

.PHONY: check
check: $(READY) ## Lint, format check, types; needs no service and no network
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: test
test: $(READY) ## Run the tests, with the embedded services and no network
	TZ=UTC $(BIN)/pytest

.PHONY: test-faults
test-faults: $(READY) ## 1,000 kills, 200 shuffled histories; stock Feast beside ours
	TZ=UTC $(BIN)/pytest -m faults

.PHONY: test-e2e
test-e2e: $(READY) ## Kill tasks and scheduler of a real Airflow in a backfill, mend a correction, compare
	TZ=UTC $(BIN)/pytest -m e2e

.PHONY: bench
bench: bench-online bench-pains bench-backfill bench-batch-rules ## All benchmarks, one after the other

.PHONY: bench-online
bench-online: $(READY) ## Online store against stock Feast: time, memory, reads
	@$(BIN)/python -W ignore -m benchmarks.online

.PHONY: bench-pains
bench-pains: $(READY) ## What stock Feast does with late and corrected data, beside ours
	@$(BIN)/python -W ignore -m benchmarks.pains

.PHONY: bench-backfill
bench-backfill: $(READY) ## Two years at once against day by day; one more day as history grows; memory
	@$(BIN)/python -W ignore -m benchmarks.backfill

.PHONY: bench-batch-rules
bench-batch-rules: $(READY) ## How often the row count rule refuses good days, and finds half and doubled ones
	@$(BIN)/python -W ignore -m benchmarks.batch_rules

.PHONY: demo
demo: $(READY) ## Watch every stage work on generated customers; ends by itself
	@$(BIN)/evergreen demo

.PHONY: up
up: $(READY) ## Start Postgres and Airflow on this machine; prints URL and login
	@$(BIN)/evergreen up

.PHONY: down
down: $(READY) ## Stop them
	@$(BIN)/evergreen down

.PHONY: status
status: $(READY) ## Tell what runs, what is in the tables, what is stale and what mends it
	@$(BIN)/evergreen status

.PHONY: backup
backup: $(READY) ## Save databases, warehouse and artifacts; `evergreen restore` puts them back
	@$(BIN)/evergreen backup

.PHONY: clean
clean: ## Remove caches; keeps .venv and the data
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis build include/*.egg-info
	find dags feature_repo include plugins tests -name __pycache__ -type d -prune -exec rm -rf {} +
