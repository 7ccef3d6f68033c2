"""What KEDA itself says of the ScaledObject: its admission webhook, beside what a cluster has."""

import json
import subprocess
import sys
import unittest

from support import ROOT
from test_kubernetes import BASES, named, objects, of_kind

sys.path.append(str(ROOT / "scripts"))
from fetching import own

PROGRAM = own(ROOT / "tests/ecosystem/keda")


def refusal(incoming, existing):
    """Why the webhook refuses a ScaledObject in a cluster with these objects; empty if it does not."""
    assert PROGRAM.exists(), "KEDA's webhook is not built: scripts/setup-ecosystem.py --long builds it, or says what it lacks for that"
    question = json.dumps({"incoming": incoming, "existing": existing})
    ended = subprocess.run([PROGRAM], input=question, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)["refused"]


class Webhook(unittest.TestCase):
    def scaled(self, base, **changes):
        item = named(objects(base, ("keda",)), "ScaledObject", "edge")
        return {**item, "spec": {**item["spec"], **changes}}

    def test_it_takes_the_component_on_every_base(self):
        for base in BASES:
            self.assertEqual(refusal(self.scaled(base), of_kind(objects(base, ("keda",)), "Deployment")), "", base)

    def test_it_refuses_a_cluster_that_has_the_bases_autoscaler_as_the_manual_says(self):
        said = refusal(self.scaled("base"), objects("base"))
        self.assertIn("is already managed by the hpa 'edge'", said)
        manual = (ROOT / "docs/kubernetes.md").read_text()
        self.assertIn(said, manual)
        self.assertIn("kubectl -n telecast delete hpa edge ", manual)

    def test_it_refuses_bounds_and_a_fallback_that_cannot_be(self):
        deployments = of_kind(objects("base", ("keda",)), "Deployment")
        self.assertIn("MinReplicaCount", refusal(self.scaled("base", minReplicaCount=31), deployments))
        fallback = {"failureThreshold": -1, "replicas": 3}
        self.assertIn("FailureThreshold", refusal(self.scaled("base", fallback=fallback), deployments))


if __name__ == "__main__":
    unittest.main()
