"""A cluster that real Prometheus and Alertmanager watch with the files as they are shipped: nodes come, go and die as a platform has
them do it, and what Alertmanager sends is kept.

Nodes, NATS and its exporters, HAProxy, Prometheus and Alertmanager are real. What stands in is the name server, which HAProxy asks as
it would ask Docker's; Prometheus cannot be told to ask another than the machine's, so the same names come to it in files, as often as
it would look them up.
"""

import json
import re
import threading
import time
import urllib.parse
from dataclasses import dataclass, field

import yaml

from monitoring import Exporter, Webhook
from proxies import Dns, replace, start_haproxy
from support import ROOT, eventually, free_port, get, nats_server, read, tool

# How often prometheus.yml has names looked up.
LOOK_UP_SECONDS = 10
# Kubernetes sends an old pod away when a new one has been ready for so long (minReadySeconds).
READY_SECONDS = 10
NATS_SERVERS = 3


@dataclass
class Notification:
    """What a receiver of Alertmanager got at a time."""

    at: float
    receiver: str
    status: str
    labels: dict = field(compare=False)


class Receivers(Webhook):
    """A webhook for every receiver of alertmanager.yml, under its name."""

    def __init__(self):
        self.got = []
        super().__init__()

    def take(self, path, alert):
        self.got.append(Notification(time.time(), path.strip("/"), alert["status"], alert["labels"]))


def seconds(duration):
    """Of a duration as Prometheus writes it."""
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"(\d+)(ms|s|m|h|d)", duration))


