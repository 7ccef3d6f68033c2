"""Schemathesis over nodes: requests made of docs/openapi.yaml, right and wrong ones, and answers held to it."""

import subprocess

from support import ROOT, TOOLS

HERE = ROOT / "tests/ecosystem/api"
PYTHON = TOOLS / "api-python/bin"
TOKEN = "s3cret"
ENVIRONMENT = {"TELECAST__ADMIN__TOKEN": TOKEN}
# The same requests each time: what fails here fails again.
SEED = 1
# A stream has no end that could be waited for; it reads its parameters as polls do.
WITHOUT = ["--exclude-path", "/sse"]


def there(program):
    """The path of a program, if it is there."""
    missing = f"{program.name} is missing: scripts/setup-ecosystem.py fetches it, or says what it lacks for that"
    assert program.exists(), missing
    return program


def fuzz(test, address, folder, examples, phases="examples,coverage,fuzzing", seconds=120, options=()):
    """Fails the test with what Schemathesis says if any answer is not as documented."""
    program = there(PYTHON / "schemathesis")
    command = [program, "--config-file", HERE / "schemathesis.toml", "run", ROOT / "docs/openapi.yaml", "--url", f"http://{address}"]
    command += ["--phases", phases, "--max-examples", examples, "--seed", SEED, "--workers", 1, "--request-timeout", 10]
    command += ["--continue-on-failure", "--header", f"Authorization: Bearer {TOKEN}", *WITHOUT, *options]
    # It leaves files where it runs.
    ended = subprocess.run([str(word) for word in command], cwd=folder, capture_output=True, text=True, timeout=seconds)
    test.assertEqual(ended.returncode, 0, ended.stdout + ended.stderr)
    return ended.stdout
