#!/usr/bin/env python3
"""What newest values cost an edge, and what they spare it: scripts/measure-conflation.py [clients] [rounds]   (1000 and 3)

Starts nats-server, an ingest node and an edge on free ports. A hundred collectors write 10,000 metrics a second altogether, ten of
a measurement to a message; clients, spread over a hundred filters (`web-17.>`), read every value, then the newest once a second
(`interval=1000`), then nobody is there, by turns. Bytes and messages are the edge's own counters, CPU is
/proc/PID/task/*/schedstat of the edge, its following of the log included. Medians over the rounds; compare within a row.
TELECAST and NATS_SERVER name other binaries than target/release/telecast (built first) and .tools/bin/nats-server.
"""
import multiprocessing, statistics, time

import measuring

COLLECTORS, CORES, METRICS_PER_S, SECONDS, WARM_S = 100, 10, 10_000, 8, 3
COLLECTORS_PER_WRITE = 10
WAYS = {"nobody": None, "every value": 0, "interval=1000": 1000}
# Measurements of a collector, each of CORES series; and how often a second it writes them. Either way 1,000 messages a second.
LOADS = {"10,000 series, each once a second": (10, 1), "1,000 series, each ten times a second": (1, 10)}
COUNTERS = ["ws_nats_messages_received_total", "ws_messages_sent_total", "ws_bytes_sent_total", "ws_conflated_metrics_total"]


def write(collectors, measurements, number):
    """One flush of some collectors, as a relay would send it."""
    time_ns = time.time_ns()
    return "\n".join(
        f"m{measurement},core={core},host=web-{collector},region=eu-central-1 "
        f"user={number % 100 + core / 7},system={measurement}.25,idle=83.41,n={number}i {time_ns}"
        for collector in collectors
        for measurement in range(measurements)
        for core in range(CORES)
    )


def publish(port, measurements, writes_per_s, stop):
    """Every collector writes so often a second, some of them together."""
    ingest = measuring.Publisher(port)
    groups = [range(first, first + COLLECTORS_PER_WRITE) for first in range(0, COLLECTORS, COLLECTORS_PER_WRITE)]
    rate, start, sequence = len(groups) * writes_per_s, time.monotonic(), 0
    while not stop.is_set():
        time.sleep(max(0, start + sequence / rate - time.monotonic()))
        number, group = divmod(sequence, len(groups))
        ingest.write(write(groups[group], measurements, number))
        sequence += 1


def read_all(port, clients, interval, connected, stop):
    queries = [f"interval={interval}&filter=web-{number % COLLECTORS}.%3E" for number in range(clients)]
    measuring.read_all([measuring.connect(port, query)[0] for query in queries], connected, stop)


def measure(nodes, clients, interval, load):
    connected, stop = multiprocessing.Event(), multiprocessing.Event()
    peers = [multiprocessing.Process(target=publish, args=(nodes.ingest, *load, stop))]
    if interval is not None:
        reading = (nodes.edge, clients, interval, connected, stop)
        peers.append(multiprocessing.Process(target=read_all, args=reading))
        peers[-1].start()
        assert connected.wait(60), "clients do not connect"
    peers[0].start()
    time.sleep(WARM_S)
    before, began = nodes.counters(*COUNTERS), time.monotonic()
    time.sleep(SECONDS)
    after, elapsed = nodes.counters(*COUNTERS), time.monotonic() - began
    stop.set()
    for peer in peers:
        peer.join()
    time.sleep(0.5)
    received, *sent, cpu_ns = (now - was for now, was in zip(after, before))
    expected = METRICS_PER_S / CORES * elapsed
    assert received > expected * 0.95, f"{received} of {expected:.0f} envelopes: this machine is too busy"
    return [count / elapsed for count in sent] + [cpu_ns / elapsed / 1e7]


def main():
    clients, rounds = measuring.arguments(1000, 3)
    with measuring.nodes() as nodes:
        print(f"{clients} clients over {COLLECTORS} filters, {METRICS_PER_S} metrics a second, {rounds} rounds of {SECONDS} s")
        print("| written | clients get | messages a second | MB a second | metrics conflated a second | CPU of the edge, % of a core |")
        print("|---|---|---|---|---|---|", flush=True)
        for name, load in LOADS.items():
            runs = {way: [] for way in WAYS}
            for number in range(rounds):
                ways = list(WAYS) if number % 2 == 0 else list(reversed(WAYS))
                for way in ways:
                    runs[way].append(measure(nodes, clients, WAYS[way], load))
            for way, columns in runs.items():
                messages, size, conflated, cpu = (statistics.median(column) for column in zip(*columns))
                print(f"| {name} | {way} | {messages:,.0f} | {size / 1e6:.1f} | {conflated:,.0f} | {cpu:.1f} |", flush=True)


if __name__ == "__main__":
    main()
