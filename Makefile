# Everything here works on a fresh clone with Python 3.11 to 3.13 and make alone.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
PEER := .venv-peer/ready
AUDIT := .venv-audit/ready
# How many files of tests run side by side; 0: one after the other, in one process.
JOBS ?= 2
SIDE_BY_SIDE := -n $(JOBS) --dist loadfile

.PHONY: setup demo dev test chaos e2e test-stock check format bench bench-kubernetes outage soak scale profile sbom audit lock image chart docs site cli clean
.DEFAULT_GOAL := setup

setup: $(READY)  ## the environment with the flowgroup command in .venv

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "flowgroup needs Python 3.11, 3.12 or 3.13 as python3 (or set PYTHON=...)" >&2; exit 2; }
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --clear --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV) && \
		uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock && \
		uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e . ; \
	else \
		$(PYTHON) -m venv --clear $(VENV) && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . ; \
	fi
	@$(BIN)/python -m compileall -q $(VENV)/lib >/dev/null 2>&1 || true
	@touch $(READY)

demo: setup  ## a Prefect server, the daemon, a flow on demand and on a schedule; leaves nothing behind
	@$(BIN)/flowgroup demo

dev: setup  ## the same as a service that stays up
	@$(BIN)/flowgroup dev

bench: setup  ## beside Prefect's process worker: a table, and bench.jsonl; some of it by CASES="ad_hoc burst"
	@$(BIN)/python -m flowgroup.dev.bench $(CASES)

bench-kubernetes: setup $(PEER)  ## on the cluster of $$KUBECONFIG, beside Prefect's Kubernetes worker; BENCH_HOST: this machine as pods reach it
	@$(BIN)/python -m flowgroup.dev.bench --kubernetes $(if $(BENCH_HOST),--host $(BENCH_HOST)) $(CASES)

$(PEER): requirements/peer.lock | setup
	@$(BIN)/python -m venv --clear .venv-peer
	@.venv-peer/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/peer.lock
	@touch $(PEER)

outage: setup  ## runs through every fault of the API and kills of the relay, for three quarters of an hour: docs/outage.md; some of it by CASES="500 relay*"
	@$(BIN)/python -m flowgroup.dev.outage $(CASES)

soak: setup  ## half an hour of everything, and whether anything of ours grows: docs/soak.md; shorter by MINUTES=5
	@$(BIN)/python -m flowgroup.dev.soak $(MINUTES)

scale: setup  ## a thousand clusters and ten thousand flow groups on the pretended nodes of $$KUBECONFIG: docs/scale.md
	@$(BIN)/python -m tests.scale $(ARGS)

profile: setup  ## where each millisecond of a warm run and of a task goes: docs/profile
	@$(BIN)/python -m flowgroup.dev.profile

test: setup  ## all tests but those that need a Kubernetes cluster, and the long ones of make chaos; JOBS files at once
	@$(BIN)/python -m pytest -m "timed and not long and not e2e" || [ $$? = 5 ]  # 5: none of them is among those asked for
	@$(BIN)/python -m pytest -m "not timed and not long and not e2e" $(SIDE_BY_SIDE)

e2e: setup  ## tests on a real Kubernetes: $$KUBECONFIG, ../shared/cluster, or a kind cluster made for it; some by E2E="tests/e2e"
	@deploy/e2e.sh $(BIN)/python -m pytest -m e2e $(E2E)

STOCK := tests/real/test_states.py tests/real/test_bad_runs.py tests/real/test_dask.py tests/real/test_both_runners.py tests/real/test_prefect_deployments.py

test-stock: setup  ## tests on the whole stack again, without our changes to Prefect's engine
	@FLOWGROUP_DRIVER_LEAN=false $(BIN)/python -m pytest $(STOCK) $(SIDE_BY_SIDE)

chaos: setup  ## every fault that can be made here, for a quarter of an hour: docs/chaos.md; some of it by CASES="kill* malformed"
	@$(BIN)/python -m tests.chaos $(CASES)

