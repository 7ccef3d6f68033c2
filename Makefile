# Telecast. `make` alone lists what can be done.

.DEFAULT_GOAL := help
.PHONY: help run test test-recovery test-deploy tools fmt lint lint-bench docs bench bench-micro bench-peers check-build check-tests

# The oldest Rust this builds with; the same number stands in Cargo.toml.
RUST_MIN := 1.95

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: check-build ## Build and relay this machine's metrics on port 9090
	cargo build --release --locked
	@exec $${CARGO_TARGET_DIR:-target}/release/telecast standalone --demo

test: check-build check-tests tools ## Run every test, then a short round of fuzzing, and sum up
	scripts/test.sh

test-recovery: check-build check-tests tools ## Kill and drain edges under 500 clients, ten minutes long; TELECAST_RECOVERY_… changes that
	cargo build --release --locked
	@TELECAST=$${TELECAST:-$${CARGO_TARGET_DIR:-$(CURDIR)/target}/release/telecast} \
	TELECAST_RECOVERY_SECONDS=$${TELECAST_RECOVERY_SECONDS:-600} TELECAST_RECOVERY_CLIENTS=$${TELECAST_RECOVERY_CLIENTS:-500} \
	TELECAST_RECOVERY_COLLECTORS=$${TELECAST_RECOVERY_COLLECTORS:-8} TELECAST_RECOVERY_EVERY_S=$${TELECAST_RECOVERY_EVERY_S:-20} \
	TELECAST_RECOVERY_PACE_MS=$${TELECAST_RECOVERY_PACE_MS:-1000} \
	cargo test --locked --test recovery -- --nocapture

test-deploy: check-build check-tests tools ## Test the image, Compose, Kubernetes, proxy and monitoring files only (SLOW_TESTS=1: idle connections for real)
	cargo build --locked
	tests/deploy/run.py

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
