# `make run` and `make test` do all set-up by themselves. Needed: Python 3.11, 3.12 or 3.13, make, a C library.

# the first Python that really starts and is new enough (a version manager's stub may be on the PATH and not start)
PYTHON := $(shell for candidate in $(PYTHON) python3 python3.13 python3.12 python3.11 python; do \
	$$candidate -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$candidate && break; done)
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest

.PHONY: run setup setup-dev docs test test-slow check format bench screenshots lock clean

run: setup  ## start Thaw on this machine and open it in the browser
	$(BIN)/thaw serve

setup: .venv/thaw-ready app/static/vendor/ready.json  ## leaves .venv/bin/thaw

setup-dev: .venv/thaw-dev-ready app/static/vendor/ready.json

test: check  ## checks, then every test but the slow ones
	$(PYTEST) -m "not slow" -n 2 --dist loadgroup --durations=40 --durations-min=5 $(ARGS)

test-slow: setup-dev  ## the proofs that take minutes
	$(PYTEST) -m slow $(ARGS)

check: setup-dev  ## style, types, who imports whom, migrations
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_migrations.py

format: setup-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup-dev  ## measured ratios; see docs/benchmarks.md
	$(BIN)/python -m benchmarks $(or $(ARGS),all)

screenshots: setup-dev  ## every page, both widths and themes, into build/screenshots; ARGS="--docs FOLDER" for docs/images
	$(BIN)/python -m tests.browser.screenshots $(ARGS)

docs: setup-dev  ## write the generated documents again
	$(BIN)/python -m app.rest_guide

lock: setup-dev  ## resolve the pinned versions again, with hashes
	$(BIN)/uv pip compile -q --universal --python-version 3.11 -c requirements/constraints.txt --generate-hashes --no-header pyproject.toml -o requirements/base.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 -c requirements/constraints.txt --generate-hashes --no-header pyproject.toml --group dev --extra postgres --extra s3 -o requirements/dev.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 -c requirements/constraints.txt --generate-hashes --no-header pyproject.toml --extra postgres --extra s3 -o requirements/server.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 -c requirements/constraints.txt --generate-hashes --no-header pyproject.toml --extra postgres --extra s3 \
		--overrides requirements/gpu-overrides.txt -o requirements/gpu.txt

clean:
	rm -rf .venv app/static/vendor node_modules

.venv/thaw-python:
	@test -n "$(PYTHON)" || { echo "Thaw needs Python 3.11, 3.12 or 3.13 with venv. Install one (Debian: apt install python3-venv) and try again."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check uv==0.13.9
	@touch $@

# uv installs in seconds what pip installs in a minute; pip is the fallback where a network lets only pip through
.venv/thaw-ready: .venv/thaw-python requirements/base.txt pyproject.toml
	$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r requirements/base.txt \
		|| $(BIN)/python -m pip install -q --require-hashes -r requirements/base.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@

.venv/thaw-dev-ready: .venv/thaw-ready requirements/dev.txt
	$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r requirements/dev.txt \
		|| $(BIN)/python -m pip install -q --require-hashes -r requirements/dev.txt
	@touch $@

app/static/vendor/ready.json: .venv/thaw-ready package.json package-lock.json app/vendor_files.py
	$(BIN)/python -m app.vendor_files
	@touch $@
