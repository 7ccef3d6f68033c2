#!/usr/bin/env python3
"""What newest values cost an edge, and what they spare it: scripts/measure-conflation.py [clients] [rounds]   (1000 and 3)

Starts nats-server, an ingest node and an edge on free ports. A hundred collectors write 10,000 metrics a second altogether, ten of
a measurement to a message; clients, spread over a hundred filters (`web-17.>`), read every value, then the newest once a second
(`interval=1000`), then nobody is there, by turns. Bytes and messages are the edge's own counters, CPU is
/proc/PID/task/*/schedstat of the edge, its following of the log included. Medians over the rounds; compare within a row.
TELECAST and NATS_SERVER name other binaries than target/release/telecast (built first) and .tools/bin/nats-server.
"""
import base64, http.client, multiprocessing, os, pathlib, random, re, selectors, signal, socket, statistics, subprocess
import sys, tempfile, time, urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
COLLECTORS, CORES, METRICS_PER_S, SECONDS, WARM_S = 100, 10, 10_000, 8, 3
COLLECTORS_PER_WRITE = 10
WAYS = {"nobody": None, "every value": 0, "interval=1000": 1000}
# Measurements of a collector, each of CORES series; and how often a second it writes them. Either way 1,000 messages a second.
LOADS = {"10,000 series, each once a second": (10, 1), "1,000 series, each ten times a second": (1, 10)}


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


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
    ingest = http.client.HTTPConnection("127.0.0.1", port)
    groups = [range(first, first + COLLECTORS_PER_WRITE) for first in range(0, COLLECTORS, COLLECTORS_PER_WRITE)]
    rate, start, sequence = len(groups) * writes_per_s, time.monotonic(), 0
    while not stop.is_set():
        time.sleep(max(0, start + sequence / rate - time.monotonic()))
        number, group = divmod(sequence, len(groups))
        ingest.request("POST", "/api/v1/write", write(groups[group], measurements, number))
        answer = ingest.getresponse()
        answer.read()
        assert answer.status == 204, answer.status
        sequence += 1


def read_all(port, clients, interval, connected, stop):
    """Reads whatever comes and looks at nothing: a client's own work is not what is measured."""
    selector = selectors.DefaultSelector()
    for number in range(clients):
        client = socket.create_connection(("127.0.0.1", port))
        key = base64.b64encode(random.randbytes(16)).decode()
        client.sendall(
            f"GET /ws?interval={interval}&filter=web-{number % COLLECTORS}.%3E HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        answer = client.recv(65536)
        assert answer.startswith(b"HTTP/1.1 101"), answer
        client.setblocking(False)
        selector.register(client, selectors.EVENT_READ)
    connected.set()
    buffer = bytearray(1 << 20)
    while not stop.is_set():
        for key, _ in selector.select(0.1):
            key.fileobj.recv_into(buffer)


def counters(port, process):
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    value = lambda name: float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)[1])
    tasks = pathlib.Path(f"/proc/{process.pid}/task").glob("*/schedstat")
    cpu_ns = sum(int(task.read_text().split()[0]) for task in tasks)
    names = ["ws_nats_messages_received_total", "ws_messages_sent_total", "ws_bytes_sent_total", "ws_conflated_metrics_total"]
    return [*map(value, names), cpu_ns]


def measure(ports, edge, clients, interval, load):
    connected, stop = multiprocessing.Event(), multiprocessing.Event()
    peers = [multiprocessing.Process(target=publish, args=(ports["ingest"], *load, stop))]
    if interval is not None:
        reading = (ports["edge"], clients, interval, connected, stop)
        peers.append(multiprocessing.Process(target=read_all, args=reading))
        peers[-1].start()
        connected.wait(60)
    peers[0].start()
    time.sleep(WARM_S)
    before, began = counters(ports["edge"], edge), time.monotonic()
    time.sleep(SECONDS)
    after, elapsed = counters(ports["edge"], edge), time.monotonic() - began
    stop.set()
    for peer in peers:
        peer.join()
    time.sleep(0.5)
    received, *sent, cpu_ns = (now - was for now, was in zip(after, before))
    expected = METRICS_PER_S / CORES * elapsed
    assert received > expected * 0.95, f"{received} of {expected:.0f} envelopes: this machine is too busy"
    return [count / elapsed for count in sent] + [cpu_ns / elapsed / 1e7]


def main():
    clients, rounds = (int(text) for text in (sys.argv[1:] + ["1000", "3"][len(sys.argv) - 1:]))
    telecast = os.environ.get("TELECAST", ROOT / "target/release/telecast")
    if "TELECAST" not in os.environ:
        subprocess.run(["cargo", "build", "--release", "--locked", "--bin", "telecast"], cwd=ROOT, check=True)
    ports = {name: free_port() for name in ["nats", "ingest", "edge"]}
    started = []
    with tempfile.TemporaryDirectory() as folder:
        variables = {"TELECAST_CONFIG_DIR": folder, "LOG_LEVEL": "error", "PATH": os.environ["PATH"]}
        variables |= {name: value for name, value in os.environ.items() if name.startswith("TELECAST__")}

        def start(*command):
            started.append(subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            return started[-1]

        try:
            nats = os.environ.get("NATS_SERVER", ROOT / ".tools/bin/nats-server")
            start(nats, "-a", "127.0.0.1", "-p", str(ports["nats"]), "-js", "-sd", folder)
            url = f"nats://127.0.0.1:{ports['nats']}"
            start(telecast, "ingest", "--nats", url, "--node", "ingest", "--listen", f"127.0.0.1:{ports['ingest']}")
            edge = start(telecast, "edge", "--nats", url, "--node", "edge", "--listen", f"127.0.0.1:{ports['edge']}")
            for name in ["ingest", "edge"]:
                for _ in range(200):
                    try:
                        urllib.request.urlopen(f"http://127.0.0.1:{ports[name]}/readyz")
                        break
                    except OSError:
                        time.sleep(0.1)
            print(f"{clients} clients over {COLLECTORS} filters, {METRICS_PER_S} metrics a second, {rounds} rounds of {SECONDS} s")
            print("| written | clients get | messages a second | MB a second | metrics conflated a second | CPU of the edge, % of a core |")
            print("|---|---|---|---|---|---|", flush=True)
            for name, load in LOADS.items():
                runs = {way: [] for way in WAYS}
                for number in range(rounds):
                    ways = list(WAYS) if number % 2 == 0 else list(reversed(WAYS))
                    for way in ways:
                        runs[way].append(measure(ports, edge, clients, WAYS[way], load))
                for way, columns in runs.items():
                    messages, size, conflated, cpu = (statistics.median(column) for column in zip(*columns))
                    print(f"| {name} | {way} | {messages:,.0f} | {size / 1e6:.1f} | {conflated:,.0f} | {cpu:.1f} |", flush=True)
        finally:
            for process in reversed(started):
                process.send_signal(signal.SIGKILL)
                process.wait()


if __name__ == "__main__":
    main()
