# make run starts the shop, make test proves it. Both install what they need into .venv first.

BIN := .venv/bin
STAMP := .venv/installed
WORKERS ?= 2  # processes that test, each with a Kafka and a Postgres of its own
PYTHONS := $(or $(PYTHON),python3.14 python3.13 python3.12 python3.11 python3)
# For 3.15, and without the interpreter's lock, some of requirements.lock are no wheels and do not build.
USABLE := import ensurepip, sys, sysconfig, venv; \
    sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14) or bool(sysconfig.get_config_var("Py_GIL_DISABLED")))

.PHONY: help run test demo check docs bench bench-peers chaos audit pictures mutants
.DELETE_ON_ERROR:

help:
	@echo 'make run | test | demo | check | docs | bench | bench-peers | chaos | audit | pictures | mutants; for more: .venv/bin/choreo --help'

run: $(STAMP)
	@exec $(BIN)/choreo up

test: $(STAMP)
	@exec $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

demo bench bench-peers chaos audit docs: $(STAMP)
	@exec $(BIN)/choreo $@ $(ARGS)

pictures: $(STAMP)
	@exec $(BIN)/python -m tests.screenshots

mutants: $(STAMP)
	@exec $(BIN)/python -m tests.mutants $(ARGS)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m tests.walls
	$(BIN)/choreo docs --check
	$(BIN)/choreo migration --check
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/*_*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/python -m pytest -q -o addopts= -p no:schemathesis tests/unit/test_tidy.py

# The stamp is the last thing made, so that an interrupted installation is taken up again.
$(STAMP): requirements.lock pyproject.toml
	@rm -f $@
	@for python in $(PYTHONS); do \
	    "$$python" -c '$(USABLE)' 2>/dev/null && exec "$$python" -m venv .venv; \
	done; \
	echo 'choreo: $(PYTHONS): none is a Python 3.11 to 3.14 with venv and pip. Install one (apt install python3-venv,' \
	    'dnf install python3.14, brew install python@3.14) or name it: make PYTHON=/path/to/python3' >&2; \
	exit 69
	@echo 'Installing Python packages into .venv, once (170 MB, a minute or two)'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock \
	    && $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e . \
	    || { echo 'choreo: the packages could not be installed (see above): check the network and try again' >&2; exit 69; }
	@touch $@
