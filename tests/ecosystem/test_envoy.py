"""Envoy itself in front of nodes, with deploy/proxy/envoy.yaml."""

import json
import subprocess
import unittest

from proxies import start_envoy
from support import ROOT, Stage, eventually, get, tool
from test_proxies import Behind


class Envoy(Behind, Stage):
    start_proxy = staticmethod(start_envoy)
    # It draws two nodes and takes the better one; of two nodes that is now and then the same one twice.
    UNEVEN = 6

    def test_a_reload_and_a_new_edge_cost_nobody_a_message(self):
        """It reads its file once: a change is a new process, to which all clients come back."""
        nats, ingest, edges = self.cluster(2)
        proxy = self.behind(ingest, edges)
        third = self.node("edge", nats)
        self.ready(third)

        def reload(load):
            self.connected(edges, 20)
            # The load needs them once: later they come back by themselves.
            eventually("its collectors", lambda: len(json.loads(get(f"http://{ingest[1]}/api/metrics/status")[1])["collectors"]) == 2)
            proxy.reload([address for _, address in (*edges, third)])
            self.reached(proxy, third)

        report = self.load(proxy.clients, proxy.collectors, seconds=5, meanwhile=reload)
        self.assertEqual(report["clients"]["resumed"], 20, report)

    def test_the_file_as_it_is_is_valid(self):
        command = [tool("envoy"), "--mode", "validate", "-c", ROOT / "deploy/proxy/envoy.yaml"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
        self.assertEqual(ended.returncode, 0, ended.stderr)
        # What a later version no longer takes is told here first.
        self.assertNotRegex(ended.stdout + ended.stderr, r"(?i)\[(warning|error|critical)\]|deprecated")


if __name__ == "__main__":
    unittest.main()
