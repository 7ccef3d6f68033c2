"""Many generated requests to every role: each answer is one that docs/openapi.yaml has, and no node ends or forgets its health."""

import json

from fuzzed_http import ENVIRONMENT, fuzz
from support import Stage, get

EXAMPLES = 100
# A path of another role is not there (404), whatever method is asked for.
ELSEWHERE = ["--exclude-checks", "unsupported_method"]
PATIENCE_SECONDS = 900


class EveryRole(Stage):
    def fuzz(self, role, nats="", options=()):
        process, address = self.node(role, nats, ENVIRONMENT)
        self.ready((process, address))
        fuzz(self, address, self.folder, EXAMPLES, seconds=PATIENCE_SECONDS, options=options)
        self.assertTrue(process.running(), f"the {role} ended")
        code, body = get(f"http://{address}/health")
        self.assertEqual((code, json.loads(body)["healthy"]), (200, True))

    def test_a_standalone_answers_generated_requests_as_documented(self):
        self.fuzz("standalone")

    def test_an_ingest_answers_generated_requests_as_documented(self):
        self.fuzz("ingest", self.one_nats(), ELSEWHERE)

    def test_an_edge_answers_generated_requests_as_documented(self):
        self.fuzz("edge", self.one_nats(), ELSEWHERE)
