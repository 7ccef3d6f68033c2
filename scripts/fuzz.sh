#!/usr/bin/env bash
# Fuzzes the pure core on stable Rust: scripts/fuzz.sh [seconds] [target…]
# Runs each target (default: all of them) that many seconds (default: 5). Exits non-zero if one crashes; the input that did it
# is kept in fuzz/artifacts. Found inputs are kept in fuzz/corpus for the next run, unless FUZZ_FRESH=1.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-5}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || { echo "usage: scripts/fuzz.sh [seconds] [target…]" >&2; exit 64; }
shift || true
targets=("$@")
if [[ ${#targets[@]} -eq 0 ]]; then
    mapfile -t targets < <(cd fuzz/targets && ls -- *.rs | sed 's/\.rs$//')
fi

host=$(rustc -vV | sed -n 's/^host: //p')
# What cargo-fuzz passes, less the address sanitizer, which needs nightly. Without --target the flags would also reach build
# scripts, which have no fuzzer to link to.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing"
bins=()
for target in "${targets[@]}"; do bins+=(--bin "$target"); done
cargo build --quiet --release --locked --manifest-path fuzz/Cargo.toml --target "$host" "${bins[@]}"

log=$(mktemp)
fresh=$(mktemp -d)
trap 'rm -rf "$log" "$fresh"' EXIT
failed=0
for target in "${targets[@]}"; do
    corpus=fuzz/corpus/$target
    [[ ${FUZZ_FRESH:-} == 1 ]] && corpus=$fresh/$target
    mkdir -p "$corpus" "fuzz/artifacts/$target" "fuzz/seeds/$target"
    if "fuzz/target/$host/release/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -max_len=4096 \
        -print_final_stats=1 -artifact_prefix="fuzz/artifacts/$target/" "$corpus" "fuzz/seeds/$target" >"$log" 2>&1; then
        # "cov" is the fuzzer's proof that the target is instrumented: without it, this would be mere noise.
        coverage=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -1)
        executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        if [[ ${coverage:-0} -eq 0 ]]; then
            echo "fuzz $target: no coverage reported: the build is not instrumented" >&2
            failed=1
        else
            echo "fuzz $target: $executions runs in $seconds s, $coverage edges covered, no crash"
        fi
    else
        tail -40 "$log" >&2
        echo "fuzz $target: CRASHED; the input is in fuzz/artifacts/$target" >&2
        failed=1
    fi
done
exit $failed
