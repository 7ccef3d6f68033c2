"""The manifests: rendered in every combination, held to Kubernetes' schemas, to those of the custom resources, and to the program."""

import copy
import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile
import tomllib
import unittest
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import yaml

from monitoring import known
from support import (
    FOR_ALL,
    ROOT,
    TOOLS,
    configuration,
    documents,
    drain_seconds,
    metrics,
    nats_server,
    paths,
    tool,
)

BASES = ["base", "overlays/dev", "overlays/production"]
COMPONENTS = [
    "gateway-api",
    "ingress-nginx",
    "prometheus-operator",
    "grafana-dashboards",
    "keda",
    "prometheus-adapter",
    "nats-box",
    "nats-tls",
    "nats-certificates",
]
# Both want to be the autoscaler of edges.
NOT_TOGETHER = {"keda", "prometheus-adapter"}
ROLES = ["ingest", "edge"]
# Whoever deploys makes them: docs/kubernetes.md.
SECRETS = {"telecast-admin", "telecast-nats", "telecast-tls"}
WORKLOADS = ["Deployment", "StatefulSet"]
# The oldest that docs/kubernetes.md names, and the newest whose schema is at hand.
KUBERNETES = ["1.29", "1.37"]


def combinations():
    """Each base with every pair of components, and with all that go together in both orders."""
    for base in BASES:
        yield base, ()
        for components in [*itertools.combinations(COMPONENTS, 1), *itertools.combinations(COMPONENTS, 2)]:
            if not NOT_TOGETHER <= set(components):
                yield base, components
        for components, _ in everything(base):
            yield base, components
            yield base, components[::-1]


def kustomize(folder):
    command = [shutil.which("kubectl"), "kustomize"] if shutil.which("kubectl") else [tool("kustomize"), "build"]
    ended = subprocess.run([*command, str(folder)], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, f"{folder}: {ended.stderr}"
    assert not ended.stderr, f"{folder}: {ended.stderr}"
    return ended.stdout


@cache
def rendered(base, components=()):
    if not components:
        return kustomize(ROOT / "k8s" / base)
    return overlay({"resources": [f"../{base}"], "components": [f"../components/{name}" for name in components]})


def overlay(kustomization):
    """What a kustomization in a folder of k8s renders: kustomize takes relative paths only."""
    with tempfile.TemporaryDirectory(dir=ROOT / "k8s", prefix=".test-") as folder:
        kind = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump({**kind, **kustomization}))
        return kustomize(folder)


@cache
def objects(base, components=()):
    return documents(rendered(base, components))


def everything(base):
    """All components that go together, with KEDA; and those with the adapter."""
    for autoscaler in sorted(NOT_TOGETHER):
        components = tuple(name for name in COMPONENTS if name not in NOT_TOGETHER - {autoscaler})
        yield components, objects(base, components)


def bases_and_everything():
    for base in BASES:
        yield base, objects(base)
        for _, found in everything(base):
            yield base, found


def of_kind(found, *kinds):
    return [item for item in found if item["kind"] in kinds]


def named(found, kind, name):
    items = [item for item in of_kind(found, kind) if item["metadata"]["name"] == name]
    assert len(items) == 1, f"{kind} {name}: {len(items)} of them"
    return items[0]


def pod(workload):
    return workload["spec"]["template"]


def containers(workload):
    return pod(workload)["spec"]["containers"]


def selects(selector, labels):
    """Whether a label selector takes these labels."""
    known = {"matchLabels", "matchExpressions"}
    assert selector.keys() <= known, selector
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for term in selector.get("matchExpressions", []):
        assert term["operator"] == "In", term
        if labels.get(term["key"]) not in term["values"]:
            return False
    return True


def selected(found, selector):
    return [item for item in of_kind(found, *WORKLOADS) if selects(selector, pod(item)["metadata"]["labels"])]


def ports(workload):
    """Ports of a pod by name."""
    return {port["name"]: port["containerPort"] for item in containers(workload) for port in item.get("ports", [])}


