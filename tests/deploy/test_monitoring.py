"""Rules, routes and boards: read by the programs they are for, held to the metrics there are, and seen at work over a running cluster.

Prometheus, Alertmanager and nats-server are real. What stands in: nats-server's exporter, which cannot be had from any package
registry (`Exporter` below gives the metrics of it that are used here, from the same monitoring answers), and Grafana: its boards are held
to the types of its model, and their queries are asked of Prometheus.
"""

import base64
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import unittest
import urllib.parse
import urllib.request
from functools import cache

import yaml

from support import ROOT, TOOLS, Stage, eventually, free_port, get, metrics, nats_server, read, tool

BOARDS = sorted((ROOT / "grafana/provisioning/dashboards").glob("*.json"))
RULES = sorted((ROOT / "prometheus/rules").glob("*.yml"))
RULE_TESTS = sorted((ROOT / "prometheus/tests").glob("*.yml"))
VARIABLES = ["datasource", "cluster", "namespace", "node"]
# The one that always fires, and is no alert of anything.
WATCHDOG = "Watchdog"
# Of prometheus-nats-exporter 0.17.3, as its source names them: `-varz` gives every number of /varz (collector/collector.go),
# `-jsz` the rest (collector/jsz.go). A server that does not answer has none of them, and `up` of its exporter stays 1.
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


