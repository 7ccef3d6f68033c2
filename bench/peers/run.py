#!/usr/bin/env python3
"""Compares Telecast's edge with other servers that push one stream to many WebSocket clients.

    run.py                        everything (about two hours); prints the tables
    run.py --write                … and puts them into docs/performance.md, with docs/peers.json and docs/peers.svg, at its end
    run.py --quick                a short subset, to see that everything works
    run.py sustain                the highest rate that each server still delivers, on all cores
    run.py --peers floor,edge     only these; names with --list

The server has a core of its own; NATS, the publisher and the client have the other. Peers take turns, so that a slow minute of
the machine meets all of them; a cell is the median of its rounds. Build first: `make bench-peers` does.
"""

import argparse
import json
import signal
import sys

import catalogue
import report
import setup
from catalogue import EDGE, FLOOR, PEERS, Case
from measure import measure
from processes import raise_descriptor_limit

CLIENTS = [100, 1_000, 5_000]
BYTES = [128, 512, 4_096]
BYTES_USUAL = 512
# Where results stand while --write measures, to look at; it goes when they are in docs/.
UNFINISHED = setup.PEERS / "unfinished.json"
CLIENTS_USUAL = 1_000
CLIENTS_IDLE = 20_000
# What servers keep for themselves; an edge sets 256 aside.
DESCRIPTORS_KEPT = 300
SUSTAIN_CLIENTS = [1_000, 5_000]
SUSTAIN_FROM = 100_000
SUSTAIN_STEP = 1.25
# A rate is too high only if it failed more than once: the machine has its moments.
SUSTAIN_ATTEMPTS = 2
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
    if args.write:
        # Not only after hours of measuring.
        report.page_around()
    results = json.loads(args.results.read_text()) if args.results.exists() else {}
    if not args.report:
        args.descriptors = raise_descriptor_limit()
        peers, missing = present(args.peers)
        command = " ".join(["bench/peers/run.py", *sys.argv[1:]])
        # The other mode's results stay.
        part = results[args.mode] = {"machine": report.machine(peers), "command": command, "missing": missing, "runs": []}
        plan = sustain if args.mode == "sustain" else compare
        for one in plan(args, peers):
            part["runs"].append(one)
            # What was measured is kept if the rest is interrupted; docs/ stays whole until the end.
            report.replace(UNFINISHED if args.write else args.results, report.as_json(results))
            print(report.progress(one), file=sys.stderr, flush=True)
    text = report.markdown(results)
    print(text)
    if args.write:
        report.write(text, results)
        UNFINISHED.unlink(missing_ok=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", nargs="?", choices=["compare", "sustain"], default="compare")
    parser.add_argument("--peers", type=names, default=[peer.name for peer in PEERS], metavar="NAME,…")
    parser.add_argument("--clients", type=numbers, default=CLIENTS, metavar="N,…", help="connections of the cases (100,1000,5000)")
    parser.add_argument("--bytes", type=numbers, default=BYTES, metavar="N,…", help="payloads, at 1,000 clients (128,512,4096)")
    parser.add_argument("--payload-peers", type=names, metavar="NAME,…", help="measure payloads other than 512 with these only")
    parser.add_argument("--idle", type=int, default=CLIENTS_IDLE, help="idle connections, for memory (20000); 0: none")
    parser.add_argument("--deliveries", type=int, default=100_000, help="per second, over all clients (100000)")
    parser.add_argument("--rounds", type=int, default=5, help="of floor and edge (5)")
    parser.add_argument("--peer-rounds", type=int, default=3, help="of the other peers (3)")
    parser.add_argument("--seconds", type=float, default=10, help="of a measured window (10)")
    parser.add_argument("--idle-seconds", type=float, default=20, help="that idle connections are held: longer than heartbeats (20)")
    parser.add_argument("--warmup", type=float, default=2, help="seconds between connecting and the window (2)")
    parser.add_argument("--quick", action="store_true", help="a subset of less than three minutes; its numbers say little")
    parser.add_argument("--write", action="store_true", help="put the result into docs/")
    parser.add_argument("--report", action="store_true", help="measure nothing: make the report again, with --write from docs/peers.json")
    parser.add_argument("--list", action="store_true", help="name the peers")
    args = parser.parse_args()
    args.results = report.RESULTS if args.write else setup.PEERS / "results.json"
    if args.report and not args.results.exists():
        parser.error(f"{args.results} does not exist: measure first")
    if args.quick:
        if args.write:
            parser.error("--quick measures too little to be written down: leave one of the two out")
        args.clients, args.bytes, args.idle = [100, 1_000], [BYTES_USUAL], 1_000
        args.rounds = args.peer_rounds = 1
        args.seconds, args.idle_seconds, args.warmup = 1.5, 1.5, 0.5
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
    with_payloads = [peer for peer in peers if not args.payload_peers or peer.name in args.payload_peers]
    for clients, size in sizes:
        case = Case(clients, args.deliveries / clients, size)
        for turn in range(max(args.rounds, args.peer_rounds)):
            for peer in peers if size == BYTES_USUAL else with_payloads:
                close = peer.name.startswith(CLOSE)
                if turn < (args.rounds if close else args.peer_rounds):
                    yield run("fan-out", turn, peer, case, measure(peer, case, args.seconds, args.warmup))
    held = min(args.idle, args.descriptors - DESCRIPTORS_KEPT)
    if held < args.idle:
        print(
            f"run.py: {held} idle connections instead of {args.idle}: the limit of descriptors is {args.descriptors}; raise it with "
            "`ulimit -Hn` where the system lets you",
            file=sys.stderr,
        )
    for peer in peers if held > 0 else []:
        # Its ways of writing do not change what a connection costs.
        if not peer.name.startswith((f"{FLOOR}-", f"{EDGE}-")):
            case = Case(held, 0, BYTES_USUAL)
            yield run("idle", 0, peer, case, measure(peer, case, args.idle_seconds, args.warmup))


def sustain(args, peers):
    """Raises the rate until deliveries stop following."""
    for clients in SUSTAIN_CLIENTS:
        for peer in peers:
            deliveries, failures = SUSTAIN_FROM, 0
            while deliveries <= SUSTAIN_DELIVERIES_MAX and failures < SUSTAIN_ATTEMPTS:
                case = Case(clients, deliveries / clients, BYTES_USUAL)
                numbers = measure(peer, case, args.seconds / 2, args.warmup, sustained=True)
                yield run("sustain", failures, peer, case, numbers)
                if numbers.get("error") or numbers["wrong"]:
                    failures += 1
                else:
                    deliveries, failures = deliveries * SUSTAIN_STEP, 0


def run(kind, turn, peer, case, numbers):
    asked = {"clients": case.clients, "bytes": case.bytes, "messages_per_second": case.messages_per_second}
    return {"kind": kind, "turn": turn, "peer": peer.name, **asked, **numbers}


if __name__ == "__main__":
    main()
