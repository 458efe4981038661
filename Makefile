SHELL := /bin/bash
PYTHON_BIN := .venv/bin/python
ROOT ?= qed-runs

.PHONY: help venv demo test e2e cluster cluster-down images lint generate docs sbom lock bench clean

help: ## Say what each target does
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

venv: ## Make .venv with the pinned CPU set (no GPU needed)
	@tools/install.sh .venv

demo: venv ## Run the whole pipeline on this machine: dataset, SFT, RL, evaluation (no cluster needed)
	@.venv/bin/qednano run examples/tiny/ --root $(ROOT)

test: venv ## All tests but those that need a kubelet; builds a kube-apiserver the first time
	@$(PYTHON_BIN) -m tools.cluster build --control-plane
	@$(PYTHON_BIN) -m pytest -m "not e2e" -n 2 --dist loadfile $(ARGS)

cluster: venv ## Start a real one-node Kubernetes here, with images and operator
	@$(PYTHON_BIN) -m tools.cluster up --images && $(PYTHON_BIN) -m tools.release

e2e: cluster ## Apply examples/tiny to the one-node cluster and wait for a better prover
	@$(PYTHON_BIN) -m pytest -m e2e $(ARGS)

cluster-down: venv ## Stop the one-node cluster and remove what it left
	@$(PYTHON_BIN) -m tools.cluster down

images: venv ## Build the four images for the cluster here; with REGISTRY=HOST/TEAM/ [TAG= VARIANT=cuda TOOL=podman PUSH=1] for yours
ifdef REGISTRY
	@$(PYTHON_BIN) -m tools.images --registry $(REGISTRY) $(TAG:%=--tag %) $(VARIANT:%=--variant %) $(TOOL:%=--tool %) $(if $(PUSH),--push)
else
	@$(PYTHON_BIN) -m tools.cluster images $(VARIANT:%=--variant %)
endif

lint: venv ## Formatting, lint, types, import contracts, generated files
	@.venv/bin/ruff format --check . && .venv/bin/ruff check .
	@.venv/bin/mypy qednano/api qednano/plan operator/qednano_operator
	@.venv/bin/lint-imports
	@$(PYTHON_BIN) -m qednano.api.generate --check
	@$(PYTHON_BIN) -m tools.observability --check
	@$(PYTHON_BIN) -m tools.chart_readme --check
	@$(PYTHON_BIN) -m tools.cli_reference --check
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet --strict

generate: venv ## Write what is generated: CRDs, reference pages, dashboards, alerts, the chart's README
	@$(PYTHON_BIN) -m qednano.api.generate
	@$(PYTHON_BIN) -m tools.observability
	@$(PYTHON_BIN) -m tools.chart_readme
	@$(PYTHON_BIN) -m tools.cli_reference

docs: venv ## Build the documentation site into build/site
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet --strict

sbom: venv ## Write a bill of materials for each image into build/sbom
	@$(PYTHON_BIN) -m tools.sbom

lock: venv ## Write requirements/ from the packages in .venv
	@$(PYTHON_BIN) -m tools.lock

bench: venv ## Train the tiny task with three seeds and check the learning bars (about 35 minutes)
	@$(PYTHON_BIN) bench/tiny_learning.py --seeds 3

clean: ## Remove runs and caches of this checkout, not .venv
	@rm -rf $(ROOT) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