class Files(unittest.TestCase):
    def test_prometheus_reads_its_files(self):
        check(tool("promtool"), "check", "config", ROOT / "prometheus.yml")
        check(tool("promtool"), "check", "rules", *RULES)

    def test_every_alert_fires_when_it_should_and_is_silent_when_not(self):
        check(tool("promtool"), "test", "rules", *RULE_TESTS)
        names = [test["name"] for tests in RULE_TESTS for test in yaml.safe_load(tests.read_text())["tests"]]
        for alert in alerts():
            self.assertIn(f"{alert['alert']} fires", names)
            if alert["alert"] != WATCHDOG:
                self.assertIn(f"{alert['alert']} is silent", names)

    def test_every_alert_says_how_bad_what_and_what_to_do(self):
        for alert in alerts():
            self.assertIn(alert["labels"]["severity"], ("none",) if alert["alert"] == WATCHDOG else ("critical", "warning"), alert["alert"])
            notes = alert["annotations"]
            self.assertTrue(notes["summary"] and "{{" in notes["description"], alert["alert"])
            file, _, heading = notes["runbook_url"].partition("#")
            headings = re.findall(r"^## (\w+)$", read(file), re.M)
            self.assertIn(alert["alert"], headings, file)
            self.assertEqual(heading, alert["alert"].lower())

    def test_no_rule_adds_up_or_compares_what_belongs_to_different_clusters(self):
        aggregation = r"(?<![:\w])(sum|min|max|avg|count|stddev|quantile|topk|bottomk)\b(?![:\w])\s*(by|without)?\s*(\([^()]*\))?"
        for rule in rules():
            # `on ()` asks whether there is anything at all in this Prometheus, as `absent` does.
            for labels in re.findall(r"\b(?:by|on) \(([^)]+)\)", rule["expr"]):
                self.assertLessEqual({"cluster", "namespace"}, set(re.split(r",\s*", labels)), rule)
            for labels in re.findall(r"\b(?:without|ignoring) \(([^)]*)\)", rule["expr"]):
                self.assertFalse({"cluster", "namespace"} & set(re.split(r",\s*", labels)), rule)
            for function, grouping, _ in re.findall(aggregation, rule["expr"]):
                self.assertTrue(grouping, f"{function} over all clusters: {rule}")

    def test_what_pages_and_may_flap_goes_on_firing_for_a_while(self):
        for alert in alerts():
            if alert["labels"]["severity"] == "critical":
                self.assertIn("keep_firing_for", alert, alert["alert"])

    def test_the_number_of_clients_that_is_very_many_is_written_once(self):
        """Other guides know this alert by its name and threshold; nobody is called for it."""
        (alert,) = [alert for alert in alerts() if alert["alert"] == "WebSocketHighConnectionCount"]
        self.assertEqual((alert["expr"], alert["for"], alert["labels"]["severity"]), ("ws_connections_active > 5000", "5m", "warning"))
        self.assertEqual(sum(len(re.findall(r"\b5000\b", rule["expr"])) for rule in rules()), 1)

    def test_every_runbook_belongs_to_an_alert_and_has_all_its_parts(self):
        names = {alert["alert"] for alert in alerts()}
        for file in {alert["annotations"]["runbook_url"].split("#")[0] for alert in alerts()}:
            for section in re.split(r"^## ", read(file), flags=re.M)[1:]:
                self.assertIn(section.split("\n")[0], names, file)
                for part in ("Meaning", "Impact", "Diagnosis", "Remedy", "Prevention"):
                    self.assertIn(f"**{part}.**", section, f"{file}: {section[:40]}")

    def test_every_metric_that_is_asked_for_exists(self):
        for rule in rules():
            self.assertLessEqual(named(rule["expr"]), known(), rule)
        for board, panel, expression in (*panels(), *annotations()):
            self.assertLessEqual(named(expression), known(), f"{board}: {panel}")

    def test_alertmanager_reads_its_file_and_sends_what_is_urgent_elsewhere(self):
        file = ROOT / "alertmanager/alertmanager.yml"
        check(tool("amtool"), "check-config", file)
        receivers = {"critical": "operators-urgent", "warning": "operators", "none": "dead-mans-switch"}
        for alert in alerts():
            labels = [f"severity={alert['labels']['severity']}", f"alertname={alert['alert']}"]
            routed = check(tool("amtool"), "config", "routes", "test", "--config.file", file, *labels)
            self.assertEqual(routed.strip(), receivers[alert["labels"]["severity"]], alert["alert"])
        names = {alert["alert"] for alert in alerts()}
        for rule in yaml.safe_load(file.read_text())["inhibit_rules"]:
            for matcher in rule["source_matchers"] + rule["target_matchers"]:
                # Alternatives within a name: WebSocketConnections(Dropped|Lost).
                whole = re.sub(r"(\w+)\(([\w|]+)\)", lambda found: "|".join(found[1] + end for end in found[2].split("|")), matcher)
                self.assertLessEqual(set(re.findall(r"\b[A-Z]\w+", whole)), names, matcher)
            self.assertLessEqual({"cluster", "namespace"}, set(rule["equal"]), rule)

    def test_boards_are_as_grafana_knows_them(self):
        folder = TOOLS / "grafana"
        # Enumerations as the text they are in JSON; `as const` keeps text from becoming any text.
        (folder / "model.ts").write_text(
            "import type { Dashboard } from '@grafana/schema';\n"
            "type Written<T> = T extends string ? (string extends T ? T : `${T}`)\n"
            "  : T extends readonly (infer U)[] ? readonly Written<U>[]\n"
            "  : T extends object ? { readonly [K in keyof T]: Written<T[K]> } : T;\n"
            "export type Board = Written<Dashboard>;\n"
        )
        files = ["model.ts"]
        for file in BOARDS:
            text = f"import type {{ Board }} from './model';\nconst json = {file.read_text().strip()} as const;\nexport const board: Board = json;\n"
            files.append(f"{file.stem}.ts")
            (folder / files[-1]).write_text(text)
        options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "esnext", "--moduleResolution", "bundler", "--target", "es2022"]
        check(folder / "node_modules/.bin/tsc", *options, *files, cwd=folder)

    def test_boards_can_be_provisioned_and_say_what_they_show(self):
        provider = yaml.safe_load(read("grafana/provisioning/dashboards/telecast.yml"))["providers"][0]
        self.assertEqual(provider["options"]["path"], "/etc/grafana/provisioning/dashboards")
        uids = set()
        for file in BOARDS:
            board = json.loads(file.read_text())
            self.assertIsNone(board["id"])
            self.assertEqual((board["refresh"], board["time"]["from"], board["editable"]), ("15s", "now-1h", True))
            uids.add(board["uid"])
            self.assertEqual([variable["name"] for variable in board["templating"]["list"]], VARIABLES)
            for panel in all_panels(board):
                self.assertTrue(panel["type"] == "row" or panel["description"], panel["title"])
        text = "".join(file.read_text() for file in BOARDS)
        self.assertEqual(set(re.findall(r"/d/([\w-]+)\?", text)), uids)
        for variable in re.findall(r"[?&]var-(\w+)=|\$\{(\w+):queryparam\}", text):
            self.assertIn("".join(variable), VARIABLES)

    def test_the_board_of_nodes_has_its_panels_and_draws_the_thresholds_of_the_alerts(self):
        board = json.loads(read("grafana/provisioning/dashboards/websocket-server.json"))
        there = {panel["title"]: panel for panel in all_panels(board)}
        wanted = {"Connections over time", "Message rate", "Bandwidth", "Tasks", "Slow clients per minute", "Rate limited per minute"}
        wanted |= {"Replay requests per minute", "NATS status", "Connection failures"}
        self.assertLessEqual(wanted, set(there))
        for title, drawn in {"Active connections": [0.8, 0.95], "Memory against limit": [0.8, 0.9], "CPU": [70, 90]}.items():
            steps = there[title]["fieldConfig"]["defaults"]["thresholds"]["steps"]
            self.assertEqual([step["value"] for step in steps[1:]], drawn, title)

    def test_panels_neither_overlap_nor_leave_the_grid(self):
        for file in BOARDS:
            board = json.loads(file.read_text())
            taken = {}
            for panel in board["panels"]:
                place = panel["gridPos"]
                self.assertLessEqual(place["x"] + place["w"], 24, panel["title"])
                for cell in ((place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])):
                    self.assertIsNone(taken.setdefault(cell, None), f"{panel['title']} and {taken[cell]}")
                    taken[cell] = panel["title"]
            numbers = [panel["id"] for panel in all_panels(board)]
            self.assertEqual(len(numbers), len(set(numbers)), file)

    def test_boards_show_what_is_and_not_what_was(self):
        """The last value of a series that has ended would stay: a state that a node left, a node that was taken away."""
        for file in BOARDS:
            for panel in all_panels(json.loads(file.read_text())):
                drawn = panel.get("options", {}).get("graphMode", "none") != "none"
                if panel["type"] in ("stat", "gauge", "bargauge", "table") and not drawn:
                    self.assertTrue(all(target["instant"] for target in panel["targets"]), panel["title"])

    def test_boards_show_one_cluster_at_a_time(self):
        for board, panel, expression in (*panels(), *annotations()):
            for selector in re.findall(r"\b(?:ws_|telecast:|up\b|process_|jetstream_|gnatsd_|ALERTS)[a-zA-Z0-9_:]*(\{[^}]*\})?", expression):
                self.assertRegex(selector, r'cluster=~?"\$cluster\|?",namespace=~?"\$namespace\|?"', f"{board}: {panel}: {expression}")

    def test_rates_are_over_what_fits_the_interval_of_scrapes_and_the_width_of_panels(self):
        for board, panel, expression in panels():
            for window in re.findall(r"\[([^\]]+)\]", expression):
                self.assertRegex(window, r"^\$__rate_interval(:15s)?$", f"{board}: {panel}")

    def test_boards_show_no_alerts_of_others(self):
        """Other people's Prometheus has an alert that always fires."""
        for file in BOARDS:
            board = json.loads(file.read_text())
            asked = [target["expr"] for panel in all_panels(board) for target in panel.get("targets", [])]
            asked += [note["expr"] for note in board["annotations"]["list"] if "expr" in note]
            selectors = [text for expression in asked for text in re.findall(r"ALERTS\w*(?:\{[^}]*\})?", expression)]
            self.assertTrue(selectors, file)
            for selector in selectors:
                self.assertIn('alertname=~"WebSocket.*|Telecast.*|Nats.*"', selector)
        for alert in alerts():
            # The Watchdog is not to make them red.
            self.assertRegex(alert["alert"], f"^(WebSocket|Telecast|Nats)|^{WATCHDOG}$")

    def test_the_exporter_is_told_to_export_what_is_asked_for(self):
        compose = yaml.safe_load(read("docker-compose.yml"))["services"]["nats-exporter"]["command"]
        pods = yaml.safe_load(read("k8s/base/nats/statefulset.yaml"))["spec"]["template"]["spec"]["containers"]
        in_pod = next(container["args"] for container in pods if container["name"] == "exporter")
        for command in (compose, in_pod):
            self.assertLessEqual({"-varz", "-jsz=all"}, set(command))


