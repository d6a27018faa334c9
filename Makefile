# Eight entry points; each installs what it needs into .venv.
PY := .venv/bin/python
STAMP := .venv/.installed

.PHONY: demo test check sim fuzz interop bench docs clean

demo: $(STAMP)
	@.venv/bin/shem devnet demo

test: $(STAMP)
	@$(PY) -m tests.run

check: $(STAMP)
	@.venv/bin/ruff format --check . && .venv/bin/ruff check . && .venv/bin/mypy && .venv/bin/lint-imports && $(PY) -m tests.docs --check

sim: $(STAMP)
	@$(PY) -m $(if $(SEED)$(SEEDS),tests.sim.$(PROFILE:%=%_)campaign $(SEED:%=--seed %) $(SEEDS:%=--seeds %),pytest -n 2 tests/sim)

fuzz: $(STAMP)
	@$(PY) -m tests.fuzz $(MINUTES:%=--minutes %)

interop: $(STAMP)
	@$(PY) -m tests.run interop

bench: $(STAMP)
	@$(PY) -m tests.bench

docs: $(STAMP)
	@$(PY) -m tests.docs

$(STAMP): pyproject.toml requirements.lock
	@python3 -m venv .venv
	@.venv/bin/pip install -q --disable-pip-version-check -r requirements.lock
	@.venv/bin/pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@

clean:
	rm -rf .venv build dist
