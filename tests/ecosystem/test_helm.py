"""The Helm chart: rendered by Helm itself, refused where values make no sense, and documented as it is."""

import json
import os
import re
import subprocess
import tarfile
import tempfile
import tomllib
import unittest
from pathlib import Path

import charts
from charts import CHART, FILES, defaults, everything, helm, installed, merged, nested, refusal
from support import ROOT, Stage, free_port, nats_server, telecast, tool
from test_kubernetes import containers, environment, named, of_kind, pod, selects, settings

# Values that contradict each other, and what is said of them.
CONTRADICTIONS = [
    ({"edge": {"keda": {"enabled": True}}}, "edge.hpa.enabled=false"),
    ({"edge": {"keda": {"enabled": True}, "hpa": {"enabled": False}, "replicas": 3}}, "edge.keda.minReplicas"),
    ({"edge": {"keda": {"enabled": True, "minReplicas": 31}, "hpa": {"enabled": False}}}, "edge.keda.maxReplicas"),
    ({"edge": {"prometheusAdapter": {"enabled": True}, "hpa": {"enabled": False}}}, "edge.hpa.enabled=true"),
    ({"edge": {"replicas": 3}}, "edge.hpa.enabled=false"),
    ({"ingest": {"replicas": 3}}, "ingest.hpa.enabled=false"),
    ({"ingest": {"hpa": {"minReplicas": 7}}}, "ingest.hpa.maxReplicas"),
    ({"nats": {"url": "nats://elsewhere:4222"}}, "nats.enabled=false"),
    ({"nats": {"enabled": False}}, "needs nats.url"),
    ({"nats": {"credentials": {"existingSecret": "creds"}}}, "nats.auth.enabled=true"),
    (
        {"nats": {"enabled": False, "url": "nats://a:4222", "auth": {"enabled": True}, "token": {"existingSecret": "t"}}},
        "nats.auth, nats.token: leave one",
    ),
    ({"nats": {"replicas": 1}, "config": {"default": {"log": {"replicas": 3}}}}, "nats.replicas (1)"),
    ({"nats": {"tls": {"certManager": True}}}, "nats.tls.enabled=true"),
    ({"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}, "one of them only"),
    ({"gateway": {"enabled": True, "create": False}}, "gateway.parentRefs"),
]
# Kubernetes' own objects, which its schemas know better; and numbers with a fraction, or without a unit.
FREE = r"behavior\.|threshold|resources\.(requests|limits)\.|metricsFrom"


class Values(unittest.TestCase):
    def test_the_schema_has_each_value_and_no_other(self):
        schema = charts.schema()

        def compare(part, values, where):
            part = schema["definitions"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part
            if part.get("additionalProperties") is not False:
                return
            # Not a value: quantities of other resources than those asked for, and what Helm has itself.
            known = part["properties"].keys() - {"global", "claims"}
            if where.endswith("resources"):
                known &= values.keys()
            self.assertEqual(known, values.keys(), where or "values.yaml")
            for name, value in values.items():
                if isinstance(value, dict):
                    compare(part["properties"][name], value, f"{where}.{name}")

        compare(schema, defaults(), "")

    def test_each_value_of_a_wrong_type_is_refused(self):
        import jsonschema

        schema = charts.schema()
        jsonschema.Draft7Validator.check_schema(schema)
        validator = jsonschema.Draft7Validator(schema)
        validator.validate(defaults())

        def walk(values, path):
            for name, value in values.items():
                here = f"{path}.{name}" if path else name
                for wrong in ({"a": "table"} if isinstance(value, list) else ["a list"], 1.5):
                    if not re.search(FREE, here):
                        self.assertFalse(validator.is_valid(merged(defaults(), nested(here, wrong))), f"{here}: {wrong!r}")
                if isinstance(value, dict):
                    walk(value, here)

        walk(defaults(), "")

    def test_what_is_refused_is_named(self):
        for values, said in (
            ({"edge": {"replica": 3}}, ("/edge", "replica")),
            ({"edge": {"replicas": "three"}}, ("/edge/replicas", "integer")),
            ({"image": {"tag": 1.5}}, ("/image/tag", "string")),
            ({"config": {"edge": {"max_connections": 1}}}, ("/config/edge/max_connections", "object")),
            ({"edge": {"extraEnv": [{"name": "WS_THROTTLE_MS", "value": 100}]}}, ("/edge/extraEnv/0/value", "string")),
            ({"nats": {"replicas": 2}}, ("/nats/replicas", "1, 3, 5")),
            ({"nats": {"url": "one.example.com"}}, ("/nats/url", "nats|tls")),
            ({"image": {"digest": "latest"}}, ("/image/digest", "sha256")),
        ):
            message = refusal(values)
            for word in said:
                self.assertIn(word, message)

    def test_values_that_contradict_each_other_are_refused_with_what_to_set(self):
        for values, said in CONTRADICTIONS:
            message = refusal(values)
            self.assertIn("execution error", message)
            self.assertIn(said, message)

    def test_keys_of_the_program_stand_above_the_charts_files(self):
        values = {
            "config": {
                "default": {"log": {"max_bytes": 2147483648, "shards": 2}, "server": {"metrics_enabled": False}},
                "edge": {"edge": {"max_connections": 5000, "drain_grace_ms": 0}},
            }
        }
        found = installed(values)
        edge, ingest = settings(found, "edge"), settings(found, "ingest")
        self.assertEqual((edge["edge"]["max_connections"], edge["edge"]["drain_grace_ms"]), (5000, 0))
        self.assertEqual((ingest["log"]["max_bytes"], ingest["log"]["shards"]), (2147483648, 2))
        # False and 0 are values, and what nobody changed is as in the files.
        self.assertEqual((edge["server"]["metrics_enabled"], edge["edge"]["drain_waves_ms"]), (False, 20000))
        self.assertEqual(edge["nats"]["url"], "nats://nats:4222")

    def test_a_change_of_the_configuration_rolls_the_pods(self):
        def checksums(values):
            return {item["metadata"]["name"]: pod(item)["metadata"]["annotations"]["checksum/config"]
                    for item in of_kind(installed(values), "Deployment", "StatefulSet")}

        before = checksums({})
        nodes = checksums({"config": {"edge": {"edge": {"throttle_ms": 5}}}})
        self.assertEqual({name for name in before if before[name] != nodes[name]}, {"edge", "ingest"})
        servers = checksums({"nats": {"jetstream": {"maxFileStore": "7GB"}}})
        self.assertEqual({name for name in before if before[name] != servers[name]}, {"nats"})

    def test_external_nats_leaves_no_server_behind_and_nodes_find_it(self):
        values = {"nats": {"enabled": False, "url": "tls://one:4222,tls://two:4222", "credentials": {"existingSecret": "creds"}}}
        found = installed(values)
        names = {item["metadata"]["name"] for item in found}
        self.assertFalse({name for name in names if "nats" in name}, names)
        for role in ("edge", "ingest"):
            self.assertEqual(self.file(found, "telecast-config", "default.toml")["nats"]["url"], values["nats"]["url"])
            main = containers(named(found, "Deployment", role))[0]
            mounts = {each["name"]: each["mountPath"] for each in main["volumeMounts"]}
            self.assertEqual(environment(main)["TELECAST__NATS__CREDENTIALS_FILE"], f"{mounts['nats-credentials']}/telecast.creds")
            policy = named(found, "NetworkPolicy", role)["spec"]
            self.assertEqual(policy["egress"], [{"ports": [{"protocol": "TCP", "port": 4222}]}])

    def file(self, found, name, file):
        return tomllib.loads(named(found, "ConfigMap", name)["data"][file])

    def test_one_server_keeps_one_copy(self):
        self.assertEqual(settings(installed({"nats": {"replicas": 1}}), "ingest")["log"]["replicas"], 1)

    def test_two_releases_in_one_namespace_leave_each_other_alone(self):
        found = installed({"namePrefix": "two-"})
        names = [item["metadata"]["name"] for item in found]
        self.assertTrue(all(name.startswith("two-") for name in names), names)
        stranger = {"app.kubernetes.io/name": "edge", "app.kubernetes.io/part-of": "telecast", "app.kubernetes.io/instance": "one"}
        for item in found:
            spec = item.get("spec", {})
            selectors = [spec[key] for key in ("podSelector", "selector") if key in spec]
            for selector in selectors:
                selector = {"matchLabels": selector} if item["kind"] == "Service" else selector
                self.assertFalse(selects(selector, stranger), item["metadata"]["name"])
        self.assertEqual(self.file(found, "two-telecast-config", "default.toml")["nats"]["url"], "nats://two-nats:4222")
        self.assertIn("nats://two-nats-2.two-nats-headless:6222", named(found, "ConfigMap", "two-nats-config")["data"]["nats.conf"])

    def test_what_pods_are_given_reaches_them(self):
        given = {
            "extraEnv": [{"name": "WS_THROTTLE_MS", "value": "100"}],
            "extraArgs": ["--log-level=debug"],
            "podAnnotations": {"sidecar.istio.io/inject": "false"},
            "podLabels": {"team": "metrics"},
            "priorityClassName": "high",
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"key": "dedicated", "operator": "Exists"}],
            "serviceAccount": {"create": False, "name": "mine"},
        }
        found = installed({"edge": given, "imagePullSecrets": [{"name": "registry"}], "image": {"digest": "sha256:" + "a" * 64}})
        edge = pod(named(found, "Deployment", "edge"))
        self.assertEqual(edge["metadata"]["annotations"]["sidecar.istio.io/inject"], "false")
        self.assertEqual(edge["metadata"]["labels"]["team"], "metrics")
        spec, main = edge["spec"], edge["spec"]["containers"][0]
        self.assertEqual(main["args"], ["edge", "--log-level=debug"])
        self.assertEqual(environment(main)["WS_THROTTLE_MS"], "100")
        self.assertEqual(main["image"], "telecast:0.1.0@sha256:" + "a" * 64)
        self.assertEqual((spec["priorityClassName"], spec["nodeSelector"]), ("high", {"disk": "ssd"}))
        self.assertEqual((spec["tolerations"], spec["imagePullSecrets"]), (given["tolerations"], [{"name": "registry"}]))
        self.assertEqual(spec["serviceAccountName"], "mine")
        self.assertEqual({item["metadata"]["name"] for item in of_kind(found, "ServiceAccount")}, {"ingest", "nats"})

    def test_no_secret_is_ever_made(self):
        for base in FILES:
            self.assertEqual(of_kind(everything(files=FILES[base]), "Secret"), [])


class Nats(unittest.TestCase):
    def test_servers_read_their_configuration_whatever_is_asked_of_it(self):
        password, tls = {"auth": {"enabled": True}}, {"tls": {"enabled": True}}
        for values in ({}, password, tls, password | tls | {"replicas": 5}, tls | {"replicas": 1}):
            found = installed({"nats": values, "namePrefix": "two-"})
            nats = named(found, "StatefulSet", "two-nats")
            with tempfile.TemporaryDirectory() as folder:
                make_certificate(folder)
                for name, text in named(found, "ConfigMap", "two-nats-config")["data"].items():
                    text = text.replace("/etc/nats-tls", folder).replace("/data", folder)
                    (Path(folder) / name).write_text(text)
                given = {name: re.sub(r"\$\(\w+\)", "pw", value) for name, value in environment(containers(nats)[0]).items()}
                command = [nats_server(), "--config", f"{folder}/nats.conf", "-t"]
                ended = subprocess.run(command, env=given, capture_output=True, text=True, timeout=60)
            self.assertEqual(ended.returncode, 0, f"{values}: {ended.stderr}")

    def test_a_certificate_names_the_service_and_every_server(self):
        values = {"namePrefix": "two-", "nats": {"replicas": 5, "tls": {"enabled": True, "certManager": True}}}
        found = installed(values)
        names = named(found, "Certificate", "two-nats")["spec"]["dnsNames"]
        self.assertIn("two-nats", names)
        routes = re.findall(r"nats://([^:]+):6222", named(found, "ConfigMap", "two-nats-config")["data"]["nats.conf"])
        self.assertEqual(len(routes), 5)
        self.assertLessEqual(set(routes), set(names))
        for role in ("edge", "ingest"):
            main = containers(named(found, "Deployment", f"two-{role}"))[0]
            self.assertEqual(environment(main)["TELECAST__NATS__URL"], "tls://two-nats:4222")

    def test_nodes_never_hold_the_key_of_servers(self):
        for values in ({"tls": {"enabled": True}}, {"enabled": False, "url": "tls://a:4222", "tls": {"enabled": True}}):
            found = installed({"nats": values, "natsBox": {"enabled": True}})
            for workload in of_kind(found, "Deployment"):
                secrets = [volume["secret"] for volume in pod(workload)["spec"]["volumes"] if "secret" in volume]
                self.assertEqual([secret["items"] for secret in secrets], [[{"key": "ca.crt", "path": "ca.crt"}]])
                (given,) = [item["value"] for item in containers(workload)[0]["env"] if item["name"] == "SSL_CERT_FILE"]
                self.assertEqual(given, "/etc/nats-tls/ca.crt")


def make_certificate(folder):
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", f"{folder}/tls.key", "-out", f"{folder}/tls.crt", "-subj", "/CN=nats"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    (Path(folder) / "ca.crt").write_bytes((Path(folder) / "tls.crt").read_bytes())


class Lint(unittest.TestCase):
    def test_helm_has_nothing_to_say(self):
        for files in FILES.values():
            ended = helm("lint", "--strict", CHART, *(word for name in files for word in ("--values", CHART / name)))
            self.assertEqual(ended.returncode, 0, ended.stdout + ended.stderr)
            self.assertNotIn("[WARNING]", ended.stdout)

    def test_kubernetes_takes_what_each_file_of_values_gives(self):
        for files in [*FILES.values(), *((f"ci/{file.name}",) for file in (CHART / "ci").iterdir())]:
            self.assertEqual(list(charts.problems(everything(files=files))), [], files)
        monitors = {"serviceMonitor": {"enabled": True}, "nats": {"exporter": {"enabled": True}}}
        self.assertEqual(list(charts.problems(everything(monitors))), [])

    def test_runbooks_are_where_one_says(self):
        found = installed({"prometheusRule": {"enabled": True, "runbookUrl": "https://wiki.example.com/telecast/"}})
        links = re.findall(r'"runbook_url": "([^"]+)"', json.dumps(found))
        self.assertGreater(len(links), 20)
        for link in links:
            self.assertRegex(link, r"^https://wiki\.example\.com/telecast/\w+\.md#\w+$")

    def test_a_service_monitor_finds_each_pod_once(self):
        found = installed({"serviceMonitor": {"enabled": True}})
        services = [item for item in of_kind(found, "Service")]
        seen = []
        for monitor in of_kind(found, "ServiceMonitor"):
            (endpoint,) = monitor["spec"]["endpoints"]
            for service in services:
                if selects(monitor["spec"]["selector"], service["metadata"]["labels"]):
                    self.assertIn(endpoint["port"], [port["name"] for port in service["spec"]["ports"]])
                    selector = {"matchLabels": service["spec"]["selector"]}
                    seen += [item["metadata"]["name"] for item in of_kind(found, "Deployment", "StatefulSet")
                             if selects(selector, pod(item)["metadata"]["labels"])]
        self.assertEqual(sorted(seen), ["edge", "ingest", "nats"])


class Documents(unittest.TestCase):
    def test_the_readme_has_every_value_as_it_is(self):
        """helm-docs writes it; UPDATE_DOCUMENTATION=1 keeps what it writes."""
        command = [tool("helm-docs"), "--chart-search-root", CHART, "--log-level", "warning", "--sort-values-order", "file"]
        readme = CHART / "README.md"
        if os.environ.get("UPDATE_DOCUMENTATION"):
            subprocess.run(command, check=True, timeout=60)
        ended = subprocess.run([*command, "--dry-run"], capture_output=True, text=True, timeout=60)
        self.assertEqual(ended.returncode, 0, ended.stderr)
        self.assertEqual(readme.read_text().strip(), ended.stdout.strip(), "UPDATE_DOCUMENTATION=1 tests/deploy/run.py test_helm.Documents")
        self.assertEqual(re.findall(r"(?m)^\| (\S+) \|.*\|  \|$", ended.stdout), [], "values without a line above that begins with `# --`")

    def test_chart_and_program_have_one_number(self):
        chart = charts.documents((CHART / "Chart.yaml").read_text())[0]
        version = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
        self.assertEqual((chart["version"], chart["appVersion"]), (version, version))

    def test_notes_say_where_to_connect_and_what_is_missing(self):
        self.assertIn("ws://edge.telecast:3002/ws", notes({}))
        self.assertIn("port-forward service/ingest 9090", notes({}))
        self.assertIn("image.repository", notes({}))
        self.assertIn("asks for no password", notes({}))
        outside = notes({"gateway": {"enabled": True, "hostnames": ["live.example.com"]}, "image": {"repository": "r.example.com/telecast"}})
        self.assertIn("wss://live.example.com/ws/collector", outside)
        self.assertNotIn("published nowhere", outside)

    def test_a_package_has_what_is_needed_and_no_more(self):
        with tempfile.TemporaryDirectory() as folder:
            self.assertEqual(helm("package", CHART, "--destination", folder).returncode, 0)
            (package,) = Path(folder).iterdir()
            with tarfile.open(package) as archive:
                names = {name.removeprefix("telecast/") for name in archive.getnames()}
            ended = charts.template(chart=package)
            self.assertLess(package.stat().st_size, 200_000, "a release is kept in a secret of 1 MiB, with this in it")
        self.assertLessEqual({"README.md", "values.schema.json", "files/config/edge.toml", "values-production.yaml"}, names)
        self.assertFalse({name for name in names if name.startswith("ci/") or name.endswith(".gotmpl")})
        self.assertEqual(charts.documents(ended.stdout), everything())


def notes(values):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as own:
        own.write(json.dumps(values))
        own.flush()
        ended = helm("install", "telecast", CHART, "--namespace", "telecast", "--dry-run=client", "--values", own.name)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.partition("NOTES:")[2]


class Status(Stage):
    """The pod of `helm test`, as processes."""

    def test_helm_test_passes_where_nodes_work_and_fails_where_one_does_not(self):
        hooks = [item for item in everything() if charts.hook(item)]
        (tester,) = of_kind(hooks, "Pod")
        nats = self.one_nats()
        edge, ingest = self.node("edge", nats), self.node("ingest", nats)
        self.ready(edge, ingest)
        addresses = {"edge": edge[1], "ingest": ingest[1]}
        for container in tester["spec"]["containers"]:
            role = container["name"]
            (port,) = named(installed(), "Service", role)["spec"]["ports"]
            self.assertIn(f"http://{role}:{port['port']}", container["args"])
            for address, code in ((addresses[role], 0), (f"127.0.0.1:{free_port()}", 1)):
                words = [word.replace(f"{role}:{port['port']}", address) for word in container["args"]]
                ended = subprocess.run([telecast(), *words], capture_output=True, text=True, timeout=60)
                self.assertEqual(ended.returncode != 0, code != 0, ended.stdout + ended.stderr)

    def test_network_policies_let_the_test_reach_nodes(self):
        found = everything()
        (tester,) = of_kind(found, "Pod")
        labels = tester["metadata"]["labels"]
        policies = [item for item in of_kind(found, "NetworkPolicy") if selects(item["spec"]["podSelector"], labels)]
        reached = set()
        for policy in policies:
            for rule in policy["spec"].get("egress", []):
                for peer in [each["podSelector"] for each in rule["to"] if "podSelector" in each]:
                    reached |= {item["metadata"]["name"] for item in of_kind(found, "Deployment")
                                if selects(peer, pod(item)["metadata"]["labels"])}
        self.assertEqual(reached, {"edge", "ingest"})
        self.assertTrue(all(named(found, "NetworkPolicy", role)["spec"]["ingress"][0].get("from") is None for role in reached))


if __name__ == "__main__":
    unittest.main()
