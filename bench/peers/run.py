#!/usr/bin/env python3
"""Compares Telecast's edge with other servers that push one stream to many WebSocket clients.

    run.py                        everything (about two hours); prints the tables
    run.py --write                … and puts them into docs/performance.md, with docs/peers.json and docs/peers.svg
    run.py --quick                a short subset, to see that everything works
    run.py sustain                the highest rate that each server still delivers, on all cores
    run.py --peers floor,edge     only these; names with --list

The server has a core of its own; NATS, the publisher and the client have the other. Peers take turns, so that a slow minute of
the machine meets all of them; a cell is the median of its rounds. Build first: `make bench-peers` does.
"""

import argparse
import json
import signal
import statistics
import sys
import time

import catalogue
import report
import setup
from catalogue import EDGE, FLOOR, PEERS, ROOT, Case
from measure import measure
from processes import raise_descriptor_limit

CLIENTS = [100, 1_000, 5_000]
BYTES = [128, 512, 4_096]
BYTES_USUAL = 512
CLIENTS_USUAL = 1_000
CLIENTS_IDLE = 20_000
SUSTAIN_CLIENTS = [1_000, 5_000]
SUSTAIN_FROM = 100_000
SUSTAIN_STEP = 1.25
SUSTAIN_DELIVERIES_MAX = 4_000_000
# Peers that the bars compare; they also get more rounds.
CLOSE = (FLOOR, EDGE)


def main():
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    if args.list:
        for peer in PEERS:
            print(f"{peer.name:16} {peer.label}")
        return
    results_path = args.results
    if args.report:
        results = json.loads(results_path.read_text())
    else:
        args.descriptors = raise_descriptor_limit()
        peers, missing = present(args.peers)
        results = {"machine": report.machine(peers), "missing": missing, "runs": []}
        if not args.quick and results_path.exists() and args.mode == "sustain":
            # The other measurements stay.
            results["runs"] = [run for run in json.loads(results_path.read_text())["runs"] if run["kind"] != "sustain"]
        results["machine"]["command"] = " ".join(["bench/peers/run.py", *sys.argv[1:]])
        plan = sustain if args.mode == "sustain" else compare
        for run in plan(args, peers):
            results["runs"].append(run)
            # What was measured is kept if the rest is interrupted.
            results_path.parent.mkdir(exist_ok=True)
            results_path.write_text(json.dumps(results, indent=1) + "\n")
            print(report.progress(run), file=sys.stderr, flush=True)
    text = report.markdown(results)
    print(text)
    if args.write:
        report.write(text, results)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", nargs="?", choices=["compare", "sustain"], default="compare")
    parser.add_argument("--peers", type=names, default=[peer.name for peer in PEERS], metavar="NAME,…")
    parser.add_argument("--clients", type=numbers, default=CLIENTS, metavar="N,…", help="connections of the cases (100,1000,5000)")
    parser.add_argument("--bytes", type=numbers, default=BYTES, metavar="N,…", help="payloads, at 1,000 clients (128,512,4096)")
    parser.add_argument("--idle", type=int, default=CLIENTS_IDLE, help="idle connections, for memory (20000); 0: none")
    parser.add_argument("--deliveries", type=int, default=100_000, help="per second, over all clients (100000)")
    parser.add_argument("--rounds", type=int, default=5, help="of floor and edge (5)")
    parser.add_argument("--peer-rounds", type=int, default=3, help="of the other peers (3)")
    parser.add_argument("--seconds", type=float, default=10, help="of a measured window (10)")
    parser.add_argument("--warmup", type=float, default=2, help="seconds between connecting and the window (2)")
    parser.add_argument("--quick", action="store_true", help="a subset of less than three minutes; its numbers say little")
    parser.add_argument("--write", action="store_true", help="put the result into docs/")
    parser.add_argument("--report", action="store_true", help="measure nothing: make the report again from the last results")
    parser.add_argument("--list", action="store_true", help="name the peers")
    args = parser.parse_args()
    args.results = report.RESULTS
    if args.quick:
        if args.write:
            parser.error("--quick measures too little to be written down: leave one of the two out")
        args.results = setup.PEERS / "quick.json"
        args.clients, args.bytes, args.idle = [100, 1_000], [BYTES_USUAL], 1_000
        args.rounds = args.peer_rounds = 1
        args.seconds, args.warmup = 1.5, 0.5
    return args


def names(text):
    known = [peer.name for peer in PEERS]
    chosen = text.split(",")
    for name in chosen:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name}: known are {', '.join(known)}")
    return chosen


def numbers(text):
    return [int(number) for number in text.split(",")]


def present(chosen):
    """Peers that can run here; the others, and why they cannot."""
    for binary in [catalogue.TELECAST, catalogue.NATS_SERVER, catalogue.BUILT / "floor"]:
        if not binary.exists():
            sys.exit(f"run.py: {binary} is missing: run `make bench-peers`, which builds and fetches it")
    peers, missing = [], {}
    for peer in PEERS:
        if peer.name in chosen:
            why = peer.missing()
            if why:
                missing[peer.label] = why
            else:
                peers.append(peer)
    return peers, missing


def compare(args, peers):
    """CPU, latency and memory, each peer in its turn."""
    sizes = [(clients, BYTES_USUAL) for clients in args.clients]
    sizes += [(CLIENTS_USUAL, size) for size in args.bytes if size != BYTES_USUAL]
    for clients, size in sizes:
        case = Case(clients, args.deliveries / clients, size)
        for turn in range(max(args.rounds, args.peer_rounds)):
            for peer in peers:
                close = peer.name.startswith(CLOSE)
                if turn < (args.rounds if close else args.peer_rounds):
                    yield run("fan-out", peer, case, measure(peer, case, args.seconds, args.warmup))
    if args.idle:
        if args.descriptors < args.idle + 1_000:
            print(f"run.py: {args.idle} idle connections need that many descriptors, and the limit is {args.descriptors}: "
                  "run as root, or raise it (ulimit -Hn)", file=sys.stderr)
            return
        for peer in peers:
            # Its ways of writing do not change what a connection costs.
            if not peer.name.startswith((f"{FLOOR}-", f"{EDGE}-")):
                case = Case(args.idle, 0, BYTES_USUAL)
                yield run("idle", peer, case, measure(peer, case, args.seconds / 2, args.warmup))


def sustain(args, peers):
    """Raises the rate until deliveries stop following."""
    for clients in SUSTAIN_CLIENTS:
        for peer in peers:
            deliveries = SUSTAIN_FROM
            while deliveries <= SUSTAIN_DELIVERIES_MAX:
                case = Case(clients, deliveries / clients, BYTES_USUAL)
                numbers = measure(peer, case, args.seconds / 2, args.warmup, both_cores=True)
                yield run("sustain", peer, case, numbers)
                if numbers.get("error") or numbers["wrong"]:
                    break
                deliveries *= SUSTAIN_STEP


def run(kind, peer, case, numbers):
    asked = {"clients": case.clients, "bytes": case.bytes, "messages_per_second": case.messages_per_second}
    return {"kind": kind, "peer": peer.name, **asked, **numbers}


if __name__ == "__main__":
    main()