def environment(container):
    """What the container's environment would be; references get a text in their place."""
    return {item["name"]: item.get("value", "by-reference") for item in container.get("env", [])}


def config_map(found, workload, volume):
    volumes = {item["name"]: item for item in pod(workload)["spec"]["volumes"]}
    return named(found, "ConfigMap", volumes[volume]["configMap"]["name"])


def settings(found, role):
    """What the program makes of the files and variables a role's pod has."""
    workload = named(found, "Deployment", role)
    with tempfile.TemporaryDirectory() as folder:
        for name, text in config_map(found, workload, "config")["data"].items():
            (Path(folder) / name).write_text(text)
        variables = environment(containers(workload)[0])
        mounts = {mount["name"]: mount["mountPath"] for mount in containers(workload)[0]["volumeMounts"]}
        assert variables["TELECAST_CONFIG_DIR"] == mounts["config"], mounts
        return configuration(role, variables, folder)


def strict(schema):
    """A custom resource's schema that refuses members it does not name, as `kubectl apply` with strict validation does."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: strict(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not open_ended:
        schema["additionalProperties"] = False
    return schema


@cache
def custom_schemas():
    if not (TOOLS / "crds").is_dir():
        raise AssertionError(
            "definitions of custom resources are missing: scripts/setup-operations.py fetches them, or says what it lacks for that"
        )
    schemas = {}
    for file in (TOOLS / "crds").glob("*.yaml"):
        for definition in documents(file.read_text()):
            for version in definition["spec"]["versions"]:
                schema = strict(version["schema"]["openAPIV3Schema"])
                # Kubernetes itself knows what is in there.
                schema["properties"]["metadata"] = {"type": "object"}
                key = (f"{definition['spec']['group']}/{version['name']}", definition["spec"]["names"]["kind"])
                schemas[key] = schema
    return schemas


class Schemas(unittest.TestCase):
    def test_what_a_custom_resource_does_not_know_is_refused(self):
        import jsonschema

        for kind, change in {
            "ScaledObject": lambda spec: spec.update(minReplicas=2),
            "HTTPRoute": lambda spec: spec["rules"][0].update(timeout={}),
            "BackendTrafficPolicy": lambda spec: spec["loadBalancer"].update(type="LeastConnections"),
            "PodMonitor": lambda spec: spec["podMetricsEndpoints"][0].update(interval=15),
        }.items():
            (item,) = copy.deepcopy(of_kind(objects("base", ("gateway-api", "prometheus-operator", "keda")), kind)[:1])
            validator = jsonschema.Draft7Validator(custom_schemas()[item["apiVersion"], kind])
            validator.validate(item)
            change(item["spec"])
            self.assertFalse(validator.is_valid(item), kind)


class Rendering(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda each: rendered(*each), combinations()))

    def test_every_combination_is_what_kubernetes_takes(self):
        import jsonschema
        import kubernetes_validate

        seen, custom = set(), 0
        for base, components in combinations():
            for item in objects(base, components):
                text = json.dumps(item)
                if text in seen:
                    continue
                seen.add(text)
                where = f"{base} with {components}: {item['kind']} {item['metadata']['name']}"
                schema = custom_schemas().get((item["apiVersion"], item["kind"]))
                try:
                    if schema:
                        custom += 1
                        jsonschema.Draft7Validator(schema).validate(item)
                    for version in [] if schema else KUBERNETES:
                        kubernetes_validate.validate(copy.deepcopy(item), version, strict=True)
                except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
                    self.fail(f"{where}: {error.message} at {list(error.path)}")
        self.assertGreaterEqual(custom, 8, "no custom resource was looked at")

    def test_the_base_needs_nothing_but_kubernetes(self):
        groups = {item["apiVersion"].split("/")[0] for item in objects("base")}
        self.assertLessEqual(groups, {"v1", "apps", "autoscaling", "networking.k8s.io", "policy"})

    def test_no_object_is_there_twice_and_all_are_in_one_namespace(self):
        for base, components in combinations():
            found = objects(base, components)
            names = [(item["kind"], item["metadata"]["name"]) for item in found]
            self.assertEqual(len(names), len(set(names)), f"{base} with {components}")
            for item in found:
                if item["kind"] != "Namespace":
                    self.assertEqual(item["metadata"]["namespace"], "telecast", item["metadata"])
                self.assertEqual(item["metadata"]["labels"]["app.kubernetes.io/part-of"], "telecast")

    def test_edges_have_one_autoscaler(self):
        for base in BASES:
            for components, found in everything(base):
                scalers = of_kind(found, "HorizontalPodAutoscaler", "ScaledObject")
                edge = [item for item in scalers if item["spec"]["scaleTargetRef"]["name"] == "edge"]
                expected = 0 if base == "overlays/dev" and "keda" not in components else 1
                self.assertEqual(len(edge), expected, f"{base} with {components}")

    def test_two_autoscalers_are_refused_in_any_order(self):
        for components in itertools.permutations(sorted(NOT_TOGETHER)):
            with self.assertRaisesRegex(AssertionError, "keda-or-prometheus-adapter-not-both"):
                rendered("base", components)

    def test_keda_keeps_at_least_as_many_edges_as_the_autoscaler_that_it_replaces(self):
        for base in BASES:
            scaled = named(objects(base, ("keda",)), "ScaledObject", "edge")["spec"]
            for item in of_kind(objects(base), "HorizontalPodAutoscaler"):
                if item["spec"]["scaleTargetRef"]["name"] == "edge":
                    self.assertGreaterEqual(scaled["minReplicaCount"], item["spec"]["minReplicas"], base)
                    self.assertGreaterEqual(scaled["maxReplicaCount"], item["spec"]["maxReplicas"], base)

    def test_a_prometheus_without_an_answer_takes_no_edge_away(self):
        spec = named(objects("base", ("keda",)), "ScaledObject", "edge")["spec"]
        asked = [each["metadata"] for each in spec["triggers"] if each["type"] == "prometheus"]
        self.assertEqual([each["ignoreNullValues"] for each in asked], ["false"])
        # What follows a failed query.
        self.assertEqual(spec["fallback"]["behavior"], "currentReplicasIfHigher")
        self.assertGreaterEqual(spec["fallback"]["replicas"], spec["minReplicaCount"])


class Indented(yaml.SafeDumper):
    """Lists are indented below their key, as in all files here."""

    def increase_indent(self, flow=False, indentless=False):
        return super().increase_indent(flow, False)

    def represent_text(self, text):
        """Queries of several lines as such, and not as one line of escapes."""
        return self.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


Indented.add_representer(str, Indented.represent_text)


class Rules(unittest.TestCase):
    """Prometheus gets the same rules from its operator as from files."""

    def test_the_operators_rules_are_those_of_prometheus(self):
        groups = []
        for file in sorted((ROOT / "prometheus/rules").glob("*.yml")):
            groups += documents(file.read_text())[0]["groups"]
        item = {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": "telecast"},
            "spec": {"groups": groups},
        }
        text = "# Generated from prometheus/rules: UPDATE_DOCUMENTATION=1 tests/deploy/run.py test_kubernetes.Rules writes it anew.\n"
        text += yaml.dump(item, Dumper=Indented, sort_keys=False, width=120, allow_unicode=True)
        path = ROOT / "k8s/components/prometheus-operator/rules.yaml"
        if os.environ.get("UPDATE_DOCUMENTATION"):
            path.write_text(text)
        self.assertEqual(path.read_text(), text)

    def test_addresses_of_runbooks_can_lead_elsewhere(self):
        """As docs/alerting.md has it."""
        (text,) = re.findall(r"```yaml\n(configMapGenerator:\n  - name: runbooks\n.*?)```", (ROOT / "docs/alerting.md").read_text(), re.S)
        mine = {"resources": ["../base"], "components": ["../components/prometheus-operator"], **documents(text)[0]}
        found = documents(overlay(mine))
        rules = [rule for item in of_kind(found, "PrometheusRule") for group in item["spec"]["groups"] for rule in group["rules"]]
        addresses = [rule["annotations"]["runbook_url"] for rule in rules if "alert" in rule]
        self.assertGreater(len(addresses), 40)
        for address in addresses:
            self.assertRegex(address, r"^https://git\.example\.com/telecast/blob/main/docs/runbooks/[a-z]+\.md#[a-z]+$")
        # What carries the address stays out of the cluster, and recording rules have nothing to lead to.
        self.assertFalse([item for item in of_kind(found, "ConfigMap") if item["metadata"]["name"].startswith("runbooks")])
        self.assertFalse([rule for rule in rules if "record" in rule and "annotations" in rule])

    def test_the_sidecar_of_grafana_finds_both_boards(self):
        found = of_kind(objects("base", ("grafana-dashboards",)), "ConfigMap")
        boards = {item["metadata"]["name"]: item for item in found if item["metadata"].get("labels", {}).get("grafana_dashboard") == "1"}
        self.assertEqual(set(boards), {"board-telecast-cluster", "board-websocket-server"})
        for item in boards.values():
            ((name, text),) = item["data"].items()
            self.assertEqual(text, (ROOT / "grafana/provisioning/dashboards" / name).read_text())
            # `kubectl apply` keeps the object, as text, in an annotation of it, which may have 256 KiB.
            self.assertLess(len(json.dumps(item)), 200 << 10)

    def test_rules_know_the_jobs_of_the_operator(self):
        found = objects("base", ("prometheus-operator",))
        jobs = {name for monitor in of_kind(found, "PodMonitor") for pod_set in selected(found, monitor["spec"]["selector"])
                for name in [pod_set["metadata"]["name"]]}
        expressions = [rule["expr"] for item in of_kind(found, "PrometheusRule") for group in item["spec"]["groups"] for rule in group["rules"]]
        terms = re.findall(r'job!?=~?"telecast/\(?([^")]+)\)?"', "\n".join(expressions))
        asked = {job for term in terms for job in term.split("|")}
        # Standalone nodes are another way to run it.
        self.assertEqual(asked - {"standalone"}, jobs)
        relabeled = [
            relabeling
            for monitor in of_kind(found, "PodMonitor")
            for relabeling in monitor["spec"]["podMetricsEndpoints"][0]["relabelings"]
            if relabeling["targetLabel"] == "job"
        ]
        self.assertEqual({relabeling["replacement"] for relabeling in relabeled}, {"telecast/$1"})


class References(unittest.TestCase):
    def test_what_is_referred_to_exists(self):
        for _, found in bases_and_everything():
            for workload in of_kind(found, *WORKLOADS):
                spec = pod(workload)["spec"]
                named(found, "ServiceAccount", spec["serviceAccountName"])
                for volume in spec["volumes"]:
                    if "configMap" in volume:
                        name = volume["configMap"]["name"]
                        named(found, "ConfigMap", name)
                        # With a hash, so that a change rolls the pods.
                        self.assertRegex(name, r"-[a-z0-9]{10}$")
                volumes = {volume["name"] for volume in spec["volumes"]}
                volumes |= {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
                for container in spec["containers"]:
                    self.assertLessEqual({mount["name"] for mount in container.get("volumeMounts", [])}, volumes)

    def test_secrets_are_referred_to_and_never_shipped(self):
        for base in BASES:
            for _, found in everything(base):
                self.assertEqual(of_kind(found, "Secret"), [])
                referred = set(re.findall(r'"secretKeyRef": \{[^}]*"name": "([^"]+)"', json.dumps(found)))
                self.assertLessEqual(referred, SECRETS)
                for workload in of_kind(found, *WORKLOADS):
                    for item in [item for container in containers(workload) for item in container.get("env", [])]:
                        if re.search("PASSWORD|TOKEN|SECRET", item["name"]):
                            self.assertIn("secretKeyRef", item["valueFrom"], item)

    def test_only_production_insists_on_its_secrets(self):
        for base in BASES:
            references = [
                item["valueFrom"]["secretKeyRef"]
                for workload in of_kind(objects(base), *WORKLOADS)
                for container in containers(workload)
                for item in container.get("env", [])
                if "secretKeyRef" in item.get("valueFrom", {})
            ]
            self.assertTrue(references)
            optional = {reference.get("optional", False) for reference in references}
            self.assertEqual(optional, {base != "overlays/production"}, base)

    def test_selectors_find_pods_and_ports_have_names(self):
        for base in BASES:
            for _, found in everything(base):
                for service in of_kind(found, "Service"):
                    pods = selected(found, {"matchLabels": service["spec"]["selector"]})
                    self.assertEqual(len(pods), 1, service["metadata"]["name"])
                    for port in service["spec"]["ports"]:
                        self.assertEqual(ports(pods[0])[port["targetPort"]], port["port"], service["metadata"]["name"])
                for item in of_kind(found, "PodDisruptionBudget"):
                    self.assertEqual(len(selected(found, item["spec"]["selector"])), 1, item["metadata"]["name"])
                for item in of_kind(found, "PodMonitor"):
                    pods = selected(found, item["spec"]["selector"])
                    self.assertTrue(pods)
                    for endpoint in item["spec"]["podMetricsEndpoints"]:
                        self.assertTrue(all(endpoint["port"] in ports(each) for each in pods))
                        self.assertIn(endpoint["path"], paths("operator"))
                for item in of_kind(found, "HorizontalPodAutoscaler", "ScaledObject"):
                    named(found, "Deployment", item["spec"]["scaleTargetRef"]["name"])
                for workload in of_kind(found, *WORKLOADS):
                    self.assertTrue(selects(workload["spec"]["selector"], pod(workload)["metadata"]["labels"]))

    def test_routes_lead_to_whom_serves_the_path(self):
        for _, found in everything("overlays/production"):
            routed = {}
            for route in of_kind(found, "HTTPRoute"):
                for rule in route["spec"]["rules"]:
                    (backend,) = rule["backendRefs"]
                    service = named(found, "Service", backend["name"])
                    self.assertIn(backend["port"], [port["port"] for port in service["spec"]["ports"]])
                    for match in rule["matches"]:
                        # A prefix would let through what is for operators alone.
                        self.assertEqual(match["path"]["type"], "Exact")
                        routed.setdefault(match["path"]["value"], set()).add(backend["name"])
                    self.assertEqual(rule["timeouts"], {"request": "0s", "backendRequest": "0s"})
            for ingress in of_kind(found, "Ingress"):
                for path in ingress["spec"]["rules"][0]["http"]["paths"]:
                    self.assertEqual(path["pathType"], "Exact")
                    backend = path["backend"]["service"]
                    service = named(found, "Service", backend["name"])
                    self.assertIn(backend["port"]["name"], [port["name"] for port in service["spec"]["ports"]])
                    routed.setdefault(path["path"], set()).add(backend["name"])
                for name in ("proxy-read-timeout", "proxy-send-timeout"):
                    annotations = ingress["metadata"]["annotations"]
                    self.assertEqual(annotations[f"nginx.ingress.kubernetes.io/{name}"], "3600")
            wanted = {path: {"edge"} for path in paths("client") | FOR_ALL}
            self.assertEqual(routed, wanted | {path: {"ingest"} for path in paths("collector")})

    def test_policies_name_ports_that_their_pods_have(self):
        for _, found in bases_and_everything():
            deny = named(found, "NetworkPolicy", "default-deny")["spec"]
            self.assertEqual(deny, {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})
            for policy in of_kind(found, "NetworkPolicy"):
                spec = policy["spec"]
                if policy["metadata"]["name"] == "http01-solver":
                    # Pods of cert-manager.
                    continue
                own = selected(found, spec["podSelector"])
                self.assertTrue(own, policy["metadata"]["name"])
                for rule in spec.get("ingress", []):
                    for port in rule["ports"]:
                        has = [port["port"] in ports(each) for each in own]
                        # What is for all pods is for those that have it.
                        self.assertTrue(all(has) if spec["podSelector"] else any(has), policy["metadata"]["name"])
                for rule in spec.get("egress", []):
                    for peer in [peer for peer in rule["to"] if "podSelector" in peer]:
                        for target in selected(found, peer["podSelector"]):
                            for port in rule["ports"]:
                                self.assertIn(port["port"], ports(target).values(), policy["metadata"]["name"])
            for role in ROLES:
                self.assertIn("http", json.dumps(named(found, "NetworkPolicy", role)["spec"]["ingress"]))


class Pods(unittest.TestCase):
    def test_every_pod_is_restricted(self):
        for _, found in bases_and_everything():
            labels = named(found, "Namespace", "telecast")["metadata"]["labels"]
            self.assertEqual(labels["pod-security.kubernetes.io/enforce"], "restricted")
            for workload in of_kind(found, *WORKLOADS):
                spec = pod(workload)["spec"]
                account = named(found, "ServiceAccount", spec["serviceAccountName"])
                self.assertFalse(account["automountServiceAccountToken"] or spec["automountServiceAccountToken"])
                self.assertTrue(spec["securityContext"]["runAsNonRoot"])
                self.assertGreater(spec["securityContext"]["runAsUser"], 0)
                self.assertEqual(spec["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
                for container in spec["containers"]:
                    context = container["securityContext"]
                    self.assertFalse(context["allowPrivilegeEscalation"])
                    self.assertTrue(context["readOnlyRootFilesystem"])
                    self.assertEqual(context["capabilities"], {"drop": ["ALL"]})
                    self.assertLessEqual({"cpu", "memory"}, container["resources"]["requests"].keys())
                    self.assertIn("memory", container["resources"]["limits"])
                    self.assertRegex(container["image"], r":[^:]+$")
                    self.assertNotRegex(container["image"], ":latest$")

    def test_a_drain_of_a_machine_deletes_nothing_that_it_would_ask_about(self):
        for _, found in bases_and_everything():
            for workload in of_kind(found, *WORKLOADS):
                local = [volume["name"] for volume in pod(workload)["spec"]["volumes"] if "emptyDir" in volume]
                self.assertEqual(local, [], "kubectl drain refuses to go on without --delete-emptydir-data")

    def test_nats_hands_over_before_it_goes(self):
        for base in BASES:
            nats = named(objects(base), "StatefulSet", "nats")
            main = containers(nats)[0]
            # The signal is for the first process of the container, which must be the server itself.
            self.assertEqual(main["command"][0], "nats-server")
            self.assertNotIn("shareProcessNamespace", pod(nats)["spec"])
            self.assertEqual(main["lifecycle"]["preStop"]["exec"]["command"], ["nats-server", "--signal=ldm=1"])

    def test_probes_ask_for_what_is_served(self):
        for base in BASES:
            for workload in of_kind(objects(base), *WORKLOADS):
                main = containers(workload)[0]
                for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                    probe = main[kind]["httpGet"]
                    self.assertIn(probe["port"], ports(workload), main["name"])
                    known = paths("operator") if main["name"] in ROLES else {"/healthz"}
                    self.assertIn(probe["path"].split("?")[0], known)
                if main["name"] in ROLES:
                    self.assertEqual(main["readinessProbe"]["httpGet"], {"path": "/readyz", "port": "http"})
                    self.assertEqual(main["livenessProbe"]["httpGet"]["path"], "/livez")

    def test_a_rollout_takes_no_capacity_and_spreads(self):
        for base in BASES:
            found = objects(base)
            for role in ROLES:
                spec = named(found, "Deployment", role)["spec"]
                self.assertEqual(spec["strategy"]["rollingUpdate"], {"maxSurge": 1, "maxUnavailable": 0})
                self.assertGreaterEqual(spec["minReadySeconds"], 5)
                anti = spec["template"]["spec"]["affinity"]["podAntiAffinity"]
                terms = [each["podAffinityTerm"] for each in anti["preferredDuringSchedulingIgnoredDuringExecution"]]
                self.assertEqual([term["topologyKey"] for term in terms], ["kubernetes.io/hostname", "topology.kubernetes.io/zone"])
                for term in terms:
                    self.assertTrue(selects(term["labelSelector"], spec["template"]["metadata"]["labels"]))
                if base != "overlays/dev":
                    self.assertNotIn("replicas", spec, "an autoscaler decides")

    def test_no_wish_for_spread_is_a_condition(self):
        """long_scheduler shows what conditions do."""
        for base in BASES:
            for workload in of_kind(objects(base), *WORKLOADS):
                spec = pod(workload)["spec"]
                for each in spec.get("topologySpreadConstraints", []):
                    self.assertEqual((each["whenUnsatisfiable"], each["nodeTaintsPolicy"]), ("ScheduleAnyway", "Honor"))
                required = spec["affinity"]["podAntiAffinity"].get("requiredDuringSchedulingIgnoredDuringExecution")
                self.assertEqual(bool(required), (base, workload["metadata"]["name"]) == ("overlays/production", "nats"))

    def test_scaling_down_is_slow_and_one_at_a_time(self):
        for base in ("base", "overlays/production"):
            for _, found in everything(base):
                for item in of_kind(found, "HorizontalPodAutoscaler", "ScaledObject"):
                    spec = item["spec"]
                    spec = spec.get("advanced", {}).get("horizontalPodAutoscalerConfig", spec)
                    down = spec["behavior"]["scaleDown"]
                    self.assertGreaterEqual(down["stabilizationWindowSeconds"], 600)
                    self.assertEqual(down["policies"], [{"type": "Pods", "value": 1, "periodSeconds": 180}])
                    self.assertEqual(spec["behavior"]["scaleUp"]["stabilizationWindowSeconds"], 60)


class Program(unittest.TestCase):
    """What the program itself makes of it."""

    def test_configuration_is_read_and_ports_are_those_of_the_pod(self):
        for base in BASES:
            found = objects(base)
            for role in ROLES:
                effective = settings(found, role)
                open_ports = ports(named(found, "Deployment", role))
                self.assertEqual(effective["server"]["listen"], f"0.0.0.0:{open_ports['http']}")
                self.assertEqual(effective["server"]["metrics_listen"], f"0.0.0.0:{open_ports['metrics']}")
                host, port = re.fullmatch(r"nats://([^:]+):(\d+)", effective["nats"]["url"]).groups()
                service = named(found, "Service", host)
                self.assertIn(int(port), [each["port"] for each in service["spec"]["ports"]])
                servers = named(found, "StatefulSet", "nats")["spec"]["replicas"]
                self.assertLessEqual(effective["log"]["replicas"], servers)
                self.assertEqual(containers(named(found, "Deployment", role))[0]["args"], [role])

    def test_pods_may_take_longer_than_their_drain(self):
        for base in BASES:
            found = objects(base)
            for role in ROLES:
                grace = pod(named(found, "Deployment", role))["spec"]["terminationGracePeriodSeconds"]
                self.assertGreater(grace, drain_seconds(settings(found, role), role), f"{base}: {role}")

    def test_the_short_names_work_as_kubectl_sets_them(self):
        found = copy.deepcopy(objects("base"))
        edge = containers(named(found, "Deployment", "edge"))[0]
        edge["env"] += [{"name": "WS_WORKER_THREADS", "value": "8"}, {"name": "WS_THROTTLE_MS", "value": "100"}]
        effective = settings(found, "edge")
        self.assertEqual((effective["server"]["worker_threads"], effective["edge"]["throttle_ms"]), (8, 100))

    def test_the_log_fits_into_the_store_and_the_store_into_the_volume(self):
        units = {"MB": 10**6, "GB": 10**9, "Gi": 2**30}

        def size(text):
            number, unit = re.fullmatch(r"(\d+)(\w\w)", text).groups()
            return int(number) * units[unit]

        for base in BASES:
            found = objects(base)
            nats = named(found, "StatefulSet", "nats")
            text = config_map(found, nats, "config")["data"]["nats.conf"]
            store = size(re.search(r"max_file_store: (\w+)", text)[1])
            (claim,) = nats["spec"]["volumeClaimTemplates"]
            self.assertLess(store, size(claim["spec"]["resources"]["requests"]["storage"]))
            log = settings(found, "ingest")["log"]
            self.assertLess(log.get("max_bytes", 2**30) * log["shards"], store)

    def test_nats_takes_its_configuration(self):
        for base in BASES:
            found = objects(base)
            nats = named(found, "StatefulSet", "nats")
            main = containers(nats)[0]
            files = config_map(found, nats, "config")["data"]
            text = files["nats.conf"]
            with tempfile.TemporaryDirectory() as folder:
                for name, content in files.items():
                    (Path(folder) / name).write_text(content.replace("/data", folder))
                variables = {**environment(main), "POD_NAME": "nats-0"}
                ended = subprocess.run(
                    [nats_server(), "--config", Path(folder) / "nats.conf", "-t"], env=variables, capture_output=True, text=True, timeout=60
                )
            self.assertEqual(ended.returncode, 0, ended.stderr)
            for name, port in {"port": "client", "http_port": "monitor"}.items():
                self.assertIn(f"{name}: {ports(nats)[port]}\n", text)
            # As many routes as there are servers, each by the name that its pod has.
            routes = re.findall(r"nats-(\d)\.nats-headless:6222", text + " ".join(sorted(environment(main).values())))
            servers = nats["spec"]["replicas"]
            self.assertEqual(routes, [str(each) for each in range(servers)] if servers > 1 else [])
            self.assertEqual(nats["spec"]["serviceName"], "nats-headless")
            # What it takes to leave: handing over, then the end.
            lame = int(re.search(r"lame_duck_duration: (\d+)s", text)[1])
            self.assertGreater(pod(nats)["spec"]["terminationGracePeriodSeconds"], lame + 10)

    def test_three_servers_are_apart_in_production(self):
        affinity = pod(named(objects("overlays/production"), "StatefulSet", "nats"))["spec"]["affinity"]
        required = affinity["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        self.assertEqual([term["topologyKey"] for term in required], ["kubernetes.io/hostname"])

    def test_every_metric_that_is_asked_for_exists(self):
        for _, found in everything("overlays/production"):
            text = json.dumps(found)
            derived = set(re.findall(r'(?:as: |"record": ")(ws_[a-z_]+)', text))
            asked = {re.sub("_bucket$", "", name) for name in re.findall(r"\bws_[a-z_]+", text)}
            self.assertGreaterEqual(len(asked), 2)
            self.assertEqual(asked - known() - derived, set())

    def test_prometheus_can_read_every_query(self):
        promtool = tool("promtool")
        rules = []
        for _, found in everything("overlays/production"):
            for item in of_kind(found, "PrometheusRule"):
                rules += item["spec"]["groups"]
            for item in of_kind(found, "ScaledObject"):
                queries = [each["metadata"]["query"] for each in item["spec"]["triggers"] if each["type"] == "prometheus"]
                rules.append({"name": "keda", "rules": [{"record": "needed", "expr": query} for query in queries]})
        adapter = documents((ROOT / "k8s/components/prometheus-adapter/adapter.yaml").read_text())[0]["rules"]
        for rule in adapter:
            query = rule["metricsQuery"].replace("<<.LabelMatchers>>", 'pod="edge-1"').replace("<<.GroupBy>>", "pod")
            rules.append({"name": rule["name"]["as"], "rules": [{"record": "needed", "expr": query}]})
        self.assertGreaterEqual(len(rules), 3)
        unique = {group["name"]: group for group in rules}
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
            yaml.safe_dump({"groups": list(unique.values())}, file)
            file.flush()
            ended = subprocess.run([promtool, "check", "rules", file.name], capture_output=True, text=True, timeout=60)
        self.assertEqual(ended.returncode, 0, ended.stdout + ended.stderr)

    def test_configuration_files_are_toml_with_a_reason_for_each_table(self):
        for file in (ROOT / "k8s").rglob("*.toml"):
            tomllib.loads(file.read_text())


if __name__ == "__main__":
    unittest.main()
