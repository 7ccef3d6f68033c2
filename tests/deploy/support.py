"""What all tests of operations files use: the files, the facts they are held to, and processes."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import tomllib
import unittest
import urllib.error
import urllib.request
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".tools"
# Far beyond what any step takes on a busy machine; only a hang reaches it.
PATIENCE_SECONDS = 60
# Of a process's output, when a test fails.
LINES_SHOWN = 40
# Longer waits for what takes its time by nature: SLOW_TESTS=1.
SLOW = os.environ.get("SLOW_TESTS") == "1"


def tool(name):
    """A program that scripts/setup-tools.sh put there, or the machine has."""
    beside = [TOOLS / "bin" / name, TOOLS / "operations/bin" / name]
    found = next((str(path) for path in beside if path.exists()), None) or shutil.which(name)
    if not found:
        raise AssertionError(f"{name} is missing: `make tools` fetches it, `make test-ecosystem` what only that needs; both say what they lack")
    return found


def nats_server():
    return os.environ.get("NATS_SERVER") or tool("nats-server")


def telecast():
    """The program under test: TELECAST, or what cargo built last."""
    if "TELECAST" in os.environ:
        return os.environ["TELECAST"]
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    built = [path for path in (target / "debug/telecast", target / "release/telecast") if path.exists()]
    if not built:
        raise AssertionError("telecast is not built: cargo build")
    return str(max(built, key=lambda path: path.stat().st_mtime))


def read(path):
    return (ROOT / path).read_text()


def documents(text):
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [document for document in yaml.load_all(text, loader) if document]


# ── what the program has ──


def paths(audience=None):
    """Paths that are served, of one audience or all: src/ops/paths.rs."""
    found = re.findall(r'^\s*(client|collector|operator)\(\s*"([^"]+)"', read("src/ops/paths.rs"), re.M)
    assert len(found) > 10, "src/ops/paths.rs has another form than expected"
    return {path for who, path in found if audience in (None, who)}


# Of what is for operators, what anybody may ask through a proxy: balancers before it, and people who look whether it is there.
FOR_ALL = {"/", "/health", "/api/health", "/livez", "/readyz", "/version"}


def metrics():
    """Names of metrics: the table of src/ops/meters.rs, and the few that are written beside it."""
    found = set(re.findall(r'"(ws_[a-z_]+)"', read("src/ops/meters.rs")))
    assert len(found) > 20, "src/ops/meters.rs has another form than expected"
    found |= set(re.findall(r'describe_\w+!\("(ws_[a-z_]+)"', read("src/ops/prometheus.rs")))
    return found


def configuration(role, environment, folder=Path(__file__).parent):
    """What a node in this role would use with this environment: unknown keys and bad values are an error of the program itself.

    The built-in folder is one without files of configuration: one that is not there is refused.
    """
    variables = {**environment, "TELECAST_CONFIG_DIR": str(folder)}
    command = [telecast(), "config", "--role", role]
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert ended.returncode == 0, f"{command} with {variables}: {ended.stderr}"
    return tomllib.loads(ended.stdout)


def drain_seconds(settings, role):
    """How long a node may take from SIGTERM to its end: src/app/mod.rs, `drain`, and its STOP_TIMEOUT."""
    grace = settings["edge"]["drain_grace_ms"]
    work = settings["edge"]["drain_waves_ms"] if role == "edge" else settings["collector"]["write_timeout_ms"]
    return (grace + work) / 1000 + 5


# ── processes ──


def free_port():
    """Below the range from which the kernel takes ports of outgoing connections."""
    while True:
        with socket.socket() as probe:
            port = 12_000 + int.from_bytes(os.urandom(2), "big") % 20_000
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def eventually(what, condition, seconds=PATIENCE_SECONDS):
    """Waits until `condition` gives something, and returns it."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come within {seconds} s")


