# IOMesh. `make help` lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo v0.0.0)
LDFLAGS := -s -w -X github.com/iomesh/iomesh/internal/version.version=$(VERSION)
BIN     := bin
# One set of build flags for everything but -race: the build cache is shared by build, vet and test.
export CGO_ENABLED := 0
GOBUILD := go build -ldflags '$(LDFLAGS)'

# Binaries that run in the cluster, and the user's plugin.
DAEMONS := storaged iomesh-agent iomesh-csi iomesh-attach iomesh-operator
RACE_PACKAGES := ./storaged/... ./csi/... ./agent/... ./attach/... ./internal/...

.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: deps
deps: ## install the Debian packages that tests and demos need (root; does nothing when they are there)
	@hack/deps.sh

.PHONY: build
build: ## build all binaries into bin/
	@mkdir -p $(BIN)
	$(GOBUILD) -o $(BIN)/storaged ./storaged
	$(GOBUILD) -o $(BIN)/iomesh-agent ./agent
	$(GOBUILD) -o $(BIN)/iomesh-csi ./csi
	$(GOBUILD) -o $(BIN)/iomesh-attach ./attach
	$(GOBUILD) -o $(BIN)/iomesh-operator ./operator
	$(GOBUILD) -o $(BIN)/kubectl-iomesh ./kubectl-iomesh

.PHONY: storaged
storaged: ## build only the block service
	@mkdir -p $(BIN)
	$(GOBUILD) -o $(BIN)/storaged ./storaged

.PHONY: generate
generate: deps ## regenerate protobuf, deepcopy and CRDs
	hack/generate.sh

.PHONY: check
check: deps ## format, vet, lint, generated files up to date
	hack/check.sh

.PHONY: test
test: deps ## the whole suite that needs no virtual machine and no cluster
	hack/test.sh

SEEDS ?= 2000
.PHONY: sim
sim: ## SEEDS=N random histories of the protocol core
	go test ./storaged/sim -run 'TestSeeds$$' -count=1 -timeout 0 -v -seeds $(SEEDS)

.PHONY: sim-stack
sim-stack: ## SEEDS=N (START=1) random histories of the whole stack, on all cores
	hack/sim-stack.sh $(SEEDS) $(or $(START),1)

# FAULTS: stalls power resync rebuild full metadata idle, or all; FLAGS such as --quick.
FAULTS ?= stalls
.PHONY: faults
faults: deps storaged ## real processes, three nodes, verifying load, faults: FAULTS=all FLAGS=--quick
	hack/faults.sh $(FAULTS) $(FLAGS)

.PHONY: e2e
e2e: deps ## the story on a real Kubernetes cluster (KUBECONFIG, or one made here); ARGS='-run NAME' for other tests
	hack/e2e.sh $(ARGS)

.PHONY: e2e-conformance
e2e-conformance: deps ## upstream's storage suite (External.Storage) on a cluster made here (root, about 30 minutes)
	hack/e2e-conformance.sh

.PHONY: bench
bench: ## measure against tgtd and the floor, in one run; ARGS=scale|fair|rebuild|times (and flags) for the rest, FIO=path for fio as well
	hack/bench.sh $(ARGS)

.PHONY: profile
profile: ## profiles of the chunks (CPU, allocations, blocking, locks) under each load of the benchmark, in build/profiles
	@mkdir -p build/profiles
	hack/bench.sh -profile build/profiles -pairs 1 -foreign 2

.PHONY: e2e-vm
e2e-vm: ## volumes under a stock kernel in a virtual machine, with faults (root; ARGS=-quick for short ones)
	nice hack/e2e-vm.sh $(ARGS)

.PHONY: demo
demo: ## the whole story on a real cluster on this machine (root)
	hack/demo.sh

.PHONY: demo-local
demo-local: storaged ## the block service alone: no root, no Kubernetes
	$(BIN)/storaged demo

.PHONY: images
images: build ## the container images, as archives in build/images
	hack/images.sh

.PHONY: faults-observe
faults-observe: deps storaged ## what users are told of thirty faults: status, alerts, why, dashboards (root, 20 minutes)
	hack/observe.sh

.PHONY: krew
krew: ## VERSION=v1.2.3: archives and manifest of the plugin, installed by the real krew (QUICK=1: this platform only)
	VERSION=$(VERSION) hack/krew.sh

.PHONY: release
release: ## VERSION=v1.2.3: everything of a release in dist/ with checksums (REPRODUCE=1: built twice and compared)
	VERSION=$(VERSION) hack/release.sh

.PHONY: clean
clean: ## remove what was built here
	rm -rf $(BIN) build dist
