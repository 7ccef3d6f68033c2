"""The nats command as the component nats-box has it: its variables, against production's servers, with and without TLS."""

import copy
import subprocess
import unittest

from support import tool
from test_kubernetes import containers, named, objects
from test_nats import Servers, certificates, mounted, variables


class NatsBox(Servers):
    def nats(self, found, *words):
        main = containers(named(found, "Deployment", "nats-box"))[0]
        values = {name: self.local(value) for name, value in variables(main).items()}
        values["NATS_URL"] = values["NATS_URL"].replace("//nats:4222", f"//127.0.0.1:{self.clients[0]}")
        # There is no place to write in that container.
        values["HOME"] = "/proc/self"
        ended = subprocess.run([tool("nats"), *words], env=values, capture_output=True, text=True, timeout=60)
        return ended.returncode, ended.stdout + ended.stderr

    def works(self, found):
        code, said = self.nats(found, "stream", "add", "--subjects=a.>", "--defaults", "--replicas=3", "of-a-test")
        self.assertEqual(code, 0, said)
        code, said = self.nats(found, "stream", "report")
        self.assertEqual(code, 0, said)
        self.assertIn("of-a-test", said)

    def test_it_reports_streams_with_the_password_of_nodes(self):
        found = objects("overlays/production", ("nats-box",))
        self.servers(found)
        self.works(found)

    def test_it_uses_tls_where_servers_have_it_and_believes_their_authority_only(self):
        found = objects("overlays/production", ("nats-box", "nats-tls"))
        mounted(certificates(self.folder / "made"), self.secret)
        self.servers(found)
        self.works(found)
        mounted(certificates(self.folder / "others"), self.secret)
        code, said = self.nats(found, "stream", "report")
        self.assertNotEqual(code, 0)
        self.assertIn("certificate", said)

    def test_it_needs_no_password_where_servers_ask_for_none(self):
        found = objects("base", ("nats-box",))
        self.servers(found)
        found = copy.deepcopy(found)
        main = containers(named(found, "Deployment", "nats-box"))[0]
        main["env"] = [item for item in main["env"] if item["name"] != "NATS_PASSWORD"]
        self.works(found)


if __name__ == "__main__":
    unittest.main()
