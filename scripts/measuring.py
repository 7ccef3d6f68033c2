"""What the scripts that measure share: nodes of their own on free ports, clients that read, and the edge's own counters.

TELECAST and NATS_SERVER name other binaries than target/release/telecast (built first) and .tools/bin/nats-server; variables that
begin with TELECAST__ configure the nodes; with VERBOSE, the nodes say what they have to say.
"""
import base64, contextlib, http.client, os, pathlib, random, re, selectors, signal, socket, subprocess, sys, tempfile, time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent


def arguments(*defaults):
    """The numbers that the script was called with."""
    return [int(text) for text in [*sys.argv[1:], *map(str, defaults[len(sys.argv) - 1:])]]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def get(port, path):
    return urllib.request.urlopen(f"http://127.0.0.1:{port}{path}").read().decode()


def wait(what, ready, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if ready():
                return
        time.sleep(0.1)
    sys.exit(f"{what}: not within {seconds} s")


class Nodes:
    """A nats-server, an ingest node and an edge, on free ports: `nats`, `monitoring` (nats-server's), `ingest` and `edge`."""

    def __init__(self, telecast, edge_process, **ports):
        self.telecast, self.edge_process = telecast, edge_process
        self.nats, self.monitoring, self.ingest, self.edge = (ports[name] for name in ["nats", "monitoring", "ingest", "edge"])

    def counters(self, *names):
        """Counters of the edge, in the order of their names; then the nanoseconds of CPU that it has used."""
        text = get(self.edge, "/metrics")
        values = [float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)[1]) for name in names]
        tasks = pathlib.Path(f"/proc/{self.edge_process.pid}/task").glob("*/schedstat")
        cpu_ns = sum(int(task.read_text().split()[0]) for task in tasks)
        return [*values, cpu_ns]


@contextlib.contextmanager
def nodes(**settings):
    """Starts the nodes, with these variables besides those that the script was started with, and kills them at the end."""
    telecast = os.environ.get("TELECAST", str(ROOT / "target/release/telecast"))
    nats_server = os.environ.get("NATS_SERVER", str(ROOT / ".tools/bin/nats-server"))
    if "TELECAST" not in os.environ:
        subprocess.run(["cargo", "build", "--release", "--locked", "--bin", "telecast"], cwd=ROOT, check=True)
    ports = {name: free_port() for name in ["nats", "monitoring", "ingest", "edge"]}
    started = []
    with tempfile.TemporaryDirectory() as folder:
        variables = {"TELECAST_CONFIG_DIR": folder, "LOG_LEVEL": "error", "PATH": os.environ["PATH"]} | settings
        variables |= {name: value for name, value in os.environ.items() if name.startswith("TELECAST__")}
        output = None if "VERBOSE" in os.environ else subprocess.DEVNULL

        def start(*command):
            started.append(subprocess.Popen(command, env=variables, stdout=output, stderr=output))
            return started[-1]

        def start_node(role):
            url, listen = f"nats://127.0.0.1:{ports['nats']}", f"127.0.0.1:{ports[role]}"
            process = start(telecast, role, "--nats", url, "--node", role, "--listen", listen)
            wait(role, lambda: get(ports[role], "/readyz"))
            return process

        try:
            listen = ["-a", "127.0.0.1", "-p", str(ports["nats"]), "-m", str(ports["monitoring"])]
            start(nats_server, *listen, "-js", "-sd", folder)
            start_node("ingest")
            yield Nodes(telecast, start_node("edge"), **ports)
        finally:
            for process in reversed(started):
                process.send_signal(signal.SIGKILL)
                process.wait()


class Publisher:
    """A collector's connection to an ingest node."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port)

    def write(self, lines):
        self.connection.request("POST", "/api/v1/write", lines)
        answer = self.connection.getresponse()
        answer.read()
        assert answer.status == 204, answer.status


def connect(port, query="", headers=""):
    """A WebSocket, and the answer to its request with whatever came right behind it."""
    client = socket.create_connection(("127.0.0.1", port))
    key = base64.b64encode(random.randbytes(16)).decode()
    client.sendall(
        f"GET /ws?{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{headers}\r\n".encode()
    )
    answer = client.recv(65536)
    assert answer.startswith(b"HTTP/1.1 101"), answer
    return client, answer


def read_all(clients, connected, stop):
    """Reads whatever comes and looks at nothing: a client's own work is not what is measured."""
    selector = selectors.DefaultSelector()
    for client in clients:
        client.setblocking(False)
        selector.register(client, selectors.EVENT_READ)
    connected.set()
    buffer = bytearray(1 << 20)
    while not stop.is_set():
        for key, _ in selector.select(0.1):
            key.fileobj.recv_into(buffer)
