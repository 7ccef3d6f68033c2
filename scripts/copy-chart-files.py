#!/usr/bin/env python3
"""Copies into the Helm chart what it shares with kustomize, Prometheus and Grafana; --check only says what differs.

A chart can hold nothing from outside its folder once it is packaged, and symbolic links do not survive every checkout.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = ROOT / "deploy/helm/telecast/files"
# From where, which, and to where in files/.
SHARED = [
    ("k8s/base/config", "*.toml", "config"),
    ("k8s/base/nats", "*-tls.conf", "nats/plain"),
    ("k8s/components/nats-tls", "*-tls.conf", "nats/tls"),
    ("prometheus/rules", "*.yml", "rules"),
    ("grafana/provisioning/dashboards", "*.json", "dashboards"),
    ("k8s/components/prometheus-adapter", "adapter.yaml", "prometheus-adapter"),
]


def wanted():
    """What each file of the chart should have in it, by its path in files/."""
    copies = {}
    for folder, pattern, target in SHARED:
        found = sorted((ROOT / folder).glob(pattern))
        if not found:
            sys.exit(f"copy-chart-files: {folder} has no {pattern}: SHARED in this script says where files come from")
        copies |= {Path(target) / file.name: file.read_bytes() for file in found}
    return copies


def differing(copies):
    """Paths that are missing, others, or nobody's any more."""
    there = {path.relative_to(FILES): path.read_bytes() for path in FILES.rglob("*") if path.is_file()}
    return sorted(path for path in copies.keys() | there.keys() if copies.get(path) != there.get(path))


def main():
    copies = wanted()
    changed = differing(copies)
    if "--check" in sys.argv[1:]:
        for path in changed:
            print(f"{(FILES / path).relative_to(ROOT)} is not what it is a copy of: run scripts/copy-chart-files.py")
        sys.exit(bool(changed))
    for path in changed:
        target = FILES / path
        if path in copies:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(copies[path])
        else:
            target.unlink()
        print(target.relative_to(ROOT))


if __name__ == "__main__":
    main()
