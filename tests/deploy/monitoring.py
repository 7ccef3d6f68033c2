"""What the tests of rules, routes and boards share: the files, what is in them, and the exporter of NATS."""

import http.server
import json
import re
import subprocess
import threading
import tomllib
from functools import cache

import yaml

from support import PATIENCE_SECONDS, ROOT, Process, eventually, free_port, get, metrics, read, tool

BOARDS = sorted((ROOT / "grafana/provisioning/dashboards").glob("*.json"))
RULES = sorted((ROOT / "prometheus/rules").glob("*.yml"))
RULE_TESTS = sorted((ROOT / "prometheus/tests").glob("*.yml"))
VARIABLES = ["datasource", "cluster", "namespace", "node"]
# The one that always fires, and is no alert of anything.
WATCHDOG = "Watchdog"
# Of NATS' exporter: `-varz` gives every number of /varz, `-jsz=all` those of JetStream. Where the server does not answer, the former
# stay as they were and the latter are gone, and `up` of the exporter stays 1.
EXPORTED = {
    "jetstream_server_jetstream_disabled",
    "jetstream_server_total_message_bytes",
    "jetstream_server_max_storage",
    "jetstream_stream_last_seq",
    "gnatsd_varz_connections",
    "gnatsd_varz_slow_consumers",
}
# Everybody's.
COMMON = {"up", "ALERTS", "process_start_time_seconds"}
# Not from the table of metrics, but of the program.
BESIDE = {"ws_server_state", "ws_build_info", "ws_collector_lines_per_second"}


def check(*command, **options):
    ended = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300, **options)
    assert ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"
    return ended.stdout


@cache
def rules():
    groups = [group for file in RULES for group in yaml.safe_load(file.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def alerts():
    return [rule for rule in rules() if "alert" in rule]


def runbook(alert):
    """File and heading of an alert's runbook, in this repository, which its address names by Cargo.toml's."""
    where = tomllib.loads(read("Cargo.toml"))["package"]["repository"] + "/blob/main/"
    url = alert["annotations"]["runbook_url"]
    assert url.startswith(where), f"{alert['alert']}: {url} does not begin with {where}"
    return url.removeprefix(where)


def all_panels(board):
    """Rows, what they hold when they are closed, and the rest."""
    for panel in board["panels"]:
        yield panel
        yield from panel.get("panels", [])


def panels():
    """Board, title and expression of every query."""
    for file in BOARDS:
        board = json.loads(file.read_text())
        for panel in all_panels(board):
            for target in panel.get("targets", []):
                yield board["title"], panel["title"], target["expr"]


def annotations():
    """Board, name and expression of what is drawn across all panels."""
    for file in BOARDS:
        board = json.loads(file.read_text())
        for note in board["annotations"]["list"]:
            if "expr" in note:
                yield board["title"], note["name"], note["expr"]


def shows_alerts(panel):
    """Whether a panel, as `panels` gives it, is empty while all is well."""
    return panel[1] in ("Firing alerts", "Alerts over time")


def named(expression):
    """Names of metrics in an expression, without the suffixes of histograms."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    words = re.findall(r"\b(?:ws_|telecast:|jetstream_|gnatsd_|process_|up\b|ALERTS\b)[a-zA-Z0-9_:]*", bare)
    return {re.sub(r"_bucket$", "", word) for word in words}


def known():
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    return metrics() | recorded | EXPORTED | COMMON | BESIDE


class Exporter:
    """NATS' exporter, as docker-compose.yml and k8s start it, until `stop`."""

    def __init__(self, monitor):
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        options = ["-addr", "127.0.0.1", f"-port={port}", "-varz", "-connz", "-healthz", "-jsz=all"]
        self.process = Process("nats-exporter", [tool("prometheus-nats-exporter"), *options, monitor])
        eventually("NATS' exporter", lambda: get(f"http://{self.address}/metrics"), PATIENCE_SECONDS)

    def stop(self):
        self.process.stop()


class Webhook:
    """What Alertmanager calls at `url`, until `stop`. Each alert of a call goes to `take`, with the path."""

    def __init__(self):
        take = self.take

        class Take(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                for alert in message["alerts"]:
                    take(self.path, alert)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Take)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
