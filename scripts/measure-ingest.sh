#!/usr/bin/env bash
# Many collectors → one ingest node → a NATS server → one edge → one client that checks every metric; then the CPU time and
# memory of each: scripts/measure-ingest.sh [collectors] [seconds]        (1000 and 60, if nothing is said)
# Everything runs on this machine, on ports of its own and in a folder that is removed afterwards. PROFILE=1 also samples
# ingest and edge with perf, and keeps the result in target/profile. Exit code 0 only if nothing was lost.
set -euo pipefail
cd "$(dirname "$0")/.."

collectors=${1:-1000}
seconds=${2:-60}
[[ $collectors =~ ^[1-9][0-9]*$ && $seconds =~ ^[1-9][0-9]*$ ]] \
    || { echo "usage: scripts/measure-ingest.sh [collectors] [seconds]" >&2; exit 64; }
nats_port=${NATS_PORT:-14222} ingest_port=${INGEST_PORT:-19090} edge_port=${EDGE_PORT:-13002}
# A socket per collector, on both sides, and what a process has open anyway.
ulimit -n "$(ulimit -H -n)"

target=${CARGO_TARGET_DIR:-target}
scripts/setup-tools.sh
cargo build --release --locked --bin telecast --example collectors

work=$(mktemp -d)
pids=()
stop() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap stop EXIT

export TELECAST_CONFIG_DIR=$work LOG_LEVEL=warn LOG_FORMAT=json TELECAST__EDGE__DRAIN_GRACE_MS=0
${NATS_SERVER:-.tools/bin/nats-server} -a 127.0.0.1 -p "$nats_port" -js -sd "$work/jetstream" >"$work/nats.log" 2>&1 &
nats=$! pids+=($!)
# The nodes would wait for it too, but would warn meanwhile.
for _ in $(seq 100); do (: </dev/tcp/127.0.0.1/"$nats_port") 2>/dev/null && break; sleep 0.1; done
kill -0 "$nats" 2>/dev/null || { echo "measure-ingest: nats-server ended (is port $nats_port in use? set NATS_PORT):" >&2; tail -3 "$work/nats.log" >&2; exit 1; }
"$target"/release/telecast ingest --nats "nats://127.0.0.1:$nats_port" --node measured-ingest --listen "127.0.0.1:$ingest_port" \
    >"$work/ingest.log" 2>&1 &
ingest=$! pids+=($!)
"$target"/release/telecast edge --nats "nats://127.0.0.1:$nats_port" --node measured-edge --listen "127.0.0.1:$edge_port" \
    >"$work/edge.log" 2>&1 &
edge=$! pids+=($!)

await_ready() {
    for _ in $(seq 200); do
        kill -0 "$2" 2>/dev/null || break
        curl -fs -o /dev/null "http://127.0.0.1:$3/readyz" && return
        sleep 0.1
    done
    echo "measure-ingest: the $1 did not become ready; its log:" >&2
    cat "$work/$1.log" "$work/nats.log" >&2
    exit 1
}
await_ready ingest "$ingest" "$ingest_port"
await_ready edge "$edge" "$edge_port"

if [[ ${PROFILE:-} == 1 ]]; then
    mkdir -p "$target/profile"
    for name in ingest edge; do
        # Ends with the process it watches.
        perf record -q -F 199 --call-graph dwarf,8192 -p "${!name}" -o "$target/profile/$name.data" >/dev/null 2>"$work/perf.log" &
    done
fi

echo "$(uname -srm), $(nproc) cores, $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1); $("$target"/release/telecast --version); $(date -u +%F)"
"$target"/release/examples/collectors --ingest "ws://127.0.0.1:$ingest_port/ws/collector" --clients "ws://127.0.0.1:$edge_port/ws" \
    --collectors "$collectors" --seconds "$seconds" \
    --watch "ingest=$ingest" --watch "nats-server=$nats" --watch "edge=$edge"
# Warnings of the nodes belong to the result.
cat "$work/ingest.log" "$work/edge.log" | grep -a '^{' || true