class Cluster:
    """Two ingests and two edges at first, three NATS servers. Everything that takes time by its configuration takes a `speed`th
    of it; with 1, files are used as they are."""

    def __init__(self, stage, speed):
        self.stage, self.speed = stage, speed
        self.dns = Dns(stage, edge=[], ingest=[])
        self.port = free_port()
        # By address. Nodes of a role have the same port each, as in Compose and Kubernetes, and an address of their own.
        self.nodes = {"edge": {}, "ingest": {}}
        self.started = 0
        self.servers = {}
        self.receivers = Receivers()
        stage.addCleanup(self.receivers.stop)
        self.nats_port, self.monitor_port, self.route_port = free_port(), free_port(), free_port()
        self.log = []
        for number in range(NATS_SERVERS):
            self.start_nats(number)
        self.exporters = [Exporter(f"http://{self.nats_host(number)}:{self.monitor_port}") for number in range(NATS_SERVERS)]
        for exporter in self.exporters:
            stage.addCleanup(exporter.stop)
        self.wait_for_nats()
        for role in ("ingest", "ingest", "edge", "edge"):
            self.add(role)
        self.proxy = start_haproxy(stage, [], [], dns=self.dns, port=self.port)
        self.start_alertmanager()
        self.start_prometheus()

    def note(self, text):
        self.log.append((time.time(), text))
        print(f"{time.strftime('%H:%M:%S', time.gmtime())} {text}", flush=True)

    def wait(self, duration):
        time.sleep(duration / self.speed)

    def short(self, duration):
        """A duration of a configuration, in Prometheus' form."""
        return duration if self.speed == 1 else f"{round(seconds(duration) * 1000 / self.speed)}ms"

    # ── NATS ──

    def nats_host(self, number):
        return f"127.0.22.{number + 1}"

    def start_nats(self, number):
        host = self.nats_host(number)
        text = read("deploy/nats/nats-cluster.conf")
        text = replace(text, r"\$NATS_SERVER_NAME", f"nats-{number + 1}")
        text = replace(text, r"(?m)^port: 4222", f'host: "{host}"\nport: {self.nats_port}')
        text = replace(text, r"http_port: 8222", f'http: "{host}:{self.monitor_port}"')
        text = replace(text, r"port: 6222", f'host: "{host}"\n  port: {self.route_port}')
        for other, name in enumerate(("nats", "nats-2", "nats-3")):
            text = replace(text, rf"([/@]){name}:6222", rf"\g<1>{self.nats_host(other)}:{self.route_port}")
        text = replace(text, r"/data/jetstream", f"{self.stage.folder}/nats-{number}")
        file = self.stage.folder / f"nats-{number}.conf"
        file.write_text(text)
        self.servers[number] = self.stage.start(f"nats-{number + 1}", [nats_server(), "--config", file])

    def wait_for_nats(self):
        """Until every server has caught up with its streams."""

        def healthy():
            answers = [get(f"http://{self.nats_host(number)}:{self.monitor_port}/healthz") for number in self.servers]
            return all(answer and answer[0] == 200 for answer in answers)

        eventually("three NATS servers that are healthy", healthy)

    # ── nodes ──

    def add(self, role):
        """A new node, at an address that none had before."""
        self.started += 1
        host = f"127.0.21.{self.started}"
        nats = ",".join(f"nats://{self.nats_host(number)}:{self.nats_port}" for number in range(NATS_SERVERS))
        environment = {
            "TELECAST__LOG__REPLICAS": "3",
            "TELECAST__SERVER__TRUSTED_PROXIES": "127.0.0.0/8",
            "TELECAST__EDGE__DRAIN_GRACE_MS": str(round(5000 / self.speed)),
            "TELECAST__EDGE__DRAIN_WAVES_MS": str(round(5000 / self.speed)),
        }
        node = self.stage.node(role, nats, environment, f"{role}-{self.started}", host, self.port)
        self.stage.ready(node)
        self.nodes[role][host] = node
        self.look_up(role)
        return host

    def look_up(self, role):
        self.dns.names[role] = list(self.nodes[role])

    def drain(self, role, host):
        """As a platform ends one: told to, it drains, and its address is gone when it has ended."""
        code = self.nodes[role][host][0].stop()
        assert code == 0, f"{role} {host} ended with {code}"
        self.forget(role, host)

    def forget(self, role, host):
        del self.nodes[role][host]
        self.look_up(role)

    def hosts(self, role):
        return list(self.nodes[role])

    # ── those who watch ──

    def targets(self, name):
        if name == "nats-exporter":
            return [exporter.address for exporter in self.exporters]
        if name == "alertmanager":
            return [self.alertmanager]
        return [f"{host}:{self.port}" for host in self.nodes.get(name, {})]

    def discovery_file(self, name):
        return self.stage.folder / f"found-{name}.json"

    def discover(self, names, ended):
        """Writes what a look-up of each name would give, as often as prometheus.yml has it done."""
        while True:
            for name in names:
                text = json.dumps([{"targets": self.targets(name)}])
                file = self.discovery_file(name)
                if not file.exists() or file.read_text() != text:
                    beside = file.with_suffix(".new")
                    beside.write_text(text)
                    beside.rename(file)
            if ended.wait(LOOK_UP_SECONDS / self.speed):
                return

    def start_alertmanager(self):
        file = yaml.safe_load(read("alertmanager/alertmanager.yml"))
        file["templates"] = [str(ROOT / "alertmanager/templates/*.tmpl")]
        for receiver in file["receivers"]:
            receiver["webhook_configs"] = [{"url": f"{self.receivers.url}/{receiver['name']}", "send_resolved": True}]
        for route in (file["route"], *file["route"]["routes"]):
            for key in ("group_wait", "group_interval", "repeat_interval"):
                if key in route:
                    route[key] = self.short(route[key])
        self.receiver_names = [receiver["name"] for receiver in file["receivers"]]
        own = self.stage.folder / "alertmanager.yml"
        own.write_text(yaml.safe_dump(file))
        self.alertmanager = f"127.0.0.1:{free_port()}"
        command = [tool("alertmanager"), f"--config.file={own}", f"--storage.path={self.stage.folder}/alerts"]
        process = self.stage.start("alertmanager", [*command, f"--web.listen-address={self.alertmanager}", "--cluster.listen-address="])
        self.stage.answers(f"http://{self.alertmanager}/-/ready", process)

    def start_prometheus(self):
        file = yaml.safe_load(read("prometheus.yml"))
        self.prometheus = f"127.0.0.1:{free_port()}"
        times = file["global"]
        self.interval = seconds(times["evaluation_interval"]) / self.speed
        times.update({key: self.short(times[key]) for key in ("scrape_interval", "scrape_timeout", "evaluation_interval")})
        looked_up = set()
        for part in (*file["scrape_configs"], *file["alerting"]["alertmanagers"]):
            names = [name for discovery in part.pop("dns_sd_configs", []) for name in discovery["names"]]
            looked_up.update(names)
            if names:
                part["file_sd_configs"] = [{"files": [str(self.discovery_file(name)) for name in names]}]
            for static in part.get("static_configs", []):
                static["targets"] = [self.prometheus]
        ended = threading.Event()
        thread = threading.Thread(target=self.discover, args=(sorted(looked_up), ended), daemon=True)
        self.stage.addCleanup(thread.join)
        self.stage.addCleanup(ended.set)
        thread.start()
        eventually("files of discovery", lambda: all(self.discovery_file(name).exists() for name in looked_up))
        file["rule_files"] = [str(path) for path in self.rule_files()]
        own = self.stage.folder / "prometheus.yml"
        own.write_text(yaml.safe_dump(file))
        # The one that docker-compose.yml starts, not Debian's.
        command = [tool("prometheus-3"), f"--config.file={own}", f"--storage.tsdb.path={self.stage.folder}/series"]
        process = self.stage.start("prometheus", [*command, f"--web.listen-address={self.prometheus}"])
        self.stage.answers(f"http://{self.prometheus}/-/ready", process)

    def rule_files(self):
        """The rules as they are, or with all their durations made shorter: of clauses, ranges and offsets."""
        shipped = sorted((ROOT / "prometheus/rules").glob("*.yml"))
        if self.speed == 1:
            return shipped
        folder = self.stage.folder / "rules"
        folder.mkdir()

        def shorter(expression):
            ranges = re.sub(r"\[([\dsmhd]+)(:?)([\dsmhd]*)\]", lambda found: self.short_range(*found.groups()), expression)
            return re.sub(r"\boffset (\w+)", lambda found: f"offset {self.short(found[1])}", ranges)

        for path in shipped:
            groups = yaml.safe_load(path.read_text())
            for rule in (rule for group in groups["groups"] for rule in group["rules"]):
                rule["expr"] = shorter(rule["expr"])
                rule.update({key: self.short(rule[key]) for key in ("for", "keep_firing_for") if key in rule})
            (folder / path.name).write_text(yaml.safe_dump(groups))
        return sorted(folder.glob("*.yml"))

    def short_range(self, width, colon, step):
        return f"[{self.short(width)}{colon}{self.short(step) if step else ''}]"

    def ask(self, path, **query):
        status, body = get(f"http://{self.prometheus}/api/v1/{path}?{urllib.parse.urlencode(query)}")
        assert status == 200, f"{query}: {body}"
        return json.loads(body)["data"]

    def silenced(self):
        """Alerts that Alertmanager holds back now, because another says it already."""
        answer = get(f"http://{self.alertmanager}/api/v2/alerts?silenced=false&active=false&inhibited=true")
        return [alert["labels"] for alert in json.loads(answer[1])] if answer and answer[0] == 200 else []
