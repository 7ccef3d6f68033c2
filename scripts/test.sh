#!/usr/bin/env bash
# Runs every test and a short round of fuzzing, then says how many passed and failed. The exit code is 0 only if all did.
set -uo pipefail
cd "$(dirname "$0")/.."

# Minutes per fuzz target would be an afternoon: seconds find what a change just broke.
FUZZ_SECONDS="${FUZZ_SECONDS:-5}"
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
failed_steps=()

step() {
    local name="$1"
    shift
    echo "── $name"
    "$@" 2>&1 | tee -a "$log" || failed_steps+=("$name")
}

step "tests" cargo test --locked --all-targets --no-fail-fast
step "examples in the documentation" cargo test --locked --doc
step "the JavaScript client" scripts/test-client-js.sh
step "image, Compose, Kubernetes and proxy files" tests/deploy/run.py
step "fuzzing, $FUZZ_SECONDS s per target" scripts/fuzz.sh "$FUZZ_SECONDS"

echo "── summary"
# A binary that did not build or crashed has no result line, so a step that failed counts beside the tests.
awk '/^test result:/ { for (i = 1; i <= NF; i++) {
        if ($(i + 1) ~ /^passed/) passed += $i
        if ($(i + 1) ~ /^failed/) failed += $i
        if ($(i + 1) ~ /^ignored/) ignored += $i } }
    /^ℹ pass / { passed += $3 }
    /^ℹ (fail|cancelled) / { failed += $3 }
    /^ℹ (skipped|todo) / { ignored += $3 }
    END { printf "tests: %d passed, %d failed, %d ignored\n", passed, failed, ignored }' "$log"
sed -n -e 's/^test \(.*\) \.\.\. FAILED$/  failed: \1/p' -e 's/^✖ \(.*\) ([0-9.]*ms)$/  failed: \1/p' "$log" | sort -u
sed -n 's/^test \(.*\) \.\.\. ignored, a measurement$/  ignored: \1 (a measurement, to be run by hand)/p' "$log" | sort -u
if [ "${#failed_steps[@]}" -gt 0 ]; then
    printf 'failed step: %s\n' "${failed_steps[@]}"
    exit 1
fi
echo "everything passed"