check: setup  ## format, lint, types, import contracts
	@$(BIN)/ruff format --check --quiet agent tests
	@$(BIN)/ruff check --quiet agent tests
	@$(BIN)/mypy --no-error-summary
	@PYTHONPATH=agent $(BIN)/lint-imports --no-cache >/tmp/flowgroup-contracts.$$$$ || { cat /tmp/flowgroup-contracts.$$$$; rm -f /tmp/flowgroup-contracts.$$$$; exit 1; }; rm -f /tmp/flowgroup-contracts.$$$$

format: setup
	@$(BIN)/ruff format agent tests
	@$(BIN)/ruff check --fix agent tests

sbom: setup $(AUDIT)  ## what is in the images, with hashes and licences: CycloneDX in sbom/
	@$(BIN)/python -m flowgroup.dev.sbom

audit: setup $(AUDIT)  ## known advisories about what the locks name; asks PyPI
	@$(BIN)/python -m flowgroup.dev.audit

$(AUDIT): requirements/audit.lock | setup
	@$(BIN)/python -m venv --clear .venv-audit
	@.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/audit.lock
	@touch $(AUDIT)

COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header

# The images' own locks are subsets of the whole: the same versions and hashes.
lock:  ## pin everything again (needs uv)
	@$(COMPILE) --extra runtime --extra server --extra test --extra build pyproject.toml -o requirements.lock
	@$(COMPILE) --constraint requirements.lock pyproject.toml -o requirements/agent.lock
	@$(COMPILE) --constraint requirements.lock --extra runtime pyproject.toml -o requirements/runtime.lock
	@printf 'hatchling\n' | $(COMPILE) --constraint requirements.lock - -o requirements/build.lock
	@printf 'prefect-kubernetes\nprefect>=3.8.8,<3.9\n' | $(COMPILE) --constraint requirements.lock - -o requirements/peer.lock
	@printf 'mkdocs\n' | $(COMPILE) - -o requirements/docs.lock
	@printf 'dask-kubernetes\n' | $(COMPILE) --constraint requirements.lock - -o requirements/operator.lock
	@printf 'cyclonedx-bom\npip-audit\n' | $(COMPILE) --constraint requirements.lock - -o requirements/audit.lock

chart:  ## the chart's README (docs/chart.md too) and dashboard, deploy/flowgroup.yaml and deploy/monitoring.yaml, made from the chart (needs helm)
	@$(BIN)/python helm/readme.py --write
	@$(BIN)/python helm/dashboard.py --write
	@deploy/render.sh >deploy/flowgroup.yaml.new && mv deploy/flowgroup.yaml.new deploy/flowgroup.yaml
	@deploy/render.sh $(MONITORING) >deploy/monitoring.yaml.new && mv deploy/monitoring.yaml.new deploy/monitoring.yaml

docs:  ## docs/metrics.md and docs/settings.md, made from the code
	@$(BIN)/python -m flowgroup.dev.metrics --write docs/metrics.md
	@$(BIN)/python -m flowgroup.dev.reference --write docs/settings.md

DOCS := .venv-docs/ready

site: $(DOCS)  ## the documentation as a site in site/; no page may load anything from elsewhere
	@.venv-docs/bin/mkdocs build --strict --clean  # never --quiet: what is not said does not count as a warning
	@! grep -rEn '<(script|link|img|iframe)[^>]*(src|href)="?(https?:)?//|@import|url\(.?(https?:)?//' site --include='*.html' --include='*.css'

$(DOCS): requirements/docs.lock
	@test -n "$(PYTHON)" || { echo "the site needs Python 3.11, 3.12 or 3.13 as python3 (or set PYTHON=...)" >&2; exit 2; }
	@$(PYTHON) -m venv --clear .venv-docs
	@.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/docs.lock
	@touch $(DOCS)

MONITORING := -f deploy/monitoring-values.yaml --show-only templates/monitoring.yaml

cli:  ## docs/cli.md, made from the parsers
	@$(BIN)/python -c 'from flowgroup import cli; from flowgroup.operate.reference import page; print(page(cli.parser()), end="")' >docs/cli.md

image:  ## both images, TAG=dev; with docker, podman or buildah, or with the test cluster's script that CLUSTER names
	@deploy/image.sh $(TAG)

clean:
	@rm -rf $(VENV) .venv-peer .venv-audit sbom .venv-docs site .mypy_cache .pytest_cache .ruff_cache .hypothesis