class Exporter:
    """What prometheus-nats-exporter gives of a server, as far as it is used here."""

    def __init__(self, monitor):
        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body = exported(monitor).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


def exported(monitor):
    answers = [get(f"{monitor}/varz"), get(f"{monitor}/jsz?streams=true&accounts=true")]
    if None in answers:
        return ""
    server, streams = (json.loads(answer[1]) for answer in answers)
    # A server without a cluster has no such part, and is its own leader.
    meta = streams.get("meta_cluster", {})
    cluster, leader = meta.get("name", ""), meta.get("leader", "")
    leads = str(not meta or leader == server["server_name"]).lower()
    labels = f'server_id="{monitor}",server_name="{server["server_name"]}",cluster="{cluster}",meta_leader="{leader}",is_meta_leader="{leads}"'
    lines = [
        f'gnatsd_varz_connections{{server_id="{monitor}"}} {server["connections"]}',
        f'gnatsd_varz_slow_consumers{{server_id="{monitor}"}} {server["slow_consumers"]}',
        f"jetstream_server_jetstream_disabled{{{labels}}} 0",
        f"jetstream_server_total_message_bytes{{{labels}}} {streams['bytes']}",
        f"jetstream_server_max_storage{{{labels}}} {streams['config']['max_storage']}",
    ]
    for account in streams.get("account_details", []):
        for stream in account.get("stream_detail", []):
            of_stream = stream.get("cluster")
            leads = str(not of_stream or of_stream.get("leader") == server["server_name"]).lower()
            of = f'{labels},stream_name="{stream["name"]}",is_stream_leader="{leads}"'
            lines.append(f"jetstream_stream_last_seq{{{of}}} {stream['state']['last_seq']}")
    return "\n".join(lines) + "\n"


