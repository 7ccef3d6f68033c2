"""kube-score over base, overlays and all components."""

import json
import subprocess
import unittest

from manifests import renderings, unexplained
from support import tool
from test_kubernetes import rendered

# The oldest Kubernetes that docs/kubernetes.md names.
KUBERNETES = "v1.29"
# Check, and a pattern of base and object: why it is as it is.
EXCLUDED = {
    ("container-resources", ""): "CPU has no limit: a pause in the middle of a sweep is latency for every client",
    ("container-image-pull-policy", ""): "versions are exact, so there is nothing to pull twice",
    ("container-ephemeral-storage-request-and-limit", ""): "read-only file systems; a limit would evict a pod for its log",
    ("container-security-context-user-group-id", "StatefulSet"): "existing volumes belong to user 1000",
    ("networkpolicy-targets-pod", "http01-solver"): "cert-manager makes the pods",
    ("deployment-replicas", "edge"): "it does not know KEDA's ScaledObjects",
    ("deployment-replicas", "^overlays/dev"): "one of each",
    ("deployment-has-poddisruptionbudget", "^overlays/dev"): "with one pod each it would hold up the drain of the only machine",
}


class KubeScore(unittest.TestCase):
    def findings(self, text):
        command = [tool("kube-score"), "score", "--output-format", "json", "--kubernetes-version", KUBERNETES, "-"]
        ended = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
        self.assertEqual(ended.stderr, "")
        for item in json.loads(ended.stdout):
            for check in item["checks"] or []:
                if not check["skipped"] and check["grade"] < 10:
                    for comment in check["comments"] or [{"summary": "", "path": ""}]:
                        yield check["check"]["id"], f"{item['object_name']} {comment['path']}", comment["summary"]

    def test_it_finds_nothing_that_is_not_meant_so(self):
        found = []
        for base, text in renderings():
            found += [(check, f"{base}: {where}", said) for check, where, said in self.findings(text)]
        left, needless = unexplained(found, EXCLUDED)
        self.assertEqual(left, [])
        self.assertEqual(needless, [], "nothing is excluded that does not occur")

    def test_it_finds_what_is_wrong(self):
        text = rendered("overlays/production").replace("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false")
        self.assertIn("container-security-context-readonlyrootfilesystem", {check for check, _, _ in self.findings(text)})


if __name__ == "__main__":
    unittest.main()