def get(url):
    """Status and body; None when nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return None


class Process:
    """A program that runs until `stop`; its output is kept, and shown when a test fails."""

    def __init__(self, name, command, environment=None):
        self.name = name
        self.lines = []
        environment = {"PATH": os.environ["PATH"], **(environment or {})}
        self.child = subprocess.Popen(
            [str(word) for word in command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # With a group of its own, so that what it starts ends with it: workers of a proxy outlive one that is killed.
            start_new_session=True,
        )
        # A full pipe would stop the process.
        self.reader = threading.Thread(target=lambda: self.lines.extend(self.child.stdout), daemon=True)
        self.reader.start()

    def running(self):
        return self.child.poll() is None

    def send(self, number):
        if self.running():
            self.child.send_signal(number)

    def stop(self, number=signal.SIGTERM):
        """Asks it to end, and returns its exit code. What it started and left behind ends as well."""
        self.send(number)
        return self.ended()

    def ended(self):
        """Its exit code, once it has ended by itself or by patience's end. Being told twice to stop, a node would not drain."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.wait(PATIENCE_SECONDS)
        # Whoever still has its output open is of its group, so the group's number cannot be somebody else's by now.
        self.reader.join(0.2)
        if self.running() or self.reader.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child.pid, signal.SIGKILL)
        code = self.child.wait()
        self.reader.join(PATIENCE_SECONDS)
        if not self.reader.is_alive():
            self.child.stdout.close()
        return code


class Stage(unittest.TestCase):
    """A test with processes: they end with it, and their last lines are told if it fails."""

    processes = ()

    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.processes = []
        self.addCleanup(self.clear)

    def run(self, result=None):
        def bad():
            return len(result.failures) + len(result.errors)

        before = bad()
        super().run(result)
        for process in self.processes if bad() > before else []:
            print(f"── the end of the output of {process.name}\n{''.join(process.lines[-LINES_SHOWN:])}", flush=True)
        return result

    def clear(self):
        for process in reversed(self.processes):
            process.stop(signal.SIGKILL)

    def start(self, name, command, environment=None):
        process = Process(name, command, environment)
        self.processes.append(process)
        return process

    def answers(self, url, process):
        """Waits until a URL answers 200."""

        def asked():
            self.assertTrue(process.running(), f"{process.name} ended:\n{''.join(process.lines[-LINES_SHOWN:])}")
            answer = get(url)
            return answer if answer and answer[0] == 200 else None

        return eventually(f"an answer of {process.name} at {url}", asked)

    def node(self, role, nats, environment=None, name=None, host="127.0.0.1", port=None):
        """A node of Telecast, on a free port unless one is given: its process, and where it listens. Wait with `ready`."""
        address = f"{host}:{port or free_port()}"
        name = name or f"{role}-{address.replace(':', '-')}"
        variables = {
            "TELECAST_CONFIG_DIR": str(ROOT / "src"),
            "TELECAST__SERVER__LISTEN": address,
            "TELECAST__NODE__ID": name,
            "NATS_URL": nats,
            "TELECAST__EDGE__DRAIN_GRACE_MS": "200",
            "TELECAST__EDGE__DRAIN_WAVES_MS": "200",
            **(environment or {}),
        }
        return self.start(name, [telecast(), role], variables), address

    def ready(self, *nodes):
        for process, address in nodes:
            self.answers(f"http://{address}/readyz", process)

    def one_nats(self):
        """A NATS server by itself; its URL."""
        port = free_port()
        configuration_file = self.folder / f"nats-{port}.conf"
        store = self.folder / f"store-{port}"
        configuration_file.write_text(f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{store}" }}\n')
        process = self.start("nats", [nats_server(), "--config", configuration_file])
        eventually("NATS", lambda: any("Server is ready" in line for line in process.lines))
        return f"nats://127.0.0.1:{port}"

    def load(self, clients_at, collectors_at, clients=20, seconds=3, publish=2, meanwhile=None):
        """`telecast load` through these addresses: its report, after its own check that nothing was lost, repeated or out of order."""
        command = [telecast(), "load", "--json", "--clients", clients, "--duration", f"{seconds}s"]
        command += ["--url", f"ws://{clients_at}/ws", "--ingest", f"ws://{collectors_at}/ws/collector"]
        command += ["--publish", publish, "--publish-rate", 50]
        process = self.start("load", command)
        if meanwhile:
            meanwhile(process)
        eventually("the end of the load", lambda: not process.running(), PATIENCE_SECONDS + seconds)
        process.reader.join(PATIENCE_SECONDS)
        output = "".join(process.lines)
        self.assertEqual(process.child.returncode, 0, output)
        return json.loads(output[output.index("{") :])
