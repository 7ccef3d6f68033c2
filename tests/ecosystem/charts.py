"""What tests of the Helm chart share: rendering it, and what makes its objects comparable with kustomize's."""

import copy
import json
import re
import subprocess
import tempfile
import tomllib
from functools import cache
from pathlib import Path

import yaml

from support import ROOT, TOOLS, documents, tool
from test_kubernetes import KUBERNETES, custom_schemas, strict

CHART = ROOT / "deploy/helm/telecast"
# The oldest that the chart takes.
KUBERNETES_MIN = "1.29.0"
# What belongs to Helm's way of installing: kustomize has no releases, and hashes in names instead of annotations.
HELM_LABELS = {"app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "app.kubernetes.io/version", "helm.sh/chart"}
CHECKSUM = "checksum/config"
# Lists whose order means nothing.
ORDERED = {"env": ["name"], "volumes": ["name"], "volumeMounts": ["name"]}
# The chart's policies select its own pods only, so cert-manager's need none.
KUSTOMIZE_ONLY = {("NetworkPolicy", "http01-solver")}
HASHED = r"-[bcdfghkmt2456789]{10}$"


def helm(*words, program="helm"):
    """The ended process; its output is for whoever asks."""
    command = [tool(program), *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def template(values=None, files=(), program="helm", chart=CHART, options=()):
    """`helm template` with values in a file of their own, as users have them: the ended process."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as own:
        yaml.safe_dump(values or {}, own)
        own.flush()
        named = [word for name in files for word in ("--values", chart / name)]
        place = ["--namespace", "telecast", "--kube-version", KUBERNETES_MIN]
        return helm("template", "telecast", chart, *place, *named, "--values", own.name, *options, program=program)


@cache
def cached(values, files, program):
    ended = template(json.loads(values), files, program)
    assert ended.returncode == 0, f"{files} {values}: {ended.stderr}"
    return documents(ended.stdout)


def everything(values=None, files=(), program="helm"):
    """All objects that values give, hooks included."""
    return copy.deepcopy(cached(json.dumps(values or {}), tuple(files), program))


def hook(item):
    return "helm.sh/hook" in item["metadata"].get("annotations", {})


def installed(values=None, files=(), program="helm"):
    """What `helm install` leaves in the cluster: without the pods of `helm test`."""
    return [item for item in everything(values, files, program) if not hook(item)]


def refusal(values, files=()):
    """What the chart says of values that it does not take."""
    ended = template(values, files)
    assert ended.returncode, f"taken: {values}"
    return ended.stderr


# ── comparing with kustomize ──


def comparable(found):
    """Objects by kind and name, without what differs because Helm and kustomize install differently."""
    found = [plain(item) for item in found if item["kind"] != "Namespace" and not hook(item)]
    found = [item for item in found if (item["kind"], item["metadata"]["name"]) not in KUSTOMIZE_ONLY]
    names = {item["metadata"]["name"]: re.sub(HASHED, "", item["metadata"]["name"]) for item in found if item["kind"] == "ConfigMap"}
    text = json.dumps(found)
    for name, without in names.items():
        text = text.replace(f'"{name}"', f'"{without}"')
    return {(item["kind"], item["metadata"]["name"]): item for item in json.loads(text)}


def plain(value, key=None):
    """Without Helm's labels, wherever labels are; without comments in files; lists whose order means nothing in one order."""
    if isinstance(value, list):
        listed = [plain(item) for item in value]
        order = ORDERED.get(key)
        return sorted(listed, key=lambda item: [item[name] for name in order]) if order else listed
    if not isinstance(value, dict):
        return value
    value = {name: plain(item, name) for name, item in value.items()}
    # A Service's selector has labels at once, others have them in matchLabels.
    if key in ("labels", "matchLabels", "selector"):
        value = {name: item for name, item in value.items() if name not in HELM_LABELS}
    if key == "metadata":
        # Helm gives it while it installs.
        value.pop("namespace", None)
    for claim in value.get("volumeClaimTemplates", []):
        # Kubernetes gives claims the labels of the selector.
        claim["metadata"].pop("labels", None)
    if key == "annotations":
        value.pop(CHECKSUM, None)
    if key == "data":
        value = {name: content(name, text) for name, text in value.items()}
    # An empty selector and one without terms are the same.
    return {name: item for name, item in value.items() if not (name in ("matchLabels", "annotations") and item == {})}


def content(name, text):
    """What a file of configuration says, without how it is written."""
    if name.endswith(".toml"):
        return tomllib.loads(text)
    if name.endswith(".json"):
        return json.loads(text)
    if name.endswith(".yaml"):
        return documents(text)
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def differences(ours, theirs, where=""):
    """One line for each member that differs."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(ours.keys() | theirs.keys(), key=str):
            place = f"{where}.{key}" if where else str(key)
            if key not in ours:
                yield f"{place}: only kustomize has it: {json.dumps(theirs[key])[:200]}"
            elif key not in theirs:
                yield f"{place}: only the chart has it: {json.dumps(ours[key])[:200]}"
            else:
                yield from differences(ours[key], theirs[key], place)
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, pair in enumerate(zip(ours, theirs)):
            yield from differences(*pair, f"{where}[{number}]")
    elif ours != theirs:
        yield f"{where}: the chart has {json.dumps(ours)[:300]}, kustomize {json.dumps(theirs)[:300]}"


# ── values ──

# What each component of kustomize is called in values.
COMPONENTS = {
    "gateway-api": {"gateway": {"enabled": True}},
    "ingress-nginx": {"ingress": {"enabled": True}},
    "prometheus-operator": {"podMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}},
    "grafana-dashboards": {"dashboards": {"enabled": True}},
    "nats-tls": {"nats": {"tls": {"enabled": True}}},
    "nats-certificates": {"nats": {"tls": {"enabled": True, "certManager": True}}},
    "nats-box": {"natsBox": {"enabled": True}},
    "keda": {"edge": {"hpa": {"enabled": False}, "keda": {"enabled": True}}},
    "prometheus-adapter": {"edge": {"prometheusAdapter": {"enabled": True}}},
}
# And each base.
FILES = {"base": (), "overlays/dev": ("values-dev.yaml",), "overlays/production": ("values-production.yaml",)}


def merged(*tables):
    """Values above values, as Helm lays files over each other."""
    result = {}
    for table in tables:
        for key, value in table.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], value) if both else value
    return result


def nested(path, value):
    """A dotted path as values: nested("a.b", 1) is {"a": {"b": 1}}."""
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


def defaults():
    return yaml.safe_load((CHART / "values.yaml").read_text())


def schema():
    return json.loads((CHART / "values.schema.json").read_text())


# ── schemas of Kubernetes ──


def problems(found):
    """What Kubernetes, or the definition of a custom resource, would refuse."""
    import jsonschema
    import kubernetes_validate

    for item in found:
        custom = definitions().get((item["apiVersion"], item["kind"]))
        try:
            if custom:
                jsonschema.Draft7Validator(custom).validate(item)
            for version in [] if custom else KUBERNETES:
                kubernetes_validate.validate(copy.deepcopy(item), version, strict=True)
        except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
            yield f"{item['kind']} {item['metadata']['name']}: {error.message} at {list(error.path)}"


@cache
def definitions():
    file = TOOLS / "helm/servicemonitors.yaml"
    if not file.exists():
        raise AssertionError("the definition of ServiceMonitors is missing: scripts/setup-ecosystem.py fetches it, or says why not")
    (definition,) = documents(file.read_text())
    versions = {version["name"]: strict(version["schema"]["openAPIV3Schema"]) for version in definition["spec"]["versions"]}
    monitors = {(f"{definition['spec']['group']}/{name}", "ServiceMonitor"): each for name, each in versions.items()}
    for each in monitors.values():
        each["properties"]["metadata"] = {"type": "object"}
    return custom_schemas() | monitors
