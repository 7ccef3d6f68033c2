#!/usr/bin/env bash
# Measures single steps twice, as CPU time and as instruction counts, and prints one table: scripts/bench-micro.sh
# Counts need valgrind. The first run builds for some minutes. The table's column "change" compares counts with the run before.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v valgrind >/dev/null || {
    echo "bench-micro: valgrind is missing: instructions are counted by its tool callgrind (Debian, Ubuntu: apt-get install valgrind)" >&2
    exit 1
}

# Library and runner only work together in the same version: the lock file says which.
version=$(sed -n '/^name = "gungraun"$/{n;s/^version = "\(.*\)"$/\1/p}' bench/Cargo.lock)
runner="$PWD/.tools/bin/gungraun-runner"
if [ "$("$runner" --version 2>/dev/null)" != "gungraun-runner $version" ]; then
    echo "bench-micro: installing gungraun-runner $version into .tools (minutes, once)" >&2
    cargo install --quiet --locked --force --root .tools --version "$version" gungraun-runner >&2
fi

# The folder is named here, so that results are found wherever a caller has cargo build.
export CARGO_TARGET_DIR="$PWD/bench/target" GUNGRAUN_RUNNER="$runner"
bench=(cargo bench --quiet --locked --manifest-path bench/Cargo.toml --package micro)
echo "bench-micro: building" >&2
"${bench[@]}" --no-run
log=$(mktemp)
trap 'rm -f "$log"' EXIT
step() {
    echo "bench-micro: $1" >&2
    shift
    "$@" >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
}
step "timing" "${bench[@]}" --bench time
step "counting instructions" "${bench[@]}" --bench instructions -- --save-summary=json
cargo run --quiet --release --locked --manifest-path bench/Cargo.toml --package micro -- "$CARGO_TARGET_DIR"
