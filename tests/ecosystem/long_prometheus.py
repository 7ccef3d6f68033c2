"""The newest Prometheus beside Debian's, which tests/deploy uses: its checks of configuration and rules, and the rules' own tests."""

import http.server
import json
import re
import subprocess
import threading
import unittest
import urllib.parse

import yaml

from monitoring import RULE_TESTS, RULES, check
from support import ROOT, Stage, documents, eventually, free_port, get, read, tool

NATS_CLUSTERS = ["k8s/base/nats/nats.conf", "k8s/overlays/production/nats.conf", "deploy/nats/nats-cluster.conf"]


class Newest(unittest.TestCase):
    def test_it_finds_nothing_to_say_about_its_files(self):
        check(tool("promtool-3"), "check", "config", "--lint=all", "--lint-fatal", ROOT / "prometheus.yml")
        check(tool("promtool-3"), "check", "rules", "--lint=all", "--lint-fatal", *RULES)

    def test_it_reads_the_rules_of_the_operator(self):
        (item,) = documents(read("k8s/components/prometheus-operator/rules.yaml"))
        command = [tool("promtool-3"), "check", "rules", "--lint=all", "--lint-fatal"]
        ended = subprocess.run(command, input=yaml.safe_dump(item["spec"]), capture_output=True, text=True, timeout=60)
        self.assertEqual(ended.returncode, 0, ended.stdout + ended.stderr)

    def test_it_comes_to_the_same_alerts(self):
        check(tool("promtool-3"), "test", "rules", *RULE_TESTS)


def snake(name):
    """As prometheus.yml spells what a PodMonitor has in camel case."""
    return re.sub(r"[A-Z]", lambda letter: "_" + letter[0].lower(), name)


class Pages:
    """A fixed page of metrics at `address`, until `stop`."""

    def __init__(self, text):
        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Labels(Stage):
    """What becomes of the label `cluster` that NATS' exporter gives its series, in a Prometheus that has one of that name or none."""

    def setUp(self):
        super().setUp()
        exporter = Pages('of_server{cluster="telecast"} 1\nof_single_server{cluster=""} 1\nof_process 1\n')
        self.addCleanup(exporter.stop)
        monitors = documents(read("k8s/components/prometheus-operator/pod-monitors.yaml"))
        (endpoint,) = [monitor["spec"]["podMetricsEndpoints"][0] for monitor in monitors if monitor["metadata"]["name"] == "nats"]
        operator = [{snake(key): value for key, value in rule.items()} for rule in endpoint["metricRelabelings"]]
        (compose,) = [job for job in yaml.safe_load(read("prometheus.yml"))["scrape_configs"] if job["job_name"] == "telecast/nats"]
        target = {"targets": [exporter.address]}
        jobs = [
            {"job_name": "plain", "metric_relabel_configs": operator, "static_configs": [target]},
            {"job_name": "labelled", "metric_relabel_configs": operator, "static_configs": [{**target, "labels": {"cluster": "eu-1"}}]},
            {"job_name": "compose", "static_configs": [target], **{key: compose[key] for key in compose if key.endswith("_configs") and "sd" not in key}},
        ]
        file = self.folder / "prometheus.yml"
        file.write_text(yaml.safe_dump({"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": jobs}))
        self.address = f"127.0.0.1:{free_port()}"
        command = [tool("prometheus"), f"--config.file={file}", f"--storage.tsdb.path={self.folder}/series"]
        process = self.start("prometheus", [*command, f"--web.listen-address={self.address}"])
        self.answers(f"http://{self.address}/-/ready", process)

    def found(self, name):
        """By job, the labels of a series that tell clusters apart."""
        query = urllib.parse.urlencode({"query": name})

        def all_three():
            series = json.loads(get(f"http://{self.address}/api/v1/query?{query}")[1])["data"]["result"]
            found = {each["metric"]["job"]: each["metric"] for each in series}
            return found if len(found) == 3 else None

        kept = ("cluster", "nats_cluster", "exported_cluster")
        return {job: {key: labels[key] for key in kept if key in labels} for job, labels in eventually(name, all_three).items()}

    def test_the_cluster_of_nats_is_not_taken_for_that_of_kubernetes(self):
        own = {"nats_cluster": "telecast"}
        self.assertEqual(
            self.found("of_server"),
            {"plain": own, "labelled": {"cluster": "eu-1", **own}, "compose": {"cluster": "telecast", **own}},
        )
        alone = {"plain": {}, "labelled": {"cluster": "eu-1"}, "compose": {"cluster": "telecast"}}
        self.assertEqual(self.found("of_single_server"), alone)
        self.assertEqual(self.found("of_process"), alone)

    def test_the_name_of_nats_cluster_is_the_one_that_is_looked_for(self):
        for file in NATS_CLUSTERS:
            block = re.search(r"^cluster \{(.*?)^\}", read(file), re.M | re.S)
            self.assertEqual(re.search(r"^  name: (\S+)$", block[1], re.M)[1], "telecast", file)


if __name__ == "__main__":
    unittest.main()
