#!/usr/bin/env bash
# Builds and tests clients/js against the newest build of this repository.
set -euo pipefail
cd "$(dirname "$0")/../clients/js"

NODE_MIN=20
found=$(node --version 2>/dev/null | sed 's/^v\([0-9]*\).*/\1/' || true)
if [ "${found:-0}" -lt "$NODE_MIN" ] || ! command -v npm >/dev/null; then
    echo "test-client-js: Node $NODE_MIN or newer with npm is missing: get it from https://nodejs.org (macOS: brew install node;" >&2
    echo "test-client-js: Debian 13, Ubuntu 25.04: apt-get install nodejs npm; older ones: https://github.com/nodesource/distributions)." >&2
    exit 1
fi

# Installed once for each lockfile, so that tests run without a network behind that.
if ! cmp -s package-lock.json node_modules/.installed; then
    npm ci --no-audit --no-fund --prefer-offline
    cp package-lock.json node_modules/.installed
fi
npm test
