"""The Helm chart beside what it is made from: kustomize's objects, and the files that it has copies of."""

import os
import subprocess
import unittest
from concurrent.futures import ThreadPoolExecutor

from charts import COMPONENTS, FILES, comparable, differences, installed, merged
from support import ROOT
from test_kubernetes import NOT_TOGETHER, objects


class Kustomize(unittest.TestCase):
    def test_the_chart_renders_what_kustomize_renders(self):
        cases = [(base, ()) for base in FILES] + [("overlays/dev", ("nats-tls", "nats-box"))]
        for base in ("base", "overlays/production"):
            for autoscaler in sorted(NOT_TOGETHER):
                cases.append((base, tuple(name for name in COMPONENTS if name not in NOT_TOGETHER - {autoscaler})))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda case: (self.ours(*case), objects(*case)), cases))
        for base, components in cases:
            found = list(differences(comparable(self.ours(base, components)), comparable(objects(base, components))))
            self.assertEqual(found, [], f"{base} with {components}")

    def ours(self, base, components):
        return installed(merged(*(COMPONENTS[name] for name in components)), FILES[base])

    def test_a_difference_would_be_told(self):
        found = comparable(installed())
        for values in ({"edge": {"pdb": {"maxUnavailable": 2}}}, {"config": {"edge": {"edge": {"throttle_ms": 1}}}}):
            self.assertEqual(len(list(differences(comparable(installed(values)), found))), 1, values)


class Copies(unittest.TestCase):
    def test_copies_in_the_chart_are_what_they_are_copies_of(self):
        ended = subprocess.run([ROOT / "scripts/copy-chart-files.py", "--check"], capture_output=True, text=True, timeout=60)
        self.assertEqual(ended.stdout + ended.stderr, "")


if __name__ == "__main__":
    unittest.main()
