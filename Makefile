# Two commands for a fresh machine: `make demo` and `make test`. Both may be repeated, and work offline once installed.

PYTHON ?= python3
BIN := .venv/bin
DONE := .venv/.installed
# Tests wait for servers and workers more than they compute: four processes keep two cores busy.
TEST_PROCESSES ?= 4

.PHONY: demo test reliability check install docs site clean

demo: $(DONE)
	$(BIN)/python examples/pipeline.py --out out
	@echo "==> 6. embed the manifest's 14 sounds, by their timbre"
	$(BIN)/embedmill run examples/demo/manifest.jsonl --model sounds --out out/demo-sounds --modality audio --quiet
	$(BIN)/python examples/ask_demo.py out/demo out/demo-sounds
	@echo
	@echo "==> your own pictures, in this shell:"
	@echo "  . $(BIN)/activate"
	@echo "  embedmill run FOLDER --model demo --out out/mine"
	@echo "  embedmill search out/mine \"a few words\""

test: $(DONE)
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile $(PYTEST)

# The tier of faults: what docs/guarantees.md rests on.
FAULTS := bare_celery bit_flips chaos clocks eight_workers error_limit lost_replies other_versions planning_killed \
    poison publish_sweep queue sick_workers store_faults zombies

reliability: $(DONE)
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile tests/unit/test_coordinator_machine.py \
	    $(FAULTS:%=tests/integration/test_%.py) $(PYTEST)

check: $(DONE)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(DONE)
	$(BIN)/python docs/make_cli.py
	$(BIN)/python docs/make_failures.py
	$(BIN)/python docs/make_settings.py

# The documentation in build/site; its tools are in an environment of their own. Warnings are errors.
SITE := .venv-site
site: $(SITE)/.installed
	NO_MKDOCS_2_WARNING=1 $(SITE)/bin/mkdocs build --strict
	@echo "==> build/site/index.html"

$(SITE)/.installed: docs/requirements.txt
	@test -x $(SITE)/bin/python || $(PYTHON) -m venv $(SITE)
	@$(SITE)/bin/python -m pip install --disable-pip-version-check -q -r docs/requirements.txt
	@touch $@

install: $(DONE)

# torch first and alone: where a CPU build is configured or on disk, nothing else may pull in the CUDA one.
$(DONE): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "embedmill needs Python 3.11 or later; say which: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@echo "==> making .venv"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "==> installing torch (the largest part)"
	@$(BIN)/python -m pip install --disable-pip-version-check -q "$$(grep '^torch==' requirements.txt)"
	@echo "==> installing the pinned packages of requirements.txt"
	@$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements.txt
	@$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps --no-build-isolation -e .
	@touch $(DONE)
	@echo "==> installed"

clean:
	rm -rf .venv $(SITE) out build/site
