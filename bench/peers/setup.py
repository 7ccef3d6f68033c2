#!/usr/bin/env python3
"""Fetches the servers to compare with into bench/.peers: setup.py [NAME…]     (all of them, if none is named)

Nothing outside this folder is touched, and what is there already stays. A peer that cannot be fetched is left out of the
comparison with a line that says why; only a wrong NAME is an error.
"""

import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "bench/.peers"
LOG = PEERS / "setup.log"
CENTRIFUGO = "github.com/centrifugal/centrifugo/v5"
CENTRIFUGO_VERSION = "v5.4.9"
# Of Debian. What they need is fetched with them.
NCHAN_PACKAGES = ["nginx", "libnginx-mod-nchan"]
MOSQUITTO_PACKAGES = ["mosquitto"]
NODE_PACKAGES = {"ws": "8.23.0", "socket.io": "4.8.4"}
FETCH_SECONDS_MAX = 900


class Missing(Exception):
    """A peer cannot be had here; the text says what to do."""


def run(command, folder, environment=None):
    """Runs a command whose output nobody wants to see unless it fails."""
    with LOG.open("a") as log:
        log.write(f"$ {' '.join(command)}\n")
        log.flush()
        try:
            ended = subprocess.run(
                command,
                cwd=folder,
                env={**os.environ, **(environment or {})},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                timeout=FETCH_SECONDS_MAX,
            )
        except subprocess.TimeoutExpired:
            raise Missing(f"`{' '.join(command)}` took more than {FETCH_SECONDS_MAX} s") from None
    if ended.returncode:
        raise Missing(f"`{' '.join(command)}` failed: see {LOG}")


def need(program, what_to_do):
    found = shutil.which(program)
    if not found:
        raise Missing(f"{program} is missing: {what_to_do}")
    return found


def debian(name, packages):
    """Unpacks packages of Debian's archive, and what they need, without installing them."""
    need("apt-get", "this peer comes from Debian packages")
    run([str(ROOT / "scripts/debian-packages.sh"), str(PEERS / name), *packages], PEERS)


def debian_version(name, package):
    """The version of a package that was unpacked: the newest of its changelog, which looks like `nginx (1.22.1-9) bookworm; …`."""
    folder = PEERS / name / "usr/share/doc" / package
    try:
        # Native packages have only `changelog.gz`.
        log = next(iter(sorted(folder.glob("changelog*gz"))))
        with gzip.open(log, "rt", errors="replace") as lines:
            return lines.readline().split("(", 1)[1].split(")", 1)[0]
    except (OSError, EOFError, IndexError, StopIteration):
        return "of unknown version"


def nchan():
    if not (PEERS / "nchan/usr/sbin/nginx").exists():
        debian("nchan", NCHAN_PACKAGES)


def mosquitto():
    if not (PEERS / "mosquitto/usr/sbin/mosquitto").exists():
        debian("mosquitto", MOSQUITTO_PACKAGES)


def node():
    need("node", "install Node.js 18 or newer")
    need("npm", "install npm")
    folder = PEERS / "node"
    wanted = [f"{name}@{version}" for name, version in NODE_PACKAGES.items()]
    stamp = folder / "installed"
    if stamp.exists() and stamp.read_text() == " ".join(wanted):
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text('{"private": true}\n')
    run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--save-exact", *wanted], folder)
    stamp.write_text(" ".join(wanted))


def centrifugo():
    if (PEERS / "bin/centrifugo").exists():
        return
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if not go:
        raise Missing("go is missing: install Go 1.23 or newer from https://go.dev/dl")
    # A module of our own that requires exactly this version: `go install` also asks for the list of all versions, which
    # some mirrors of the proxy do not have.
    module = PEERS / "centrifugo"
    module.mkdir(exist_ok=True)
    (module / "go.mod").write_text(f"module peer\n\ngo 1.23\n\nrequire {CENTRIFUGO} {CENTRIFUGO_VERSION}\n")
    (module / "peer.go").write_text(f'//go:build peer\n\npackage peer\n\nimport _ "{CENTRIFUGO}"\n')
    (PEERS / "bin").mkdir(exist_ok=True)
    target = str(PEERS / "bin/centrifugo")
    run([go, "build", "-mod=mod", "-buildvcs=false", "-o", target, CENTRIFUGO], module)


FETCH = {"nchan": nchan, "node": node, "centrifugo": centrifugo, "mosquitto": mosquitto}


def fetch(names):
    """Fetches the named peers. Returns what is missing, and why."""
    PEERS.mkdir(exist_ok=True)
    missing = {}
    for name in names:
        try:
            FETCH[name]()
        except (Missing, OSError) as why:
            missing[name] = str(why)
    return missing


def main():
    names = sys.argv[1:] or list(FETCH)
    unknown = [name for name in names if name not in FETCH]
    if unknown:
        sys.exit(f"setup: {', '.join(unknown)}: known are {', '.join(FETCH)}")
    for name, why in fetch(names).items():
        print(f"setup: {name} is left out: {why}", file=sys.stderr)


if __name__ == "__main__":
    main()
