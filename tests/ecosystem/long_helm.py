"""The Helm chart over many combinations of values, in both lines of Helm, and as chart-testing judges it."""

import itertools
import os
import subprocess
import unittest
from concurrent.futures import ThreadPoolExecutor

import charts
from charts import CHART, FILES, defaults, everything, merged, nested
from support import ROOT, TOOLS, tool
from test_kubernetes import named, of_kind, pod, selects

# Choices that do not depend on each other: every pair of them is rendered together.
CHOICES = {
    "nats": [
        {},
        {"nats": {"auth": {"enabled": True}}},
        {"nats": {"auth": {"enabled": True}, "replicas": 5, "tls": {"enabled": True, "certManager": True}}, "natsBox": {"enabled": True}},
        {"nats": {"replicas": 1, "antiAffinity": "none", "exporter": {"enabled": False}}},
        {"nats": {"enabled": False, "url": "nats://one:4222"}},
        {"nats": {"enabled": False, "url": "tls://one:4222", "tls": {"enabled": True}}, "natsBox": {"enabled": True}},
        {"nats": {"enabled": False, "url": "tls://one:4222", "token": {"existingSecret": "token"}}},
        {"nats": {"enabled": False, "url": "tls://one:4222", "credentials": {"existingSecret": "creds"}}},
    ],
    "scaling": [
        {},
        {"edge": {"hpa": {"enabled": False}, "replicas": 4}, "ingest": {"hpa": {"enabled": False}, "replicas": 0}},
        {"edge": {"hpa": {"enabled": False}, "keda": {"enabled": True}}},
        {"edge": {"prometheusAdapter": {"enabled": True}}},
    ],
    "outside": [
        {},
        {"gateway": {"enabled": True}},
        {"gateway": {"enabled": True, "hostnames": ["a.example.com", "b.example.com"], "envoyPolicies": False}},
        {"gateway": {"enabled": True, "create": False, "parentRefs": [{"name": "shared", "namespace": "gateways"}]}},
        {"ingress": {"enabled": True, "hosts": ["a.example.com", "b.example.com"]}},
        {"ingress": {"enabled": True, "tlsSecret": "", "className": "", "nginxAnnotations": False}},
        {"edge": {"service": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "loadBalancerSourceRanges": ["10.0.0.0/8"]}}},
        {"edge": {"service": {"type": "NodePort"}}, "ingest": {"service": {"type": "NodePort"}}},
    ],
    "monitoring": [
        {},
        {"podMonitor": {"enabled": True, "labels": {"release": "prometheus"}}, "prometheusRule": {"enabled": True}},
        {"serviceMonitor": {"enabled": True}, "dashboards": {"enabled": True, "annotations": {"grafana_folder": "Telecast"}}},
    ],
    "policies": [
        {},
        {"networkPolicy": {"enabled": False}},
        {"networkPolicy": {"clientsFrom": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "metricsFrom": []}},
    ],
    "names": [{}, {"namePrefix": "two-", "commonLabels": {"team": "metrics"}}],
    "budgets": [{}, {"edge": {"pdb": {"enabled": False}}, "nats": {"pdb": {"maxUnavailable": "50%"}}}],
}
# Values that show only where something else is switched on.
NEEDED = {
    "edge.keda": {"edge": {"hpa": {"enabled": False}, "keda": {"enabled": True}}},
    "edge.prometheusAdapter": {"edge": {"prometheusAdapter": {"enabled": True}}},
    "edge.replicas": {"edge": {"hpa": {"enabled": False}}},
    "ingest.replicas": {"ingest": {"hpa": {"enabled": False}}},
    "edge.service": {"edge": {"service": {"type": "LoadBalancer"}}},
    "ingest.service": {"ingest": {"service": {"type": "LoadBalancer"}}},
    "nats.tls": {"nats": {"tls": {"enabled": True}}},
    "nats.auth": {"nats": {"auth": {"enabled": True}}},
    "nats.url": {"nats": {"enabled": False, "url": "nats://a:4222"}},
    "nats.credentials": {"nats": {"enabled": False, "url": "nats://a:4222", "credentials": {"existingSecret": "c"}}},
    "nats.token": {"nats": {"enabled": False, "url": "nats://a:4222", "token": {"existingSecret": "t"}}},
    "networkPolicy.externalNats": {"nats": {"enabled": False, "url": "nats://a:4222"}},
    **{part: {part: {"enabled": True}} for part in
       ("natsBox", "ingress", "gateway", "podMonitor", "serviceMonitor", "prometheusRule", "dashboards")},
}
# Another value than the default, where none can be guessed from its type.
OTHER = {
    "config.default": {"edge": {"throttle_ms": 9}},
    "config.ingest": {"edge": {"throttle_ms": 9}},
    "config.edge": {"edge": {"throttle_ms": 9}},
    "image.digest": "sha256:" + "b" * 64,
    "nats.image.digest": "sha256:" + "b" * 64,
    "nats.exporter.image.digest": "sha256:" + "b" * 64,
    "natsBox.image.digest": "sha256:" + "b" * 64,
    "edge.service.type": "NodePort",
    "ingest.service.type": "NodePort",
    "edge.service.externalTrafficPolicy": "Local",
    "ingest.service.externalTrafficPolicy": "Local",
    "nats.url": "nats://b:4222",
    "nats.replicas": 5,
    "nats.goMemLimit": "1GiB",
    "edge.antiAffinity": "none",
    "ingest.antiAffinity": "none",
    "nats.antiAffinity": "required",
    "nats.storage.size": "20Gi",
    "nats.jetstream.maxFileStore": "9GB",
    "nats.jetstream.maxMemoryStore": "9MB",
    "nats.jetstream.syncInterval": "2m",
    "edge.keda.serverAddress": "http://elsewhere:9090",
    "prometheusRule.runbookUrl": "https://wiki.example.com",
    "podMonitor.interval": "30s",
    "serviceMonitor.interval": "30s",
    "networkPolicy.externalNats.ports": [4223],
    "networkPolicy.dns.ports": [{"protocol": "UDP", "port": 5353}],
    "imagePullSecrets": [{"name": "registry"}],
    "gateway.parentRefs": [{"name": "shared"}],
    "extraObjects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-mine"}}],
}
# What cannot change without something else.
TOGETHER = {
    "nats.enabled": {"nats": {"enabled": False, "url": "nats://a:4222"}},
    "gateway.create": {"gateway": {"enabled": True, "create": False, "parentRefs": [{"name": "shared"}]}},
    "edge.keda.enabled": {"edge": {"hpa": {"enabled": False}, "keda": {"enabled": True}}},
}


