#!/bin/sh
# Puts what examples/python needs into .tools/python, beside this machine's own packages and not among them. Fast when it is there.
set -eu

# The version the example is known to work with; any from 14 on has what it uses.
websockets_version=15.0.1

root=$(cd "$(dirname "$0")/.." && pwd)
place="$root/.tools/python"

if [ -d "$place/websockets-$websockets_version.dist-info" ]; then
    exit 0
fi
if ! python3 -m pip --version >/dev/null 2>&1; then
    echo "setup-python: python3 with pip is missing: install it (Debian: apt-get install python3 python3-pip)." >&2
    exit 1
fi
echo "setup-python: fetching websockets $websockets_version from PyPI" >&2
if ! python3 -m pip install --quiet --disable-pip-version-check --upgrade --target "$place" "websockets==$websockets_version"; then
    echo "setup-python: pip could not fetch websockets $websockets_version: is PyPI reachable?" >&2
    exit 1
fi
