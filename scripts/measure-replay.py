#!/usr/bin/env python3
"""What a crowd that comes back costs: scripts/measure-replay.py [clients] [messages]   (1000 and 12000)

Starts nats-server, an ingest node and an edge on free ports and publishes so many messages, far more than the edge's ring (4 MiB
here) holds: by default ten minutes of twenty a second. Then 100 live clients of `telecast load` get another 100 messages a
second and check them, twenty seconds without the crowd and twenty in which it resumes from the beginning, all of it at once.
Prints the live clients' latencies of both, the crowd's time, and how often the stream was read: as the edge counts it, and as
nats-server counts what the edge's connection has asked. TELECAST and NATS_SERVER name other binaries than target/release/telecast
(built first) and .tools/bin/nats-server.
"""
import base64, json, os, pathlib, random, re, selectors, signal, socket, subprocess, sys, tempfile, time, urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIVE_CLIENTS, LIVE_RATE, LIVE_SECONDS, RING = 100, 100, 20, 4 << 20
LINES_PER_POST = 500


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def get(port, path):
    return urllib.request.urlopen(f"http://127.0.0.1:{port}{path}").read().decode()


def metric(port, name):
    found = re.search(rf"^{name} (\S+)$", get(port, "/metrics"), re.M)
    return float(found[1]) if found else 0.0


def wait(what, ready, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if ready():
                return
        except OSError:
            pass
        time.sleep(0.1)
    sys.exit(f"{what}: not within {seconds} s")


def connect(port, query):
    client = socket.create_connection(("127.0.0.1", port))
    key = base64.b64encode(random.randbytes(16)).decode()
    client.sendall(
        f"GET /ws?{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    return client


def publish(port, count):
    """Each line is of another measurement than the one before, so each is a message of its own."""
    for first in range(0, count, LINES_PER_POST):
        lines = "\n".join(
            f"m{number % LINES_PER_POST},host=past,region=eu-1 number={number}i,value={random.random()} {time.time_ns()}"
            for number in range(first, min(first + LINES_PER_POST, count))
        )
        urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/write", lines.encode())


def read_past(port, clients, start, last):
    """All clients from the offset `start`, until each has got the message that holds `last`. Returns the seconds each took."""
    began, buffer, done = time.monotonic(), bytearray(1 << 20), []
    selector = selectors.DefaultSelector()
    for _ in range(clients):
        client = connect(port, f"filter=past.%3E&from={start}")
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
                key.fileobj.close()
    return done


def live(telecast, edge, ingest):
    arguments = [telecast, "load", "--url", f"ws://127.0.0.1:{edge}/ws", "--ingest", f"ws://127.0.0.1:{ingest}/ws/collector"]
    arguments += ["--clients", str(LIVE_CLIENTS), "--publish", "1", "--publish-rate", str(LIVE_RATE), "--threads", "1"]
    arguments += ["--duration", str(LIVE_SECONDS), "--json"]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def asked(http, edge_pid_name):
    connections = json.loads(get(http, "/connz?limit=100"))["connections"]
    return {connection.get("cid"): connection["in_msgs"] for connection in connections}


def main():
    clients = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    messages = int(sys.argv[2]) if len(sys.argv) > 2 else 12_000
    telecast = os.environ.get("TELECAST", str(ROOT / "target/release/telecast"))
    nats_server = os.environ.get("NATS_SERVER", str(ROOT / ".tools/bin/nats-server"))
    if "TELECAST" not in os.environ:
        subprocess.run(["cargo", "build", "--release", "--locked", "--quiet"], cwd=ROOT, check=True)
    nats, http, ingest, edge = (free_port() for _ in range(4))
    environment = {"PATH": os.environ["PATH"], "TELECAST_CONFIG_DIR": "/nonexistent", "LOG_LEVEL": "warn"}
    environment |= {"TELECAST__EDGE__RING_BYTES_MAX": str(RING), "TELECAST__LOG__MAX_BYTES": str(1 << 30)}
    processes = []

    def start(*arguments):
        log = subprocess.DEVNULL if "VERBOSE" not in os.environ else None
        processes.append(subprocess.Popen(arguments, env=environment, stdout=log, stderr=log))
        return processes[-1]

    with tempfile.TemporaryDirectory() as folder:
        try:
            configuration = pathlib.Path(folder) / "nats.conf"
            configuration.write_text(
                f'listen: "127.0.0.1:{nats}"\nhttp: "127.0.0.1:{http}"\njetstream {{ store_dir: "{folder}/store" }}\n'
            )
            start(nats_server, "--config", str(configuration))
            url = f"nats://127.0.0.1:{nats}"
            start(telecast, "ingest", "--nats", url, "--listen", f"127.0.0.1:{ingest}")
            wait("ingest", lambda: get(ingest, "/readyz"))
            before = set(asked(http, ""))
            process = start(telecast, "edge", "--nats", url, "--listen", f"127.0.0.1:{edge}")
            wait("edge", lambda: get(edge, "/readyz"))
            mine = set(asked(http, "")) - before
            first = connect(edge, "filter=nobody.nothing")
            welcome = b""
            while b'"offset":"' not in welcome:
                welcome += first.recv(4096)
            offset = re.search(rb'"offset":"([^"]+)"', welcome)[1].decode()
            first.close()
            publish(ingest, messages)
            last = f'"number":{messages - 1},'.encode()
            print(f"{messages} messages, {clients} clients", flush=True)
            reports = {}
            for name, crowd in [("without", 0), ("with", clients), ("without again", 0)]:
                load = live(telecast, edge, ingest)
                time.sleep(3)
                reads, replayed = metric(edge, "ws_replay_reads_total"), metric(edge, "ws_replayed_bytes_total")
                requests = sum(asked(http, "")[cid] for cid in mine)
                cpu = sum(map(int, open(f"/proc/{process.pid}/stat").read().rsplit(") ", 1)[1].split()[11:13]))
                if crowd:
                    took = sorted(read_past(edge, crowd, offset, last))
                    reads = metric(edge, "ws_replay_reads_total") - reads
                    requests = sum(asked(http, "")[cid] for cid in mine) - requests
                    replayed = metric(edge, "ws_replayed_bytes_total") - replayed
                    cpu = sum(map(int, open(f"/proc/{process.pid}/stat").read().rsplit(") ", 1)[1].split()[11:13])) - cpu
                    print(
                        f"crowd: half done after {took[len(took) // 2]:.1f} s, all after {took[-1]:.1f} s; "
                        f"{replayed / 1e9:.2f} GB, {cpu / os.sysconf('SC_CLK_TCK'):.1f} s of the edge's CPU; "
                        f"{reads:.0f} reads by the edge's count, {requests} requests by nats-server's"
                    )
                reports[name] = json.loads(load.communicate()[0])
            for name, report in reports.items():
                print(f"live, {name}: {json.dumps(report.get('latency_ms') or report.get('latency') or report)}")
        finally:
            for process in reversed(processes):
                process.send_signal(signal.SIGKILL)
                process.wait()


if __name__ == "__main__":
    main()
