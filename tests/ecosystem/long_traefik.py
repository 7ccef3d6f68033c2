"""Traefik in front of nodes, with its files in deploy/proxy. Long: building it takes minutes."""

import unittest

from proxies import start_traefik
from support import Stage
from test_proxies import Behind
from test_refusals import Refusing, Sharing


class Traefik(Behind, Refusing, Sharing, Stage):
    start_proxy = staticmethod(start_traefik)
    STATUS = 404
    WORDS = b"404 page not found"
    TOO_OFTEN = 429
    CONNECTIONS = [("amount: 2500", "amount: 3")]
    RATES = [("average: (500|2000)", "average: 1"), ("burst: (2500|10000)", "burst: 2")]
    # It draws two nodes and takes the better one; of two nodes that is now and then the same one twice.
    UNEVEN = 6

    def test_it_takes_its_files_as_they_are(self):
        _, _, proxy = self.limited()
        told = [line for line in proxy.process.lines if " ERR " in line or " WRN " in line]
        self.assertEqual(told, [])

    def test_a_reload_and_a_new_edge_cost_nobody_a_message(self):
        """It watches its list of nodes, and cuts no connection for a new one."""
        nats, ingest, edges = self.cluster(2)
        proxy = self.behind(ingest, edges)
        third = self.node("edge", nats)
        self.ready(third)

        def reload(load):
            self.connected(edges, 20)
            proxy.reload([address for _, address in (*edges, third)])
            self.reached(proxy, third)

        report = self.load(proxy.clients, proxy.collectors, seconds=4, meanwhile=reload)
        self.assertEqual(report["clients"]["resumed"], 0, report)

    # It resolves a name for each connection, but counts a name as one node: docs/compose.md says to list them.
    test_a_new_edge_is_found_by_its_name = None


if __name__ == "__main__":
    unittest.main()