def pairs():
    """Few combinations in which each pair of choices is: greedily, the one with most pairs that are new."""
    names = list(CHOICES)
    missing = {
        ((a, i), (b, j))
        for a, b in itertools.combinations(names, 2)
        for i in range(len(CHOICES[a]))
        for j in range(len(CHOICES[b]))
    }
    while missing:
        (a, i), (b, j) = min(missing)
        chosen = {a: i, b: j}
        for name in names:
            if name not in chosen:
                chosen[name] = max(range(len(CHOICES[name])), key=lambda each: gained(chosen, name, each, missing))
        missing -= set(itertools.combinations([(name, chosen[name]) for name in names], 2))
        yield merged(*(CHOICES[name][chosen[name]] for name in names))


def gained(chosen, name, each, missing):
    order = list(CHOICES)
    return sum(tuple(sorted([(name, each), other], key=lambda item: order.index(item[0]))) in missing for other in chosen.items())


def leaves(values, path=""):
    """Every value that has a meaning of its own: Kubernetes' objects are one."""
    for name, value in values.items():
        here = f"{path}.{name}" if path else name
        whole = name in ("resources", "behavior", "labels", "annotations")
        if isinstance(value, dict) and value and not whole:
            yield from leaves(value, here)
        else:
            yield here, value


