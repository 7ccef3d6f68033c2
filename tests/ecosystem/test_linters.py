"""What linters say of nginx.conf (gixy) and of Compose files (dclint)."""

import json
import subprocess
import unittest

from support import ROOT, TOOLS, documents, read

# Nodes compare a page's Origin with Host, port and all, and route nothing by it: what the client sent has to arrive.
GIXY_SKIPS = "host_spoofing"


def program(folder, name):
    found = TOOLS / folder / name
    assert found.exists(), f"{found} is missing: scripts/setup-ecosystem.py fetches it, or says what it lacks for that"
    return found


class Linters(unittest.TestCase):
    def test_gixy_finds_nothing_in_nginx_conf(self):
        """Nor a vulnerability of the version that is run."""
        runs = documents(read("deploy/images.yaml"))[0]["images"]["proxy"]["tag"]
        command = [program("gixy", "bin/gixy"), "--nginx-version", runs.removesuffix("-alpine"), "--skips", GIXY_SKIPS]
        command += ["--format", "json", ROOT / "deploy/proxy/nginx.conf"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
        self.assertEqual((ended.returncode, json.loads(ended.stdout)), (0, []), ended.stderr)

    def test_dclint_finds_nothing_in_either_compose_file(self):
        command = [program("dclint", "node_modules/.bin/dclint"), "--config", ROOT / "tests/ecosystem/dclint.yaml"]
        files = [ROOT / file for file in ("docker-compose.yml", "docker-compose.cluster.yml")]
        command += ["--max-warnings", "0", "--formatter", "json", *files]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
        found = [message for file in json.loads(ended.stdout) for message in file["messages"]]
        self.assertEqual((ended.returncode, found), (0, []), ended.stderr)


if __name__ == "__main__":
    unittest.main()
