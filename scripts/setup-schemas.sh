#!/bin/sh
# Puts the schemas of OpenAPI 3.1 and AsyncAPI 3.0, which docs/*.yaml are held to, into .tools/schemas (ignored by git). Nothing
# outside this project is touched. Fast when they are there already; run it again at any time.
set -eu

# Packages that carry the standards' own schemas, and the versions the tests are known to pass with.
openapi_package=openapi-spec-validator
openapi_version=0.9.0
asyncapi_package=@asyncapi/specs
asyncapi_version=6.11.1

root=$(cd "$(dirname "$0")/.." && pwd)
schemas="$root/.tools/schemas"
openapi="$schemas/openapi-3.1-$openapi_version.json"
asyncapi="$schemas/asyncapi-3.0-$asyncapi_version.json"

if [ -s "$openapi" ] && [ -s "$asyncapi" ]; then
    exit 0
fi

if ! python3 -m pip --version >/dev/null 2>&1; then
    echo "setup-schemas: python3 or its pip is missing: install them (Debian: apt-get install python3 python3-pip)" >&2
    exit 1
fi
if ! command -v npm >/dev/null 2>&1; then
    echo "setup-schemas: npm is missing: install Node 20 or newer (Debian: apt-get install npm)" >&2
    exit 1
fi

mkdir -p "$schemas"
# On the same file system as the target, so that the last step is one rename and two runs at once cannot collide.
work=$(mktemp -d "$root/.tools/setup.XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM

echo "setup-schemas: fetching $openapi_package $openapi_version from PyPI" >&2
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --dest "$work" "$openapi_package==$openapi_version"
echo "setup-schemas: fetching $asyncapi_package $asyncapi_version from npm" >&2
(cd "$work" && npm pack --silent "$asyncapi_package@$asyncapi_version" >/dev/null 2>&1) || {
    echo "setup-schemas: npm could not fetch $asyncapi_package $asyncapi_version: is its registry reachable?" >&2
    exit 1
}

# A wheel is a zip archive, an npm package a tar archive: one file of each is wanted.
python3 - "$work" <<'PY'
import glob, os, sys, tarfile, zipfile

work = sys.argv[1]
(wheel,) = glob.glob(os.path.join(work, "*.whl"))
(package,) = glob.glob(os.path.join(work, "*.tgz"))
with zipfile.ZipFile(wheel) as archive, open(os.path.join(work, "openapi.json"), "wb") as target:
    target.write(archive.read("openapi_spec_validator/resources/schemas/v3.1/schema.json"))
with tarfile.open(package) as archive, open(os.path.join(work, "asyncapi.json"), "wb") as target:
    # The variant whose parts refer to each other by place, so that nothing has to be looked up on the network.
    target.write(archive.extractfile("package/schemas/3.0.0-without-$id.json").read())
PY

mv -f "$work/openapi.json" "$openapi"
mv -f "$work/asyncapi.json" "$asyncapi"
echo "setup-schemas: OpenAPI 3.1 and AsyncAPI 3.0 in .tools/schemas" >&2
