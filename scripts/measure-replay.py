#!/usr/bin/env python3
"""What a crowd that comes back costs: scripts/measure-replay.py [clients] [messages]   (1000 and 12000)

Starts nats-server, an ingest node and an edge on free ports and publishes so many messages, far more than the edge's ring (4 MiB
here) holds: by default ten minutes of twenty a second. Then 100 live clients of `telecast load` get another 100 messages a
second and check them, twenty seconds without the crowd and twenty in which it resumes from the beginning, all of it at once.
Prints the live clients' latencies of both, the crowd's time, and how often the stream was read: as the edge counts it, and as
nats-server counts what the edge's connection has asked. TELECAST and NATS_SERVER name other binaries than target/release/telecast
(built first) and .tools/bin/nats-server.
"""
import json, os, random, re, selectors, subprocess, time

import measuring

LIVE_CLIENTS, LIVE_RATE, LIVE_SECONDS, RING = 100, 100, 20, 4 << 20
LINES_PER_POST = 500


def publish(port, count):
    """Each line is of another measurement than the one before, so each is a message of its own."""
    ingest = measuring.Publisher(port)
    for first in range(0, count, LINES_PER_POST):
        lines = "\n".join(
            f"m{number % LINES_PER_POST},host=past,region=eu-1 number={number}i,value={random.random()} {time.time_ns()}"
            for number in range(first, min(first + LINES_PER_POST, count))
        )
        ingest.write(lines)


def read_past(port, clients, start, last):
    """All clients from the offset `start`, until each has got the message that holds `last`. Returns the seconds each took.

    Nobody hangs up before all are done: a client that leaves ends the read it had just asked for, and that would be counted.
    """
    began, buffer, done, clients_done = time.monotonic(), bytearray(1 << 20), [], []
    selector = selectors.DefaultSelector()
    for _ in range(clients):
        client, _ = measuring.connect(port, f"filter=past.%3E&from={start}")
        client.setblocking(False)
        selector.register(client, selectors.EVENT_READ, bytearray())
    while len(done) < clients:
        assert time.monotonic() - began < 300, f"{clients - len(done)} clients have not got everything"
        for key, _ in selector.select(1):
            count = key.fileobj.recv_into(buffer)
            assert count, "the edge hung up"
            # The end of what came before, for a message that was cut in two.
            tail = bytes(key.data[-64:]) + bytes(buffer[:count][-2048:])
            key.data[:] = tail[-64:]
            if last in tail:
                done.append(time.monotonic() - began)
                selector.unregister(key.fileobj)
                clients_done.append(key.fileobj)
    for client in clients_done:
        client.close()
    return done


def live(nodes):
    arguments = [nodes.telecast, "load", "--url", f"ws://127.0.0.1:{nodes.edge}/ws"]
    arguments += ["--ingest", f"ws://127.0.0.1:{nodes.ingest}/ws/collector"]
    arguments += ["--clients", str(LIVE_CLIENTS), "--publish", "1", "--publish-rate", str(LIVE_RATE), "--threads", "1"]
    arguments += ["--duration", str(LIVE_SECONDS), "--json"]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def counters(nodes):
    """What the edge has read of the stream, by its own count and by nats-server's, what it has replayed, and its CPU."""
    reads, replayed, cpu_ns = nodes.counters("ws_replay_reads_total", "ws_replayed_bytes_total")
    connections = json.loads(measuring.get(nodes.monitoring, "/connz?limit=100"))["connections"]
    requests = [each["in_msgs"] for each in connections if each.get("name", "").startswith("telecast edge ")]
    assert requests, f"nats-server knows no connection of the edge: {connections}"
    return reads, sum(requests), replayed, cpu_ns


def first_offset(port):
    """Where the log is now."""
    client, answer = measuring.connect(port, "filter=nobody.nothing")
    while b'"offset":"' not in answer:
        answer += client.recv(4096)
    client.close()
    return re.search(rb'"offset":"([^"]+)"', answer)[1].decode()


def main():
    clients, messages = measuring.arguments(1000, 12_000)
    settings = {"TELECAST__EDGE__RING_BYTES_MAX": str(RING), "TELECAST__LOG__MAX_BYTES": str(1 << 30)}
    with measuring.nodes(**settings) as nodes:
        offset = first_offset(nodes.edge)
        publish(nodes.ingest, messages)
        last = f'"number":{messages - 1},'.encode()
        print(f"{messages} messages, {clients} clients", flush=True)
        reports = {}
        for name, crowd in [("without", 0), ("with", clients), ("without again", 0)]:
            load = live(nodes)
            time.sleep(3)
            before = counters(nodes)
            if crowd:
                took = sorted(read_past(nodes.edge, crowd, offset, last))
                reads, requests, replayed, cpu_ns = (now - was for now, was in zip(counters(nodes), before))
                print(
                    f"crowd: half done after {took[len(took) // 2]:.1f} s, all after {took[-1]:.1f} s; "
                    f"{replayed / 1e9:.2f} GB, {cpu_ns / 1e9:.1f} s of the edge's CPU; "
                    f"{reads:.0f} reads by the edge's count, {requests} requests by nats-server's"
                )
            reports[name] = json.loads(load.communicate()[0])
        for name, report in reports.items():
            print(f"live, {name}: {json.dumps(report.get('latency_ms') or report.get('latency') or report)}")


if __name__ == "__main__":
    main()