def another(path, value):
    if path in OTHER:
        return OTHER[path]
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)) or path.endswith("replicas"):
        return (value or 4) + 1
    if path.endswith(("extraEnv", "Volumes", "VolumeMounts", "Metrics", "From", "tolerations", "Constraints", ".to")):
        spread = {"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "ScheduleAnyway"}
        return [spread] if path.endswith("Constraints") else [{"name": "other"}]
    if isinstance(value, list):
        return ["other.example.com"]
    if path.endswith(("requests", "limits", "resources")):
        return {"limits": {"memory": "7Gi"}}
    if isinstance(value, dict):
        return {"other": {"a": "b"}} if path.endswith("ffinity") else {"other": "value"}
    return "Always" if path.endswith("pullPolicy") else "other"


class Matrix(unittest.TestCase):
    def test_kubernetes_takes_every_pair_of_choices_from_both_helms(self):
        combinations = list(pairs())
        self.assertGreater(len(combinations), 40)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            jobs = [(values, program) for values in combinations for program in ("helm", "helm3")]
            list(pool.map(lambda job: everything(job[0], program=job[1]), jobs))
        for values in combinations:
            found = everything(values)
            self.assertEqual(found, everything(values, program="helm3"), values)
            self.assertEqual(list(charts.problems(found)), [], values)
            self.whole(found, values)

    def whole(self, found, values):
        """No two objects of one name, and everything that is referred to is there."""
        names = [(item["kind"], item["metadata"]["name"]) for item in found]
        self.assertEqual(len(names), len(set(names)), values)
        workloads = of_kind(found, "Deployment", "StatefulSet")
        for workload in workloads:
            spec = pod(workload)["spec"]
            named(found, "ServiceAccount", spec["serviceAccountName"])
            volumes = {volume["name"] for volume in spec["volumes"]} | {"data"}
            for volume in spec["volumes"]:
                if "configMap" in volume:
                    named(found, "ConfigMap", volume["configMap"]["name"])
            for container in spec["containers"]:
                self.assertLessEqual({mount["name"] for mount in container.get("volumeMounts", [])}, volumes)
            self.assertTrue(selects(workload["spec"]["selector"], pod(workload)["metadata"]["labels"]))
        for scaler in of_kind(found, "HorizontalPodAutoscaler", "ScaledObject"):
            target = named(found, "Deployment", scaler["spec"]["scaleTargetRef"]["name"])
            self.assertNotIn("replicas", target["spec"], values)
        for service in of_kind(found, "Service"):
            selector = {"matchLabels": service["spec"]["selector"]}
            chosen = [item for item in workloads if selects(selector, pod(item)["metadata"]["labels"])]
            self.assertEqual(len(chosen), 1, service["metadata"]["name"])

    def test_every_value_changes_what_is_rendered(self):
        jobs = []
        for path, value in leaves(defaults()):
            part = next((prefix for prefix in NEEDED if path.startswith(prefix) and path != f"{prefix}.enabled"), None)
            before = NEEDED.get(part, {})
            jobs.append((path, before, merged(before, TOGETHER.get(path) or nested(path, another(path, value)))))
        self.assertGreater(len(jobs), 120)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            same = list(pool.map(lambda job: everything(job[1]) == everything(job[2]), jobs))
        self.assertEqual([path for (path, _, _), unchanged in zip(jobs, same) if unchanged], [])


class Publishing(unittest.TestCase):
    def test_chart_testing_would_let_it_into_a_repository(self):
        folder = TOOLS / "chart-testing"
        command = [tool("ct"), "lint", "--charts", CHART, "--validate-maintainers=false", "--check-version-increment=false"]
        command += ["--chart-yaml-schema", folder / "chart_schema.yaml", "--lint-conf", folder / "lintconf.yaml"]
        path = f"{folder / 'bin'}:{os.environ['PATH']}"
        ended = subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=120)
        self.assertEqual(ended.returncode, 0, ended.stdout + ended.stderr)
        self.assertIn("ci/everything-values.yaml", ended.stdout)

    def test_objects_of_ones_own_are_templates(self):
        values = {"extraObjects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-mine"}}]}
        named(everything(values), "ConfigMap", "telecast-mine")

    def test_each_base_renders_alike_in_both_helms(self):
        for files in FILES.values():
            self.assertEqual(everything(files=files), everything(files=files, program="helm3"), files)


if __name__ == "__main__":
    unittest.main()
