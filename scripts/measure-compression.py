#!/usr/bin/env python3
"""What compression costs an edge and saves on the wire: scripts/measure-compression.py [clients] [rounds]   (100 and 5)

Starts nats-server, an ingest node and an edge on free ports, publishes messages of about 512 bytes and 4 KiB of JSON, and lets
clients read them uncompressed and compressed by turns. Bytes and messages are the edge's own counters, CPU is
/proc/PID/task/*/schedstat of the edge, its following and encoding included. Medians over the rounds; compare the ratios.
TELECAST and NATS_SERVER name other binaries than target/release/telecast (built first) and .tools/bin/nats-server.
"""
import base64, http.client, multiprocessing, os, pathlib, random, re, selectors, signal, socket, statistics, subprocess
import sys, tempfile, time, urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIZES = {"512 B": 1, "4 KiB": 10}  # lines per message
RATE, SECONDS = 200, 4


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


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
    """Reads whatever comes and looks at nothing: a client's own work is not what is measured."""
    selector = selectors.DefaultSelector()
    for _ in range(clients):
        client = socket.create_connection(("127.0.0.1", port))
        offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n" if deflated else ""
        key = base64.b64encode(random.randbytes(16)).decode()
        client.sendall(
            f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{offer}\r\n".encode()
        )
        answer = client.recv(65536)
        assert answer.startswith(b"HTTP/1.1 101") and (b"permessage-deflate" in answer) == deflated, answer
        client.setblocking(False)
        selector.register(client, selectors.EVENT_READ)
    connected.set()
    buffer = bytearray(1 << 20)
    while not stop.is_set():
        for key, _ in selector.select(0.1):
            key.fileobj.recv_into(buffer)


def counters(port, process):
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    value = lambda name: float(re.search(rf"^{name} (\S+)$", text, re.M)[1])
    tasks = pathlib.Path(f"/proc/{process.pid}/task").glob("*/schedstat")
    cpu_ns = sum(int(task.read_text().split()[0]) for task in tasks)
    return value("ws_messages_sent_total"), value("ws_bytes_sent_total"), cpu_ns


def measure(ports, edge, clients, deflated, count):
    connected, stop = multiprocessing.Event(), multiprocessing.Event()
    reader = multiprocessing.Process(target=read_all, args=(ports["edge"], clients, deflated, connected, stop))
    reader.start()
    connected.wait(30)
    ingest = http.client.HTTPConnection("127.0.0.1", ports["ingest"])

    def publish(seconds):
        start = time.monotonic()
        for sequence in range(int(RATE * seconds)):
            time.sleep(max(0, start + sequence / RATE - time.monotonic()))
            ingest.request("POST", "/api/v1/write", lines(count, sequence))
            answer = ingest.getresponse()
            answer.read()
            assert answer.status == 204, answer.status

    publish(0.5)
    time.sleep(0.3)
    before = counters(ports["edge"], edge)
    publish(SECONDS)
    time.sleep(0.3)
    messages, size, cpu_ns = (after - was for after, was in zip(counters(ports["edge"], edge), before))
    stop.set()
    reader.join()
    expected = RATE * SECONDS * clients
    assert expected <= messages <= expected * 1.01, f"{messages} of {expected} messages"
    return size / messages, cpu_ns / messages / 1000


def main():
    clients, rounds = (int(text) for text in (sys.argv[1:] + ["100", "5"][len(sys.argv) - 1:]))
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
            print(f"{clients} clients, {RATE} messages a second, {rounds} rounds of {SECONDS} s each way")
            print("| message | bytes, plain | compressed | ratio | CPU µs per delivery, plain | compressed | ratio |")
            print("|---|---|---|---|---|---|---|", flush=True)
            for name, count in SIZES.items():
                runs = {False: [], True: []}
                for number in range(rounds):
                    for deflated in [False, True] if number % 2 == 0 else [True, False]:
                        runs[deflated].append(measure(ports, edge, clients, deflated, count))
                plain, deflated = ([statistics.median(column) for column in zip(*runs[way])] for way in [False, True])
                ratios = [statistics.median(d[i] / p[i] for p, d in zip(runs[False], runs[True])) for i in range(2)]
                print(
                    f"| {name} | {plain[0]:.0f} | {deflated[0]:.0f} | {ratios[0]:.2f} "
                    f"| {plain[1]:.2f} | {deflated[1]:.2f} | {ratios[1]:.2f} |",
                    flush=True,
                )
        finally:
            for process in reversed(started):
                process.send_signal(signal.SIGKILL)
                process.wait()


if __name__ == "__main__":
    main()
