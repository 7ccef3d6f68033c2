"""checkov over base, overlays and all components."""

import json
import subprocess
import tempfile
import unittest
from pathlib import Path

from manifests import renderings, unexplained
from support import TOOLS
from test_kubernetes import rendered

PROGRAM = TOOLS / "checkov/bin/checkov"
# Check, and a pattern of base and object: why it is as it is.
EXCLUDED = {
    ("CKV_K8S_11", ""): "CPU has no limit: a pause in the middle of a sweep is latency for every client",
    ("CKV_K8S_15", ""): "versions are exact, so there is nothing to pull twice",
    ("CKV_K8S_43", ""): "deploy/images.yaml has the digests, as far as they are known; the image of ours is whoever's registry it is in",
    ("CKV_K8S_35", ""): "nodes, nats-server and the nats command read passwords from variables",
    ("CKV_K8S_40", "StatefulSet.telecast.nats"): "existing volumes belong to user 1000",
    ("CKV_K8S_8", "StatefulSet.telecast.nats"): "the server has one; its exporter and reload must not restart with it",
    ("CKV_K8S_9", "StatefulSet.telecast.nats"): "the server has one; without its exporter it is as ready as before",
    ("CKV_K8S_8", "Deployment.telecast.nats-box"): "it runs no service",
    ("CKV_K8S_9", "Deployment.telecast.nats-box"): "it listens nowhere",
}


class Checkov(unittest.TestCase):
    def findings(self, texts):
        self.assertTrue(PROGRAM.exists(), "checkov is missing: scripts/setup-ecosystem.py --long fetches it, or says what it lacks for that")
        with tempfile.TemporaryDirectory() as folder:
            for number, (base, text) in enumerate(texts):
                (Path(folder) / f"{number}-{base.replace('/', '-')}.yaml").write_text(text)
            command = [PROGRAM, "-d", folder, "--framework", "kubernetes", "-o", "json", "--compact", "--skip-download"]
            ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
        report = json.loads(ended.stdout)
        self.assertEqual(report["summary"]["parsing_errors"], 0)
        self.assertGreater(report["summary"]["passed"], 200)
        for failed in report["results"]["failed_checks"]:
            yield failed["check_id"], f"{failed['file_path']}: {failed['resource']}", failed["check_name"]

    def test_it_finds_nothing_that_is_not_meant_so(self):
        left, needless = unexplained(self.findings(renderings()), EXCLUDED)
        self.assertEqual(left, [])
        self.assertEqual(needless, [], "nothing is excluded that does not occur")

    def test_it_finds_what_is_wrong(self):
        text = rendered("overlays/production").replace("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true")
        self.assertIn("CKV_K8S_20", {check for check, _, _ in self.findings([("production", text)])})


if __name__ == "__main__":
    unittest.main()
