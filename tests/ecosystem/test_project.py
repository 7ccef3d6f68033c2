"""What contributors meet first: forms, editors' settings, links, and whether what CONTRIBUTING.md names is there."""

import re
import subprocess
import tomllib
import unittest

from fuzzed_http import PYTHON, there
from support import ROOT, TOOLS, read

PATIENCE_SECONDS = 120
FORMS = ROOT / ".github/ISSUE_TEMPLATE"
# With what a file is named in text: it has a folder or is one of these, and no variable.
AT_ROOT = {"Cargo.toml", "Makefile", "rustfmt.toml", "clippy.toml", ".editorconfig", "CHANGELOG.md"}


def run(*command):
    ended = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    return ended.returncode, ended.stdout + ended.stderr


def tracked(*patterns):
    code, output = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *patterns)
    assert code == 0, output
    return [name for name in output.split("\0") if name and (ROOT / name).exists()]


def repository():
    return tomllib.loads(read("Cargo.toml"))["package"]["repository"]


def prose(text):
    """A document without its code: what looks like a link or a heading there is none."""
    return re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.M | re.S)


def anchors(text):
    """Of each heading, as GitHub makes them."""
    found = set()
    for heading in re.findall(r"^#+ (.*?)#*$", prose(text), re.M):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number = 0
        while (anchor if number == 0 else f"{anchor}-{number}") in found:
            number += 1
        found.add(anchor if number == 0 else f"{anchor}-{number}")
    return found | set(re.findall(r'<a (?:id|name)="([^"]+)"', text))


class Links(unittest.TestCase):
    def leads_somewhere(self, where, path, anchor):
        self.assertTrue(path.exists(), f"{where}: {path} is not there")
        if anchor and path.suffix == ".md":
            self.assertIn(anchor, anchors(path.read_text()), f"{where}: {path} has no such heading")

    def test_every_link_inside_the_repository_leads_to_a_file_and_a_heading(self):
        seen = 0
        for name in tracked("*.md"):
            for link in re.findall(r"\]\(([^)\s]+)\)", prose(read(name))):
                if re.match(r"\w+:", link):
                    continue
                target, _, anchor = link.partition("#")
                path = (ROOT / name).parent / target if target else ROOT / name
                self.leads_somewhere(f"{name}, {link}", path.resolve(), anchor)
                seen += 1
        self.assertGreater(seen, 100)

    def test_every_address_of_the_repository_is_that_of_cargo_toml_and_leads_to_what_is_there(self):
        ours = repository()
        name = ours.rsplit("/", 1)[1]
        seen = 0
        for file in tracked():
            try:
                text = read(file)
            except UnicodeDecodeError:
                continue
            for address in re.findall(rf"https://github\.com/[\w-]+/{name}\b[^\s\"'`)<>{{}}]*", text):
                self.assertTrue(address.startswith(ours), f"{file}: {address} is not below {ours}")
                found = re.match(r"/(?:blob|tree|raw)/main/([^#]*)(?:#(.*))?$", address.removeprefix(ours))
                # A place to put a path behind is none yet.
                if found and found[1] and not found[1].endswith("/"):
                    anchor = None if found[2] == "readme" else found[2]
                    self.leads_somewhere(f"{file}, {address}", ROOT / found[1].rstrip(".,"), anchor)
                seen += 1
        self.assertGreater(seen, 5)


class Project(unittest.TestCase):
    def test_issue_forms_are_as_github_reads_them(self):
        checker = there(PYTHON / "check-jsonschema")
        forms = [form for form in sorted(FORMS.glob("*.yml")) if form.name != "config.yml"]
        self.assertGreaterEqual(len(forms), 2)
        for schema, files in (("github-issue-forms", forms), ("github-issue-config", [FORMS / "config.yml"])):
            code, output = run(checker, "--builtin-schema", f"vendor.{schema}", *files)
            self.assertEqual(code, 0, output)

    def test_every_file_is_as_the_settings_of_editors_say(self):
        checker = there(TOOLS / "bin/editorconfig-checker")
        files = [name for name in tracked() if (ROOT / name).is_file()]
        # Continued lines are indented as they read best there, and texts in them by their own rules.
        free = [name for name in files if name.endswith((".rs", ".py", ".sh"))]
        strict = [name for name in files if name not in free]
        for options, files in (([], strict), (["-disable-indentation"], free)):
            code, output = run(checker, "-no-color", "-format", "gcc", *options, *files)
            self.assertEqual(code, 0, output)

    def test_what_contributing_names_is_there(self):
        text = read("CONTRIBUTING.md")
        makefile = read("Makefile")
        for target in set(re.findall(r"\bmake ([a-z][\w-]*)", text)):
            self.assertRegex(makefile, rf"(?m)^{target}:", f"make {target}")
        for name in re.findall(r"tests/deploy/run\.py (\w+)", text):
            self.assertTrue(list(ROOT.glob(f"tests/*/{name}.py")), name)
        for name in re.findall(r"cargo test --test (\w+)", text):
            self.assertTrue((ROOT / f"tests/{name}.rs").exists() or (ROOT / f"tests/{name}/main.rs").exists(), name)
        named = {word for word in re.findall(r"`([\w./*-]+)`", text) if "/" in word or word in AT_ROOT}
        self.assertGreater(len(named), 10)
        for word in named:
            self.assertTrue(list(ROOT.glob(word)), f"{word} is not there")

    def test_the_first_page_leads_to_what_contributors_and_reporters_need(self):
        first = read("README.md")
        for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "LICENSE"):
            self.assertIn(f"]({name})", first)
