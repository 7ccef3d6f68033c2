#!/usr/bin/env python3
"""Fetches the programs of others that judge what Telecast ships: `make test-ecosystem` runs them.

One function per program, in an exact version, by `fetching`.
"""

from fetching import ROOT, TOOLS, build, build_own, fetch_all, npm_packages, python_packages

# Asks registries for digests, and is one in tests.
CRANE = ("github.com/google/go-containerregistry", "v0.22.1")
# Linters and the parser that users of docs/openapi.yaml and docs/asyncapi.yaml have.
API_LINTERS = {"@stoplight/spectral-cli": "6.16.3", "@redocly/cli": "2.77.0", "@asyncapi/parser": "3.6.6"}
# Schemathesis makes requests of the document, openapi-python-client a client; check-jsonschema has the schemas of GitHub's forms.
API_PYTHON = ["schemathesis==4.32.5", "openapi-python-client==0.29.1", "check-jsonschema==0.39.0"]
# Resolves a package's types as every version and setting of TypeScript does.
PACKAGE_LINTERS = {"@arethetypeswrong/cli": "0.18.5"}
EDITORCONFIG_CHECKER = ("github.com/editorconfig-checker/editorconfig-checker/v3", "v3.4.1")


def crane():
    build("crane", f"{CRANE[0]}/cmd/crane", *CRANE)


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


STEPS = (crane, scheduler, api_linters, api_python, package_linters, editorconfig_checker)

if __name__ == "__main__":
    fetch_all(STEPS)
