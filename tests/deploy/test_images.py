"""Images of others: one file has their versions, and every reference is held to it."""

import hashlib
import os
import re
import subprocess
import sys
import unittest

from support import ROOT, Stage, documents, eventually, free_port, get, read, tool

SCRIPT = ROOT / "scripts/images.py"
# One reference of each form, in a place where such a one may stand.
PLACES = {
    "docker-compose.yml": "services:\n  nats:\n    image: {nats}\n",
    "k8s/base/nats.yaml": "containers:\n  - {{name: nats, image: {nats}}}\n",
    "deploy/helm/telecast/values.yaml": 'nats:\n  image:\n    repository: nats\n    tag: "{tag}"\n    digest: "{digest}"\n',
    "deploy/helm/telecast/templates/box.yaml": "          image: {nats}\n          # image: nats\n          image: {{{{ .Values.image }}}}\n",
    "Dockerfile": "# syntax={nats}\nFROM --platform=linux/amd64 {nats} AS build\nCOPY --from={nats} /nats /\nCOPY --from=build /a /b\n",
    "docs/nats.md": "`docker run {nats}` listens at nats:4222.\n",
}


def versions():
    return documents(read("deploy/images.yaml"))[0]["images"]


def numbers(version):
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


def images(what, root):
    command = [sys.executable, SCRIPT, what, "--root", root]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


class Versions(unittest.TestCase):
    def test_every_reference_is_of_the_one_file(self):
        ended = images("check", ROOT)
        self.assertEqual((ended.returncode, ended.stdout, ended.stderr), (0, "", ""))

    def test_no_version_is_kept_of_what_nobody_names(self):
        ended = subprocess.run([sys.executable, SCRIPT, "list"], capture_output=True, text=True, timeout=60)
        named = {line.split("\t")[1] for line in ended.stdout.splitlines()}
        for name, image in versions().items():
            wanted = f"{image['repository']}:{image['tag']}"
            self.assertTrue(any(each.startswith(wanted) for each in named), name)

    def test_every_version_is_exact_and_says_where_newer_ones_are_seen(self):
        for name, image in versions().items():
            self.assertLessEqual({"repository", "tag", "digest", "follows"}, image.keys(), name)
            self.assertRegex(image["digest"], r"^(sha256:[0-9a-f]{64})?$", name)
            self.assertNotIn(image["tag"], ("latest", "stable", "alpine"), name)
            # The two that are meant to move: security updates of Debian, and of BuildKit's language.
            if name not in ("base", "dockerfile", "rust"):
                self.assertRegex(image["tag"], r"^v?\d+\.\d+\.\d+(-alpine)?$", name)

    def test_programs_of_tests_are_not_newer_than_what_is_run(self):
        """A file may not use what the version that runs it does not have."""
        for image, pattern, file in (
            ("proxy", r'NGINX_SOURCE = "[\d.]+\+([\d.]+)"', "scripts/setup-operations.py"),
            ("alertmanager", r'prometheus/alertmanager", "v([\d.]+)"', "scripts/setup-operations.py"),
            ("grafana", r'"@grafana/schema": "([\d.]+)"', "scripts/setup-operations.py"),
            ("nats", r"nats_version=([\d.]+)", "scripts/setup-tools.sh"),
        ):
            tested = re.search(pattern, read(file))[1]
            self.assertLessEqual(numbers(tested), numbers(versions()[image]["tag"]), image)


class References(Stage):
    """scripts/images.py, in a repository of its own."""

    def lay(self, reference, tag, digest):
        for name, text in PLACES.items():
            file = self.folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text.format(nats=reference, tag=tag, digest=digest))

    def known(self, repository, tag, digest=""):
        entry = f'    repository: {repository}\n    tag: {tag}\n    digest: "{digest}"\n'
        (self.folder / "deploy").mkdir(exist_ok=True)
        (self.folder / "deploy/images.yaml").write_text(f"images:\n  nats:\n{entry}")

    def test_every_form_of_a_reference_is_held_and_written(self):
        digest = "sha256:" + "a" * 64
        self.known("nats", "2.15.3-alpine", digest)
        self.lay("nats:2.1.0", "2.1.0", "")
        ended = images("check", self.folder)
        self.assertEqual(ended.returncode, 1, ended.stdout)
        for name in PLACES:
            self.assertIn(f"{name}:", ended.stdout)
        self.assertEqual(ended.stdout.count("scripts/images.py write"), 9, ended.stdout)
        self.assertEqual(images("write", self.folder).returncode, 0)
        for name, text in PLACES.items():
            wanted = text.format(nats=f"nats:2.15.3-alpine@{digest}", tag="2.15.3-alpine", digest=digest)
            self.assertEqual((self.folder / name).read_text(), wanted)

    def test_an_image_that_nobody_listed_is_told(self):
        self.known("nats", "2.15.3-alpine")
        (self.folder / "docker-compose.yml").write_text("    image: redis:8\n    image: registry.example.com/telecast:1.0.0\n")
        ended = images("check", self.folder)
        self.assertEqual(ended.stdout, "docker-compose.yml:1: redis:8 is not in deploy/images.yaml: add it\n")

    def test_digests_are_those_that_a_registry_tells(self):
        registry = f"127.0.0.1:{free_port()}"
        process = self.start("registry", [tool("crane"), "registry", "serve", "--address", registry])
        eventually("the registry", lambda: process.running() and get(f"http://{registry}/v2/"))
        layer = self.folder / "layer.tar"
        subprocess.run(["tar", "-cf", layer, "-C", ROOT, "LICENSE"], check=True, timeout=60)
        command = [tool("crane"), "append", "--new_tag", f"{registry}/nats:2.15.3-alpine", "--new_layer", layer]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        digest = "sha256:" + hashlib.sha256(get(f"http://{registry}/v2/nats/manifests/2.15.3-alpine")[1].encode()).hexdigest()
        self.known(f"{registry}/nats", "2.15.3-alpine")
        (self.folder / "docker-compose.yml").write_text(f"    image: {registry}/nats:2.15.3-alpine\n")
        # First of all, the program that this test has.
        environment = {**os.environ, "PATH": f"{ROOT / '.tools/bin'}:{os.environ['PATH']}"}
        command = [sys.executable, SCRIPT, "pin", "--root", self.folder]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        self.assertEqual((ended.returncode, ended.stdout), (0, ""), ended.stderr)
        written = (self.folder / "docker-compose.yml").read_text()
        self.assertEqual(written, f"    image: {registry}/nats:2.15.3-alpine@{digest}\n")
        self.known(f"{registry}/nats", "9.9.9")
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        self.assertIn("is its registry reachable, and the tag right?", ended.stderr)


if __name__ == "__main__":
    unittest.main()
