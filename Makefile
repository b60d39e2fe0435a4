# Every target sets up what it needs: a virtual environment in .venv at locked versions, system packages by apt where
# that is possible, a sentence naming them where it is not.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.PHONY: help compiled demo test test-kubernetes fuzz soak lint bench bench-gateway bench-log bench-kubernetes cluster cluster-down clean \
  setup lock crds

SUMMARY ?=
JSON ?=
PLOT ?=
LOG ?= embedded
BACKEND ?= local
PYTEST ?=
BENCH ?=
NODES ?= 1
KWOK ?= 0
MINUTES ?= 10
SEED ?=
# A real Apache Kafka comes from Maven Central and runs on Java; what is there already is not installed.
KAFKA := default-jre-headless:java maven:mvn
# A real Kubernetes is built from Go modules; its nodes and Tidegate's image need these.
KUBERNETES := containerd:containerd runc:runc containernetworking-plugins iptables:iptables iproute2:ip openssl:openssl \
  buildah:buildah debootstrap:debootstrap

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | awk 'BEGIN {FS = ":.*?## "} {printf "  make %-16s %s\n", $$1, $$2}'

setup: ## Create .venv with everything at the locked versions
	@bash deploy/setup-venv.sh

demo: setup ## Run all of Tidegate with real models, send traffic, show what happened (LOG=kafka, BACKEND=kubernetes, SUMMARY=file.json)
	@if [ '$(LOG)' = kafka ]; then bash deploy/system-packages.sh $(KAFKA) || true; fi
	@if [ '$(BACKEND)' = kubernetes ]; then bash deploy/system-packages.sh $(KUBERNETES) || true; fi
	@.venv/bin/python -m loadtests.demo --log '$(LOG)' --backend '$(BACKEND)' $(if $(SUMMARY),--summary '$(SUMMARY)')

lint: setup ## Format, lint, layers, types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports --no-cache
	.venv/bin/mypy

test: lint ## Lint, then every test (PYTEST="-k name" narrows)
	@bash deploy/system-packages.sh curl:curl gcc:gcc || true
	@bash deploy/system-packages.sh $(KAFKA) || true
	@bash deploy/system-packages.sh $(KUBERNETES) || true
	@bash deploy/run-tests.sh $(PYTEST)

test-kubernetes: setup ## Everything on a real Kubernetes, also what takes long (PYTEST="-k name" narrows)
	@bash deploy/system-packages.sh $(KAFKA) $(KUBERNETES)
	@.venv/bin/pytest tests/kubernetes tests/backends/test_backend_contract.py $(PYTEST)

fuzz: setup ## Fuzz what reads HTTP and keep what is new (MINUTES=10)
	@bash deploy/fuzz.sh $$(($(MINUTES) * 60))

soak: setup ## All of Tidegate under load and chaos; every request is accounted for (MINUTES=10, JSON=file.json, SEED=n)
	@bash deploy/system-packages.sh openssl:openssl || true
	@.venv/bin/python -m loadtests.soak --minutes '$(MINUTES)' $(if $(JSON),--json '$(JSON)') $(if $(SEED),--seed '$(SEED)')

compiled: setup ## The live path compiled ahead of time, in build/compiled
	@bash deploy/system-packages.sh gcc:gcc
	@bash deploy/compiled.sh

# What is measured is the live path as it ships, compiled.
GATEWAY_BENCH := cd build/compiled && ../../.venv/bin/python -m loadtests.gateway

bench: compiled ## The gateway beside nginx, in a minute (JSON=file.json)
	@bash deploy/system-packages.sh nginx-light:nginx wrk:wrk
	@$(GATEWAY_BENCH) --row post --row heads --row idle --row first --peer nginx+mirror --peer nginx \
	  $(if $(JSON),--json '$(abspath $(JSON))') $(BENCH)

bench-gateway: compiled ## All of the gateway's speed beside nginx, HAProxy, Envoy, Traefik, aiohttp (JSON=file.json, PLOT=file.svg, BENCH="--row post")
	@bash deploy/system-packages.sh nginx-light:nginx wrk:wrk haproxy:haproxy openssl:openssl
	@$(GATEWAY_BENCH) $(if $(JSON),--json '$(abspath $(JSON))') $(if $(PLOT),--plot '$(abspath $(PLOT))') $(BENCH)

bench-log: setup ## The log: burst to decision, folding, shipping, a broker that is away (JSON=file.json)
	@bash deploy/system-packages.sh $(KAFKA) nginx-light:nginx wrk:wrk
	@.venv/bin/python -m loadtests.log $(if $(JSON),--json '$(JSON)')

bench-kubernetes: setup ## Kubernetes as compute: from zero beside kubectl scale, a fleet of 5,000 pods, beside HPAs (JSON=file.json, BENCH="--row zero")
	@bash deploy/system-packages.sh $(KUBERNETES)
	@.venv/bin/python -m loadtests.kubernetes $(if $(JSON),--json '$(JSON)') $(BENCH)

cluster: setup ## A real Kubernetes in the background, to look around in (NODES=1, KWOK=20 make-believe nodes)
	@bash deploy/system-packages.sh $(KUBERNETES)
	@.venv/bin/python -m loadtests.kubernetes.cluster up --detach --image --nodes '$(NODES)' --kwok '$(KWOK)'

cluster-down: setup ## End it, without a trace
	@.venv/bin/python -m loadtests.kubernetes.cluster down

crds: setup ## Make deploy/kubernetes/crds from the contract
	@.venv/bin/python -m router.control.resources.crds deploy/kubernetes/crds

lock: setup ## Pin every dependency anew, with hashes
	.venv/bin/uv pip compile -q --python-version 3.11 --universal --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url --extra kubernetes pyproject.toml -o deploy/requirements/runtime.txt
	.venv/bin/uv pip compile -q --python-version 3.11 --universal --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url deploy/requirements/inference.in -o deploy/requirements/inference.txt
	.venv/bin/uv pip compile -q --python-version 3.11 --universal --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url --extra test --extra kubernetes pyproject.toml -o deploy/requirements/dev.txt
	.venv/bin/uv pip compile -q --python-version 3.11 --universal --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url --extra bench pyproject.toml -o deploy/requirements/bench.txt

clean: ## Remove .venv and what tools cached in this folder
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache dist build
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
