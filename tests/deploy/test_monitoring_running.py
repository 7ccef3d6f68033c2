"""Rules, routes and boards at work over a running cluster.

Nodes, NATS and its exporter, Prometheus and Alertmanager are real. What stands in is Grafana: the queries of its boards are asked of
Prometheus.
"""

import base64
import json
import os
import signal
import socket
import threading
import unittest
import urllib.parse
import urllib.request

import yaml

from monitoring import BOARDS, RULES, Exporter, Webhook, annotations, panels, shows_alerts
from support import ROOT, Stage, eventually, free_port, get, nats_server, read, telecast, tool


class Receiver(Webhook):
    """The first alert of each name that Alertmanager has sent, and to which of its paths."""

    def __init__(self):
        self.got = {}
        super().__init__()

    def take(self, path, alert):
        if alert["status"] == "firing":
            self.got.setdefault(alert["labels"]["alertname"], (path, alert))


class Running(Stage):
    """Two ingests, three edges, NATS, Prometheus and Alertmanager, with the files as they are shipped. Only what would take an
    hour to see is shortened: scrapes every second, and alerts that need not last."""

    prometheus_program = "prometheus"

    def setUp(self):
        super().setUp()
        self.receiver = Receiver()
        self.addCleanup(self.receiver.stop)
        self.nats_port, self.monitor_port = free_port(), free_port()
        self.start_nats()
        nats = f"nats://127.0.0.1:{self.nats_port}"
        self.exporter = Exporter(f"http://127.0.0.1:{self.monitor_port}")
        self.addCleanup(self.exporter.stop)
        # Room for few, so that a crowd fills it.
        few = {"WS_MAX_CONNECTIONS": "20"}
        self.ingests = [self.node("ingest", nats, name=f"ingest-{number}") for number in (1, 2)]
        self.edges = [self.node("edge", nats, few, f"edge-{number}") for number in (1, 2, 3)]
        self.ready(*self.ingests, *self.edges)
        self.start_alertmanager()
        self.start_prometheus()

    def start_nats(self):
        file = self.folder / "nats.conf"
        store = self.folder / "store"
        file.write_text(
            f'listen: "127.0.0.1:{self.nats_port}"\nhttp: "127.0.0.1:{self.monitor_port}"\njetstream {{ store_dir: "{store}" }}\n'
        )
        self.nats = self.start("nats", [nats_server(), "--config", file])
        eventually("NATS", lambda: any("Server is ready" in line for line in self.nats.lines))

    def start_alertmanager(self):
        file = yaml.safe_load(read("alertmanager/alertmanager.yml"))
        file["templates"] = [str(ROOT / "alertmanager/templates/*.tmpl")]
        for receiver in file["receivers"]:
            receiver["webhook_configs"] = [{"url": f"{self.receiver.url}/{receiver['name']}"}]
        for route in (file["route"], *file["route"]["routes"]):
            route["group_wait"] = route["group_interval"] = "1s"
        own = self.folder / "alertmanager.yml"
        own.write_text(yaml.safe_dump(file))
        self.alertmanager = f"127.0.0.1:{free_port()}"
        command = [tool("alertmanager"), f"--config.file={own}", f"--storage.path={self.folder}/alerts"]
        process = self.start("alertmanager", [*command, f"--web.listen-address={self.alertmanager}", "--cluster.listen-address="])
        self.answers(f"http://{self.alertmanager}/-/ready", process)

    def start_prometheus(self):
        file = yaml.safe_load(read("prometheus.yml"))
        file["global"].update(scrape_interval="1s", scrape_timeout="1s", evaluation_interval="1s")
        self.prometheus = f"127.0.0.1:{free_port()}"
        # Names that Docker would look up are addresses here; nothing else of the file changes.
        found = {
            "ingest": [address for _, address in self.ingests],
            "edge": [address for _, address in self.edges],
            "nats-exporter": [self.exporter.address],
            "alertmanager": [self.alertmanager],
        }
        for part in (*file["scrape_configs"], *file["alerting"]["alertmanagers"]):
            names = [name for discovery in part.pop("dns_sd_configs", []) for name in discovery["names"]]
            targets = [address for name in names for address in found.get(name, [])]
            part["static_configs"] = [{"targets": targets or [self.prometheus]}]
        folder = self.folder / "rules"
        folder.mkdir()
        for rule in RULES:
            groups = yaml.safe_load(rule.read_text())
            for alert in (alert for group in groups["groups"] for alert in group["rules"] if "alert" in alert):
                # Prometheus itself knows nobody before its first scrape, and on a busy machine misses one now and then.
                alert["for"] = {"TelecastNodeDown": "5s"}.get(alert["alert"], "10s" if "Absent" in alert["alert"] else "1s")
            (folder / rule.name).write_text(yaml.safe_dump(groups))
        file["rule_files"] = [f"{folder}/*.yml"]
        own = self.folder / "prometheus.yml"
        own.write_text(yaml.safe_dump(file))
        command = [tool(self.prometheus_program), f"--config.file={own}", f"--storage.tsdb.path={self.folder}/series"]
        process = self.start("prometheus", [*command, f"--web.listen-address={self.prometheus}"])
        self.answers(f"http://{self.prometheus}/-/ready", process)

    def ask(self, expression):
        query = urllib.parse.urlencode({"query": expression})
        status, body = get(f"http://{self.prometheus}/api/v1/query?{query}")
        self.assertEqual(status, 200, f"{expression}: {body}")
        return json.loads(body)["data"]["result"]

    def targets(self):
        return json.loads(get(f"http://{self.prometheus}/api/v1/targets")[1])["data"]["activeTargets"]

    def delivered(self, name, receiver):
        path, alert = eventually(f"the alert {name}", lambda: self.receiver.got.get(name))
        self.assertEqual(path, f"/{receiver}", name)
        for text in alert["annotations"].values():
            self.assertNotIn("<no value>", text)
        print(f"delivered to {receiver}: {alert['annotations']['summary']}", flush=True)

    def deflated_client(self, address):
        """Compression shows only when somebody asks for it."""
        host, port = address.split(":")
        client = socket.create_connection((host, int(port)))
        self.addCleanup(client.close)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            "GET /ws HTTP/1.1",
            f"Host: {address}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Extensions: permessage-deflate",
        ]
        client.sendall("\r\n".join([*lines, "", ""]).encode())
        threading.Thread(target=lambda: [None for _ in iter(lambda: client.recv(65536), b"")], daemon=True).start()

    def under_load(self):
        """Clients on every edge, collectors on every ingest, until the test ends."""
        edges = [argument for _, address in self.edges for argument in ("--url", f"ws://{address}/ws")]
        command = [telecast(), "load", "--json", "--clients", 9, "--duration", "120s", *edges]
        for number, (_, address) in enumerate(self.ingests):
            publish = ["--ingest", f"ws://{address}/ws/collector", "--publish", 2, "--publish-rate", 20]
            clients = command if number == 0 else [*command[:3], "--clients", 0, "--duration", "120s", "--url", edges[1]]
            self.start(f"load-{number}", [*clients, *publish])
        self.deflated_client(self.edges[0][1])

    def test_every_target_is_up_every_panel_shows_data_and_real_faults_reach_the_webhook(self):
        self.under_load()

        def all_up():
            found = self.targets()
            return found if found and all(target["health"] == "up" for target in found) else None

        up = [(target["labels"]["job"], target["labels"]["instance"]) for target in eventually("targets that are up", all_up)]
        jobs = [job for job, _ in up]
        self.assertEqual([jobs.count(f"telecast/{role}") for role in ("edge", "ingest", "nats")], [3, 2, 1], up)
        print("up: " + ", ".join(f"{job} {instance}" for job, instance in sorted(up)), flush=True)

        self.all_answer([panel for panel in panels() if not shows_alerts(panel)])
        self.faults()
        for _, _, expression in annotations():
            self.ask(as_grafana_asks(expression))
        self.all_answer([panel for panel in panels() if shows_alerts(panel)])

    def all_answer(self, asked):
        without_data = list(asked)

        def no_more():
            without_data[:] = [panel for panel in without_data if not self.ask(as_grafana_asks(panel[2]))]
            return not without_data

        try:
            eventually("data for every panel", no_more)
        except AssertionError:
            self.fail(f"without data: {without_data}")
        print(f"{len(asked)} queries of {len(BOARDS)} boards answered with data", flush=True)

    def crowd(self, clients, *edges):
        urls = [argument for _, address in edges for argument in ("--url", f"ws://{address}/ws")]
        self.start("crowd", [telecast(), "load", "--clients", clients, "--duration", "60s", *urls])

    def pages(self):
        return [name for name, (path, _) in self.receiver.got.items() if path == "/operators-urgent"]

    def faults(self):
        self.delivered("Watchdog", "dead-mans-switch")
        # One edge is nearly full, and the others have room.
        self.crowd(15, self.edges[0])
        self.delivered("WebSocketConnectionsHigh", "operators")
        # A collector that talks nonsense.
        nonsense = urllib.request.Request(f"http://{self.ingests[0][1]}/api/v1/write", b"cpu no fields\n" * 400, method="POST")

        def talk():
            try:
                urllib.request.urlopen(nonsense, timeout=10).close()
            except urllib.error.HTTPError:
                pass
            return self.receiver.got.get("WebSocketErrorsHigh")

        eventually("the alert about errors", talk)
        self.delivered("WebSocketErrorsHigh", "operators")
        self.assertEqual(self.pages(), [])
        # A crowd: all edges are full, and turn others away.
        self.crowd(150, *self.edges)
        self.delivered("WebSocketConnectionsCritical", "operators-urgent")
        self.delivered("WebSocketConnectionFailuresCritical", "operators-urgent")
        # A crash.
        self.edges[2][0].stop(signal.SIGKILL)
        self.delivered("TelecastNodeDown", "operators-urgent")
        # NATS is gone.
        self.nats.stop(signal.SIGKILL)
        self.delivered("NatsAbsent", "operators-urgent")
        # And then all edges.
        for process, _ in self.edges[:2]:
            process.stop(signal.SIGKILL)
        self.delivered("TelecastEdgesAbsent", "operators-urgent")


def as_grafana_asks(expression):
    """With what Grafana puts in place of its variables."""
    values = {"$__rate_interval": "1m", "$node": ".*", "$cluster": "telecast", "$namespace": "telecast"}
    for variable, value in values.items():
        expression = expression.replace(variable, value)
    return expression


if __name__ == "__main__":
    unittest.main()
