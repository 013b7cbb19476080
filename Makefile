SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export PATH := $(HOME)/.cargo/bin:/usr/local/go/bin:$(HOME)/go/bin:/usr/local/bin:$(PATH):/usr/sbin:/sbin

TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Install what demo and tests need, by package name (idempotent)
	@e2e/setup.sh test
	@e2e/setup.sh control-plane

.PHONY: demo
demo: ## Watch actors sleep, free their worker, and wake with memory and files intact
	@e2e/setup.sh demo
	cargo build --bins
	@e2e/demo.sh $(TARGET)/debug

.PHONY: dev
dev: ## Run everything on this machine until Ctrl-C
	@e2e/setup.sh demo
	cargo build --bins
	$(TARGET)/debug/ate dev

# More threads than cores: most tests wait, for a lease, a process, a sandbox. Those of e2e queue for what they share, so
# each has a thread: none keeps others from what is free.
# Examples in rustdoc are left out: there each is a binary of its own to link.
.PHONY: test
# The control plane, where there is none, is built behind all else: tests that need it wait for it.
test: CARGO_TEST = cargo test --no-fail-fast --features failpoints
# Nothing is kept for the next change's build: from nothing that is a fifth of this crate's.
test: export CARGO_INCREMENTAL := 0
test: ## Run all tests, against real sandboxes, Valkey, S3 and Kubernetes
	@mkdir -p $(TARGET)
	@nice -n 19 e2e/setup.sh cluster >$(TARGET)/control-plane.log 2>&1 &
	@e2e/setup.sh test
	@(RUST_TEST_THREADS=$$((3 * $$(nproc))) $(CARGO_TEST) --lib || failed=$$?; \
	RUST_TEST_THREADS=256 $(CARGO_TEST) --test e2e || failed=$$?; exit $${failed:-0}) 2>&1 | tee $(TARGET)/test.log || failed=$$?; \
	awk -f e2e/summary.awk $(TARGET)/test.log; exit $${failed:-0}

.PHONY: e2e
e2e: ## Install by Helm on a local cluster with a node, or that of E2E_KUBECONFIG, walk users' guide there, show how long each step took
	@e2e/setup.sh test
	@[ -n "$${E2E_KUBECONFIG:-}" ] || e2e/setup.sh cluster
	RUST_TEST_THREADS=256 E2E_TABLE=1 cargo test --features failpoints --test e2e -- pods:: --nocapture

.PHONY: test-e2e
test-e2e: e2e ## As e2e

# How long.
SOAK_MINUTES ?= 30
# How many wakes and suspends, on this machine without Kubernetes, nothing may grow in.
SOAK_CYCLES ?= 10000

.PHONY: soak
soak: ## SOAK_CYCLES wakes in which nothing may grow; then as e2e with Kubernetes away for longer, faults in random order (SOAK_SEED) for SOAK_MINUTES, and 10 minutes of rest
	@e2e/setup.sh test
	@e2e/setup.sh cluster
	cargo build --release --bins
	@e2e/cycles.sh $(TARGET)/release $(SOAK_CYCLES)
	env -u E2E_KUBECONFIG SOAK_MINUTES=$(SOAK_MINUTES) RUST_TEST_THREADS=256 E2E_TABLE=1 cargo test --features failpoints --test e2e -- pods:: --nocapture

.PHONY: bench
bench: ## Measure against the targets; writes target/bench.json
	@e2e/setup.sh test
	@e2e/setup.sh cluster
	cargo build --release --bins --features bench
	@e2e/bench/run.sh $(TARGET)/release
	@e2e/bench/image.sh $(TARGET)/release
	@e2e/bench/api.sh $(TARGET)/release
	@e2e/bench/pods.sh $(TARGET)/release

.PHONY: manifests
manifests: ## Generate crds/ from the Rust types
	cargo run --bin ate -- manifests crds/

# --- a cluster: what your kubeconfig names (config/README.md) ---

# What the manifests run; deploy and build-installer write it into them.
IMG ?= ate:0.1.0
RENDER = kubectl kustomize config/default | sed 's|\<ate:0\.1\.0$$|$(IMG)|'

.PHONY: run
run: dev ## As dev: on this machine, without a cluster

.PHONY: install
install: ## Put the definitions of our kinds into the cluster
	kubectl apply --server-side -k config/crd

.PHONY: uninstall
uninstall: ## Take them out, and with them every WorkerPool and ActorTemplate
	kubectl delete --ignore-not-found -k config/crd

.PHONY: deploy
deploy: ## Put everything into the cluster, with IMG
	$(RENDER) | kubectl apply --server-side -f -
	@kubectl -n ate-system get secret ate-objects >/dev/null 2>&1 || kubectl -n ate-system create secret generic ate-objects \
	  --from-file=AWS_ACCESS_KEY_ID=<(od -An -N10 -tx1 /dev/urandom | tr -d ' \n') \
	  --from-file=AWS_SECRET_ACCESS_KEY=<(od -An -N20 -tx1 /dev/urandom | tr -d ' \n')

.PHONY: undeploy
undeploy: ## Take all but the definitions out of the cluster; actors and snapshots go too
	@for part in manager policy webhook rbac apiserver; do kubectl delete --ignore-not-found -k config/$$part; done

.PHONY: docker-build
docker-build: ## Build the image IMG
	docker build -t $(IMG) .

.PHONY: build-installer
build-installer: ## Write dist/install.yaml: all of deploy in one file, with IMG
	@mkdir -p dist
	$(RENDER) >dist/install.yaml

.PHONY: lint
lint: ## Check formatting and clippy
	cargo fmt --check
	cargo clippy --all-targets --features failpoints,bench -- -D warnings
