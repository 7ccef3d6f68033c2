"""What `npm pack` makes of clients/js, judged by what judges packages, and used by programs of both kinds in old and new TypeScript."""

import json
import os
import shutil
import subprocess
import tomllib
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

from support import ROOT, TOOLS

CLIENT = ROOT / "clients/js"
LINTERS = TOOLS / "package-linters/node_modules"
PATIENCE_SECONDS = 300
USE = """
const client: Client = connect({ url: "https://edge", filter: "*.cpu" });
client.on("metrics", ({ metrics }) => metrics[0]?.fields["usage_idle"]);
export const store = new SeriesStore(client, { max: 10 });
"""
IMPORT = 'import { connect, SeriesStore, type Client } from "@telecast/client";' + USE
# A program that is a CommonJS module or an ES module by its name, whatever the setting makes of others.
SOURCES = {"module.mts": IMPORT, "common.cts": IMPORT, "required.cts": 'import telecast = require("@telecast/client");\nexport const store = new telecast.SeriesStore();\n'}
# A program in plain `.ts`, in a package without a type, is CommonJS by these: where TypeScript refuses to require what is an ES module (TS1479).
PLAIN = {"plain.ts": IMPORT}
MODULES = [
    ({"module": "node16"}, SOURCES | PLAIN),
    ({"module": "nodenext"}, SOURCES | PLAIN),
    ({"module": "esnext", "moduleResolution": "bundler"}, PLAIN),
    ({"module": "preserve", "moduleResolution": "bundler"}, PLAIN),
]
OPTIONS = {"noEmit": True, "strict": True, "target": "es2022", "lib": ["es2022", "dom", "dom.asynciterable"], "types": [], "skipLibCheck": False}


def run(*command, folder):
    return subprocess.run([str(word) for word in command], cwd=folder, capture_output=True, text=True, timeout=PATIENCE_SECONDS)


def there(path, how):
    assert path.exists(), f"{path.name} is missing: {how}"
    return path


def dependencies():
    return there(CLIENT / "node_modules", "scripts/test-client-js.sh installs what the client is built with")


class Package(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        """Packs a copy: packing builds anew, and other tests use what is built."""
        cls.folder = Path(cls.enterClassContext(TemporaryDirectory()))
        copy = cls.folder / "clients/js"
        left_out = shutil.ignore_patterns("node_modules", "dist", ".build")
        shutil.copytree(CLIENT, copy, ignore=left_out)
        shutil.copyfile(ROOT / "LICENSE", cls.folder / "LICENSE")
        (copy / "node_modules").symlink_to(dependencies())
        packed = run("npm", "pack", "--silent", "--pack-destination", cls.folder, folder=copy)
        assert packed.returncode == 0, packed.stdout + packed.stderr
        cls.tarball = cls.folder / packed.stdout.split()[-1]
        cls.consumer = cls.folder / "consumer"
        installed = cls.consumer / "node_modules/@telecast/client"
        installed.mkdir(parents=True)
        shutil.unpack_archive(cls.tarball, cls.folder / "unpacked")
        shutil.copytree(cls.folder / "unpacked/package", installed, dirs_exist_ok=True)
        cls.manifest = json.loads((installed / "package.json").read_text())

    def succeeds(self, *command, folder=None):
        ended = run(*command, folder=folder or self.folder)
        self.assertEqual(ended.returncode, 0, ended.stdout + ended.stderr)
        return ended.stdout

    def test_its_types_resolve_in_every_way_of_resolving(self):
        attw = there(LINTERS / ".bin/attw", "scripts/setup-ecosystem.py fetches it, or says what it lacks for that")
        told = json.loads(self.succeeds(attw, self.tarball, "--format", "json"))
        self.assertEqual(told["analysis"]["problems"], [])

    def test_publint_finds_nothing_in_what_is_packed(self):
        told = self.succeeds(dependencies() / ".bin/publint", "--strict", self.tarball)
        self.assertIn("All good!", told)

    def test_programs_of_both_kinds_compile_with_it_in_old_and_new_typescript(self):
        versions = [there(LINTERS / "typescript/bin/tsc", "scripts/setup-ecosystem.py fetches it"), dependencies() / "typescript/bin/tsc"]
        for number, (modules, sources) in enumerate(MODULES):
            project = self.consumer / f"program-{number}"
            project.mkdir()
            for name, text in sources.items():
                (project / name).write_text(text)
            (project / "package.json").write_text('{"private": true}')
            (project / "tsconfig.json").write_text(json.dumps({"compilerOptions": OPTIONS | modules, "include": ["."]}))
            for tsc in versions:
                with self.subTest(modules, tsc=str(tsc)):
                    self.succeeds("node", tsc, "-p", project)

    def test_node_imports_and_requires_it(self):
        for kind, load in (("module", "import * as it from '@telecast/client'"), ("commonjs", "const it = require('@telecast/client')")):
            script = f"{load}; console.log(typeof it.connect, typeof it.SeriesStore)"
            told = self.succeeds("node", f"--input-type={kind}", "--eval", script, folder=self.consumer)
            self.assertEqual(told, "function function\n")

    def test_its_page_leads_to_the_repository_that_everything_names(self):
        repository = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["repository"]
        where = os.path.relpath(CLIENT, ROOT)
        self.assertEqual(self.manifest["repository"], {"type": "git", "url": f"git+{repository}.git", "directory": where})
        self.assertEqual(self.manifest["bugs"], {"url": f"{repository}/issues"})
        self.assertEqual(self.manifest["homepage"], f"{repository}/tree/main/{where}#readme")
