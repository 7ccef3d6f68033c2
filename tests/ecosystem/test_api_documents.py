"""docs/openapi.yaml and docs/asyncapi.yaml, read by the linters, parsers and generators that users hand them to.

Longer rounds of generated requests, to every role, are in long_api_fuzzing.py.
"""

import os
import re
import subprocess
import unittest

from fuzzed_http import ENVIRONMENT, HERE, PYTHON, fuzz, there
from support import ROOT, TOOLS, Stage

OPENAPI = ROOT / "docs/openapi.yaml"
ASYNCAPI = ROOT / "docs/asyncapi.yaml"
LINTERS = TOOLS / "api-linters"
PATIENCE_SECONDS = 120
# Run by the generator's own Python, which has what generated clients need: writes a metric, and asks for it and for the node's health.
CALLS = """
import sys
from generated import Client
from generated.api.clients import get_latest_metrics
from generated.api.collectors import write_metrics
from generated.api.operations import check_readiness, get_health
from generated.models import Health, TelegrafMetric

client = Client(base_url=sys.argv[1])
metric = {"name": "weather", "tags": {"host": "balcony"}, "fields": {"temperature": 21.5}, "timestamp": 1795323075}
written = write_metrics.sync_detailed(client=client, body=TelegrafMetric.from_dict(metric))
assert written.status_code == 204, written
health = get_health.sync(client=client)
assert isinstance(health, Health) and health.healthy, health
assert check_readiness.sync(client=client).ready
(latest,) = get_latest_metrics.sync(client=client, filter_=["balcony.weather"]).metrics
assert latest.fields["temperature"] == 21.5, latest
refused = get_latest_metrics.sync(client=client, filter_=["cpu"])
assert refused.error.code == "bad_filter", refused
"""


def run(*command, folder=ROOT, **environment):
    ended = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    return ended.returncode, ended.stdout + ended.stderr


class Linters(unittest.TestCase):
    def lint(self, program, *arguments):
        code, output = run(there(LINTERS / "node_modules/.bin" / program), *arguments)
        self.assertEqual(code, 0, output)

    def test_spectral_finds_nothing_in_either_document(self):
        self.lint("spectral", "lint", "--fail-severity", "hint", "--ruleset", HERE / "spectral.yaml", OPENAPI, ASYNCAPI)

    def test_redocly_finds_nothing(self):
        self.lint("redocly", "lint", "--config", HERE / "redocly.yaml", "--max-problems", "1000", "--format", "stylish", OPENAPI)

    def test_the_parser_of_asyncapi_reads_every_channel_and_has_no_advice_but_a_later_version(self):
        code, output = run("node", HERE / "asyncapi.cjs", LINTERS, ASYNCAPI)
        self.assertEqual(code, 0, output)
        *findings, counted = output.splitlines()
        self.assertEqual([finding for finding in findings if "(asyncapi-latest-version)" not in finding], [])
        self.assertEqual(counted, "channels: 3, messages: 17")


class Generated(Stage):
    def setUp(self):
        super().setUp()
        self.process, self.address = self.node("standalone", "", ENVIRONMENT)
        self.ready((self.process, self.address))

    def test_a_generated_python_client_writes_reads_and_understands_a_refusal(self):
        command = [there(PYTHON / "openapi-python-client"), "generate", "--path", OPENAPI, "--output-path", self.folder / "generated", "--meta", "none"]
        # It formats what it makes with the ruff beside it.
        code, output = run(*command, folder=self.folder, PATH=f"{PYTHON}:{os.environ['PATH']}")
        self.assertEqual(code, 0, output)
        # It sends JSON only. That is enough to write; a level is set with curl.
        warned = re.findall(r"^WARNING parsing (\S+ \S+).*\n\n(.*)", output, re.M)
        bodies = ["POST /api/v1/write", "POST /api/v2/write", "POST /write", "PUT /admin/log-level"]
        self.assertEqual(sorted(warned), [(of, "Unsupported content type text/plain") for of in bodies], output)
        code, output = run(PYTHON / "python", "-c", CALLS, f"http://{self.address}", folder=self.folder)
        self.assertEqual(code, 0, output)

    def test_generated_requests_get_documented_answers_only(self):
        fuzz(self, self.address, self.folder, examples=5, phases="examples,coverage")
        self.assertTrue(self.process.running())
