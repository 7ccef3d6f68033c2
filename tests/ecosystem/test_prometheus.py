"""The newest Prometheus beside Debian's, which tests/deploy uses: its checks of configuration and rules, and the rules' own tests."""

import subprocess
import unittest

import yaml

from monitoring import RULE_TESTS, RULES, check
from support import ROOT, documents, read, tool


class Newest(unittest.TestCase):
    def test_it_finds_nothing_to_say_about_its_files(self):
        check(tool("promtool-3"), "check", "config", "--lint=all", "--lint-fatal", ROOT / "prometheus.yml")
        check(tool("promtool-3"), "check", "rules", "--lint=all", "--lint-fatal", *RULES)

    def test_it_reads_the_rules_of_the_operator(self):
        (item,) = documents(read("k8s/components/prometheus-operator/rules.yaml"))
        command = [tool("promtool-3"), "check", "rules", "--lint=all", "--lint-fatal"]
        ended = subprocess.run(command, input=yaml.safe_dump(item["spec"]), capture_output=True, text=True, timeout=60)
        self.assertEqual(ended.returncode, 0, ended.stdout + ended.stderr)

    def test_it_comes_to_the_same_alerts(self):
        check(tool("promtool-3"), "test", "rules", *RULE_TESTS)


if __name__ == "__main__":
    unittest.main()
