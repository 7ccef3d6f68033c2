#!/usr/bin/env python3
"""What compression costs an edge and saves on the wire: scripts/measure-compression.py [clients] [rounds]   (100 and 5)

Starts nats-server, an ingest node and an edge on free ports, publishes messages of about 512 bytes and 4 KiB of JSON, and lets
clients read them uncompressed and compressed by turns. Bytes and messages are the edge's own counters, CPU is
/proc/PID/task/*/schedstat of the edge, its following and encoding included. Medians over the rounds; compare the ratios.
TELECAST and NATS_SERVER name other binaries than target/release/telecast (built first) and .tools/bin/nats-server.
"""
import multiprocessing, random, statistics, time

import measuring

SIZES = {"512 B": 1, "4 KiB": 10}  # lines per message
RATE, SECONDS = 200, 4
OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"


def lines(count, sequence):
    """As Telegraf writes it: usage with all its digits."""
    def usage():
        return repr(random.randrange(1000) / 10 + random.randrange(5) * 1e-13)

    fields = ["user", "system", "idle", "iowait", "steal", "nice", "softirq", "irq", "guest"]
    time_ns = time.time_ns()
    return "\n".join(
        f"cpu,cpu=cpu{core},host=web-01.example.org,region=eu-central-1 "
        + ",".join(f"usage_{field}={usage()}" for field in fields)
        + f",sequence={sequence}i {time_ns}"
        for core in range(count)
    )


def read_all(port, clients, deflated, connected, stop):
    def reader():
        client, answer = measuring.connect(port, headers=OFFER if deflated else "")
        assert (b"permessage-deflate" in answer) == deflated, answer
        return client

    measuring.read_all([reader() for _ in range(clients)], connected, stop)


def measure(nodes, clients, deflated, count):
    connected, stop = multiprocessing.Event(), multiprocessing.Event()
    reader = multiprocessing.Process(target=read_all, args=(nodes.edge, clients, deflated, connected, stop))
    reader.start()
    assert connected.wait(30), "clients do not connect"
    ingest = measuring.Publisher(nodes.ingest)

    def publish(seconds):
        start = time.monotonic()
        for sequence in range(int(RATE * seconds)):
            time.sleep(max(0, start + sequence / RATE - time.monotonic()))
            ingest.write(lines(count, sequence))

    def counters():
        return nodes.counters("ws_messages_sent_total", "ws_bytes_sent_total")

    publish(0.5)
    time.sleep(0.3)
    before = counters()
    publish(SECONDS)
    time.sleep(0.3)
    messages, size, cpu_ns = (after - was for after, was in zip(counters(), before))
    stop.set()
    reader.join()
    expected = RATE * SECONDS * clients
    assert expected <= messages <= expected * 1.01, f"{messages} of {expected} messages"
    return size / messages, cpu_ns / messages / 1000


def main():
    clients, rounds = measuring.arguments(100, 5)
    with measuring.nodes() as nodes:
        print(f"{clients} clients, {RATE} messages a second, {rounds} rounds of {SECONDS} s each way")
        print("| message | bytes, plain | compressed | ratio | CPU µs per delivery, plain | compressed | ratio |")
        print("|---|---|---|---|---|---|---|", flush=True)
        for name, count in SIZES.items():
            runs = {False: [], True: []}
            for number in range(rounds):
                for deflated in [False, True] if number % 2 == 0 else [True, False]:
                    runs[deflated].append(measure(nodes, clients, deflated, count))
            plain, deflated = ([statistics.median(column) for column in zip(*runs[way])] for way in [False, True])
            ratios = [statistics.median(d[i] / p[i] for p, d in zip(runs[False], runs[True])) for i in range(2)]
            print(
                f"| {name} | {plain[0]:.0f} | {deflated[0]:.0f} | {ratios[0]:.2f} "
                f"| {plain[1]:.2f} | {deflated[1]:.2f} | {ratios[1]:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
