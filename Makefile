# `make` alone lists what there is. `make demo` and `make test` need Rust, Python 3 and make, nothing else.

CARGO ?= cargo
SERVICES := scripts/services

.DEFAULT_GOAL := help
.PHONY: help demo test check-all kills lint deny bench scale services-down clean-services

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## the main job on the sample input; its services stay up to look at
	@$(SERVICES) up --name demo
	@settings=$$($(SERVICES) env --name demo) && eval "$$settings" && $(CARGO) run --locked -- demo; status=$$?; \
		echo; echo "The services of the demo are still up. To end them and remove their data: $(SERVICES) down --name demo"; \
		exit $$status

test: ## format, lints and all tests, on private services that end with it
	@scripts/with-services test $(MAKE) --no-print-directory lint check-all

check-all:
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-6} $(CARGO) test --locked --workspace

kills: ## the lifecycle cut off and raced at every call of a store, and many simulated days at random (about an hour)
	@CONTEXTD_TEST_POINTS=all scripts/with-services kills $(CARGO) test --locked --workspace --test lifecycle --test purge \
		--test archive --test sweep --test erase --test anonymize --test engine -- --include-ignored

lint: ## format and clippy, warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

deny: ## licences, advisories and sources of the dependencies (needs cargo-deny)
	$(CARGO) deny check

bench: ## throughput, latency, memory, analysis speed against the bare drivers; BENCH="--quick" for a look
	@scripts/with-services bench $(CARGO) bench --locked --bench contextd -- $(BENCH)

scale: ## purges of documents with their versions against the bare driver; SCALE="--documents 1000000" for the full size
	@scripts/with-services scale $(CARGO) bench --locked --bench lifecycle -- $(SCALE)

services-down: ## ends every set of services of this directory and removes its data
	@for state in .services/*/state.json; do \
		[ ! -e "$$state" ] || $(SERVICES) down --name "$$(basename "$$(dirname "$$state")")"; \
	done

clean-services: services-down ## the same, and removes the mongod that was fetched
	@rm -rf .services