class Receiver:
    """A webhook: the alerts that Alertmanager has sent to each of its paths."""

    def __init__(self):
        self.got = {}
        got = self.got

        class Take(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                for alert in message["alerts"]:
                    if alert["status"] == "firing":
                        got.setdefault(alert["labels"]["alertname"], (self.path, alert))
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


class Running(Stage):
    """Two ingests, three edges, NATS, Prometheus and Alertmanager, with the files as they are shipped. Only what would take an
    hour to see is shortened: scrapes every second, and alerts that need not last."""

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
                alert["for"] = {"TelecastNodeDown": "5s"}.get(alert["alert"], "20s" if "Absent" in alert["alert"] else "1s")
            (folder / rule.name).write_text(yaml.safe_dump(groups))
        file["rule_files"] = [f"{folder}/*.yml"]
        own = self.folder / "prometheus.yml"
        own.write_text(yaml.safe_dump(file))
        command = [tool("prometheus"), f"--config.file={own}", f"--storage.tsdb.path={self.folder}/series"]
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
        command = [tool_of_telecast(), "load", "--json", "--clients", 9, "--duration", "120s", *edges]
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
        self.start("crowd", [tool_of_telecast(), "load", "--clients", clients, "--duration", "60s", *urls])

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


def tool_of_telecast():
    from support import telecast

    return telecast()


def as_grafana_asks(expression):
    """With what Grafana puts in place of its variables."""
    values = {"$__rate_interval": "1m", "$node": ".*", "$cluster": "telecast", "$namespace": "telecast"}
    for variable, value in values.items():
        expression = expression.replace(variable, value)
    return expression


if __name__ == "__main__":
    unittest.main()
