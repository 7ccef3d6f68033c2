# Telecast. `make` alone lists what can be done.

.DEFAULT_GOAL := help
.PHONY: help run test test-recovery test-deploy test-ecosystem tools fmt lint lint-bench docs bench bench-micro bench-peers release release-image check-release check-build check-tests check-test-tools

# The oldest Rust this builds with; the same number stands in Cargo.toml.
RUST_MIN := 1.95

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: check-build ## Build and relay this machine's own metrics on port 9090; PORT=N takes another
	cargo build --release --locked
	@exec $${CARGO_TARGET_DIR:-target}/release/telecast standalone --demo $(if $(PORT),--listen 0.0.0.0:$(PORT))

test: check-build check-test-tools tools ## Run every test, then a short round of fuzzing, and sum up
	scripts/test.sh

test-recovery: check-build check-tests tools ## Kill and drain edges under 500 clients, ten minutes long; TELECAST_RECOVERY_… changes that
	cargo build --release --locked
	@TELECAST=$${TELECAST:-$${CARGO_TARGET_DIR:-$(CURDIR)/target}/release/telecast} \
	TELECAST_RECOVERY_SECONDS=$${TELECAST_RECOVERY_SECONDS:-600} TELECAST_RECOVERY_CLIENTS=$${TELECAST_RECOVERY_CLIENTS:-500} \
	TELECAST_RECOVERY_COLLECTORS=$${TELECAST_RECOVERY_COLLECTORS:-8} TELECAST_RECOVERY_EVERY_S=$${TELECAST_RECOVERY_EVERY_S:-20} \
	TELECAST_RECOVERY_PACE_MS=$${TELECAST_RECOVERY_PACE_MS:-1000} \
	cargo test --locked --test recovery -- --nocapture

test-deploy: check-build check-test-tools tools ## Test the image, Compose, Kubernetes, proxy and monitoring files only (SLOW_TESTS=1: idle connections for real)
	cargo build --locked
	tests/deploy/run.py

test-ecosystem: check-build check-test-tools tools ## Let the ecosystem's own programs judge all that is shipped; longer than what `make test` runs of it
	scripts/setup-ecosystem.py --long
	scripts/setup-release.py
	cargo build --locked
	tests/deploy/run.py --long

release: check-build check-tests ## Build archives, .deb, SBOM and checksums into dist/ (TARGETS="TRIPLE …": only these; SNAPSHOT=1: a commit that is no release)
	scripts/setup-release.py
	scripts/release.py $(if $(SNAPSHOT),--snapshot) $(TARGETS:%=--target %)

release-image: check-tests ## Build the image for amd64 and arm64, with SBOM and provenance, into dist/ (IMAGE=registry/name PUSH=1: to a registry)
	scripts/setup-operations.py
	.tools/operations/bin/python scripts/release-image.py $(if $(IMAGE),--image $(IMAGE)) $(if $(PUSH),--push) $(if $(SNAPSHOT),--snapshot)

check-release: check-tests ## Unpack, install and run what `make release` has built (as root: it installs the .deb in a system of its own)
	scripts/setup-release.py
	tests/deploy/run.py long_release

tools: check-tests ## Install what tests need into .tools
	scripts/setup-tools.sh
	scripts/setup-schemas.sh

fmt: ## Format the code
	cargo fmt

lint: ## Check format and lints
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings

lint-bench: ## Check format and lints of the benchmarks
	cargo fmt --check --manifest-path bench/Cargo.toml --all
	cargo clippy --manifest-path bench/Cargo.toml --target-dir bench/target --all-targets --locked -- -D warnings
	cargo clippy --lib --features bench --locked -- -D warnings

docs: ## Build the documentation of the code into target/doc
	RUSTDOCFLAGS=-Dwarnings cargo doc --no-deps --locked

bench: bench-micro bench-peers ## Measure single steps, then compare with other servers (QUICK=1: minutes, and says less)

bench-micro: check-build ## Measure single steps: CPU time and instruction counts (minutes; needs valgrind)
	@scripts/bench-micro.sh

bench-peers: check-build tools ## Compare with other servers (hours; QUICK=1: minutes, and says less)
	cargo build --release --locked
	cargo build --release --locked --manifest-path bench/Cargo.toml -p peers
	bench/peers/run.py $(if $(QUICK),--quick) $(PEERS_ARGS)

check-build:
	@command -v cargo >/dev/null || { echo "make: cargo is missing: install Rust $(RUST_MIN) or newer from https://rustup.rs" >&2; exit 1; }
	@found=$$(cargo --version | cut -d ' ' -f 2); \
	printf '%s\n%s\n' "$(RUST_MIN)" "$$found" | sort -CV \
		|| { echo "make: cargo $$found is too old: Rust $(RUST_MIN) or newer is needed (rustup update stable)" >&2; exit 1; }
	@command -v cc >/dev/null || command -v gcc >/dev/null || command -v clang >/dev/null \
		|| { echo "make: a C compiler is missing: some dependencies are C (Debian, Ubuntu: apt-get install build-essential; macOS: xcode-select --install)" >&2; exit 1; }

check-tests:
	@command -v python3 >/dev/null \
		|| { echo "make: python3 is missing: tests install nats-server with pip (Debian, Ubuntu: apt-get install python3 python3-venv)" >&2; exit 1; }
	@command -v curl >/dev/null \
		|| { echo "make: curl is missing: tests run the lines of the documentation with it (Debian, Ubuntu: apt-get install curl)" >&2; exit 1; }

# What tests need beyond what fetches nats-server. Go's own installer puts it where PATH does not look.
check-test-tools: check-tests
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "make: $$(python3 --version) is too old: tests need Python 3.11 or newer (https://www.python.org/downloads; macOS: brew install python)" >&2; exit 1; }
	@found=$$(node --version 2>/dev/null | sed 's/^v\([0-9]*\).*/\1/'); \
	[ "$${found:-0}" -ge 20 ] && command -v npm >/dev/null \
		|| { echo "make: Node 20 or newer with npm is missing: tests of the JavaScript client run in it (https://nodejs.org; Debian 13, Ubuntu 25.04: apt-get install nodejs npm; macOS: brew install node)" >&2; exit 1; }
	@PATH="$$PATH:/usr/local/go/bin" command -v go >/dev/null \
		|| { echo "make: Go is missing: it builds what reads Compose files, Kustomize and Alertmanager in tests (1.24 or newer from https://go.dev/dl; macOS: brew install go)" >&2; exit 1; }
