"""Rules and routes: read by the programs they are for, and held to the metrics there are. `test_monitoring_running` sees them at work."""

import re
import unittest

import yaml

from monitoring import RULE_TESTS, RULES, WATCHDOG, alerts, annotations, check, known, named, panels, rules, runbook
from support import ROOT, read, tool


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
            file, _, heading = runbook(alert).partition("#")
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
        for file in {runbook(alert).split("#")[0] for alert in alerts()}:
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

    def test_the_exporter_is_told_to_export_what_is_asked_for(self):
        compose = yaml.safe_load(read("docker-compose.yml"))["services"]["nats-exporter"]["command"]
        pods = yaml.safe_load(read("k8s/base/nats/statefulset.yaml"))["spec"]["template"]["spec"]["containers"]
        in_pod = next(container["args"] for container in pods if container["name"] == "exporter")
        for command in (compose, in_pod):
            self.assertLessEqual({"-varz", "-jsz=all"}, set(command))


if __name__ == "__main__":
    unittest.main()
