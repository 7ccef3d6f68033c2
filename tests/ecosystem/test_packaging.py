"""What an installation consists of beside the program: units, completions, manual pages; and that a release says what it is."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import unittest
import unittest.mock
from functools import cache
from pathlib import Path

from support import ROOT, configuration, drain_seconds, read, telecast, tool

UNITS = ROOT / "deploy/systemd"
ROLES = ["standalone", "ingest", "edge"]
# Of 10. What is left is what the service is for: sockets, the host's network, the host's own directory of programs.
EXPOSURE_MAX = 1.5
PATIENCE_SECONDS = 120


def ran(command, **options):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=PATIENCE_SECONDS, **options)


def script(name):
    """A module of scripts/, which is no package."""
    sys.path.insert(0, str(ROOT / "scripts"))
    spec = importlib.util.spec_from_file_location(name, ROOT / f"scripts/{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def systemd_analyze():
    found = shutil.which("systemd-analyze")
    assert found, "systemd-analyze is missing: it reads units (Debian, Ubuntu: apt-get install systemd)"
    return found


@cache
def settings(role):
    """What systemd would have for a service: key to its last value, the drop-in of all services first."""
    found = {}
    for file in (UNITS / "telecast-.service.d/10-telecast.conf", UNITS / f"telecast-{role}.service"):
        for key, value in re.findall(r"^(\w+)=(.*)$", file.read_text(), re.M):
            found[key] = value
    return found


class Units(unittest.TestCase):
    def setUp(self):
        self.root = Path(self.enterContext(tempfile.TemporaryDirectory()))
        units = self.root / "usr/lib/systemd/system"
        shutil.copytree(UNITS, units)
        (self.root / "usr/bin").mkdir()
        shutil.copyfile("/bin/true", self.root / "usr/bin/telecast")
        (self.root / "usr/bin/telecast").chmod(0o755)
        # Targets that services name; what they mean is systemd's own matter.
        for name in ("sysinit", "basic", "shutdown", "network-online", "multi-user"):
            (units / f"{name}.target").write_text(f"[Unit]\nDescription={name}\n")

    def test_systemd_reads_every_unit_without_a_complaint(self):
        for role in ROLES:
            ended = ran([systemd_analyze(), "verify", f"--root={self.root}", "--man=no", f"telecast-{role}.service"])
            self.assertEqual((ended.returncode, ended.stdout + ended.stderr), (0, ""), role)

    def test_a_broken_unit_would_be_complained_of(self):
        with open(self.root / "usr/lib/systemd/system/telecast-edge.service", "a") as unit:
            unit.write("\n[Service]\nRestartt=always\n")
        ended = ran([systemd_analyze(), "verify", f"--root={self.root}", "--man=no", "telecast-edge.service"])
        self.assertIn("Restartt", ended.stderr)

    def test_no_service_may_do_more_than_it_needs(self):
        for role in ROLES:
            command = [systemd_analyze(), "security", "--offline=true", f"--root={self.root}", f"--threshold={EXPOSURE_MAX * 10:.0f}"]
            ended = ran([*command, "--no-pager", f"telecast-{role}.service"])
            self.assertEqual(ended.returncode, 0, ended.stdout[-200:] + ended.stderr)
            level = float(re.search(r"exposure level for \S+: ([\d.]+)", ended.stdout)[1])
            self.assertLessEqual(level, EXPOSURE_MAX, role)

    def test_stopping_waits_for_the_drain(self):
        for role in ROLES:
            effective = configuration(role, {}, ROOT / "config")
            self.assertGreater(int(settings(role)["TimeoutStopSec"]), drain_seconds(effective, role), role)
            self.assertEqual((settings(role)["KillSignal"], settings(role)["KillMode"]), ("SIGTERM", "mixed"))

    def test_a_node_that_ended_is_started_again_and_a_bad_configuration_is_not(self):
        for role in ROLES:
            self.assertEqual(settings(role)["Restart"], "on-failure", role)
            self.assertEqual(settings(role)["RestartPreventExitStatus"], "64", role)
            self.assertEqual(settings(role)["StartLimitIntervalSec"], "0", role)
        ended = ran([telecast(), "edge"], env={"TELECAST__NO__SUCH": "1", "TELECAST_CONFIG_DIR": str(ROOT / "config")})
        self.assertEqual(ended.returncode, 64, ended.stderr)

    def test_descriptors_suffice_for_the_clients_that_are_configured(self):
        effective = configuration("edge", {}, ROOT / "config")
        self.assertGreater(int(settings("edge")["LimitNOFILE"]), 2 * effective["edge"]["max_connections"])

    def test_each_unit_starts_its_role_with_the_files_of_the_package(self):
        for role in ROLES:
            self.assertEqual(settings(role)["ExecStart"], f"/usr/bin/telecast {role}")
            self.assertEqual(settings(role)["EnvironmentFile"], f"-/etc/telecast/{role}.env")
            self.assertEqual(settings(role)["Environment"], "TELECAST_CONFIG_DIR=/etc/telecast")


class Reference(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        ended = ran([telecast(), "man", cls.folder / "man", "--made", 1_700_000_000])
        assert ended.returncode == 0, ended.stderr

    def test_mandoc_reads_every_manual_page(self):
        pages = sorted((self.folder / "man").iterdir())
        self.assertGreater(len(pages), 8)
        ended = ran([tool("mandoc"), "-T", "lint", "-W", "warning", *pages])
        # Of clap_mangen's own making, and without effect.
        harmless = ("skipping paragraph macro:",)
        complaints = [line for line in ended.stdout.splitlines() if not any(text in line for text in harmless)]
        self.assertEqual(complaints, [])

    def test_the_page_of_the_program_has_what_people_look_for(self):
        page = (self.folder / "man/telecast.1").read_text()
        self.assertIn('.TH telecast 1 2023-11-14 "telecast ', page)
        for heading in ("EXAMPLES", "CONFIGURATION", "ENVIRONMENT", '"EXIT CODES"', "SIGNALS"):
            self.assertIn(f"\n.SH {heading}\n", page)
        self.assertRegex(page, r"(?m)^ *70 ")

    def test_bash_completes_verbs_flags_and_values(self):
        completions = self.folder / "telecast.bash"
        completions.write_text(ran([telecast(), "completions", "bash"]).stdout)
        for words, expected in ((["ed"], "edge"), (["edge", "--no"], "--node"), (["config", "--role", "in"], "ingest")):
            line = ["telecast", *words]
            ask = f". {completions}; COMP_WORDS=({' '.join(line)}); COMP_CWORD={len(words)}; "
            ask += f"_telecast telecast '{line[-1]}' '{line[-2]}'; printf '%s\\n' \"${{COMPREPLY[@]}}\""
            ended = ran(["bash", "-c", ask])
            self.assertEqual((ended.stdout.split(), ended.stderr), ([expected], ""), words)

    def test_a_pipe_that_is_closed_is_no_crash(self):
        ended = ran(["bash", "-c", f"{telecast()} completions zsh | head -1"])
        self.assertEqual(ended.stderr, "")


class Versions(unittest.TestCase):
    def setUp(self):
        self.number = tomllib.loads(read("Cargo.toml"))["package"]["version"]

    def test_every_file_that_names_the_version_names_the_same(self):
        named = {
            "Cargo.lock": [each["version"] for each in tomllib.loads(read("Cargo.lock"))["package"] if each["name"] == "telecast"],
            "clients/js/package.json": [json.loads(read("clients/js/package.json"))["version"]],
            "docker-compose.yml": re.findall(r"\$\{TELECAST_IMAGE:-telecast:([^}]+)\}", read("docker-compose.yml")),
            "k8s/base/kustomization.yaml": re.findall(r"newTag: (\S+)", read("k8s/base/kustomization.yaml")),
            "k8s/overlays/production/kustomization.yaml": re.findall(
                r"newTag: (\S+)", read("k8s/overlays/production/kustomization.yaml")
            ),
            "deploy/helm/telecast/Chart.yaml": re.findall(r"^(?:appV|v)ersion: (\S+)", read("deploy/helm/telecast/Chart.yaml"), re.M),
            "README.md": re.findall(r"^Telecast (\S+) standalone on", read("README.md"), re.M),
            "docs/openapi.yaml": re.findall(r"\bversion: (\d+\.\d+\.\d+)\b(?!.*openapi)", read("docs/openapi.yaml")),
        }
        for file, versions in named.items():
            self.assertTrue(versions, f"{file} names no version where this test looks for it")
            self.assertEqual(set(versions), {self.number}, file)

    def test_the_package_asks_for_the_c_library_that_releases_are_built_for(self):
        debian = tomllib.loads(read("Cargo.toml"))["package"]["metadata"]["deb"]
        self.assertIn(f"libc6 (>= {script('release').GLIBC})", debian["depends"].split(", "))


class Changelog(unittest.TestCase):
    def test_it_says_what_to_do_before_an_upgrade(self):
        releasing = script("releasing")
        sections = releasing.changelog(read("CHANGELOG.md"))
        self.assertIn("Unreleased", sections)
        self.assertTrue(releasing.upgrade_notes(sections["Unreleased"]) or "### " in sections["Unreleased"])

    def test_headings_of_versions_are_found_however_they_are_written(self):
        text = "# Changelog\n\n## Unreleased\n\n## [0.2.0] - 2026-12-01\n\n### Before you upgrade\n\n- Read.\n\n### Added\n\n## 0.1.0 (2026-11-28)\n"
        releasing = script("releasing")
        sections = releasing.changelog(text)
        self.assertEqual(list(sections), ["Unreleased", "0.2.0", "0.1.0"])
        self.assertEqual(releasing.upgrade_notes(sections["0.2.0"]), "- Read.")
        self.assertEqual(releasing.upgrade_notes(sections["0.1.0"]), "")

    def test_a_version_without_a_section_and_changes_without_a_commit_are_refused(self):
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        (folder / "scripts").mkdir()
        for name in ("release.py", "releasing.py"):
            shutil.copyfile(ROOT / "scripts" / name, folder / "scripts" / name)
        shutil.copyfile(ROOT / "Cargo.toml", folder / "Cargo.toml")
        (folder / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n\n- Something.\n")
        git = ["git", "-C", folder, "-c", "user.name=t", "-c", "user.email=t@example.com"]
        for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "a commit"]):
            self.assertEqual(ran([*git, *arguments]).returncode, 0)
        refused = ran([sys.executable, "-B", folder / "scripts/release.py"])
        self.assertEqual(refused.returncode, 1)
        self.assertIn(f"no section `## {tomllib.loads(read('Cargo.toml'))['package']['version']}`", refused.stderr)
        (folder / "new").touch()
        refused = ran([sys.executable, "-B", folder / "scripts/release.py"])
        self.assertIn("changes that no commit has", refused.stderr)


class Targets(unittest.TestCase):
    def test_a_target_that_cannot_be_had_stops_the_build_and_the_message_says_what_can_be_built(self):
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        programs = {"rustc": "echo /not/there", "rustup": "echo 'error: could not download file' >&2; exit 1"}
        for name, line in programs.items():
            (folder / name).write_text(f"#!/bin/sh\n{line}\n")
            (folder / name).chmod(0o755)
        release = script("release")
        for rustup in (True, False):
            if not rustup:
                (folder / "rustup").unlink()
            with unittest.mock.patch.dict("os.environ", PATH=str(folder)), self.assertRaises(SystemExit) as stopped:
                release.need_target("aarch64-unknown-linux-musl")
            for part in ("rustup target add aarch64-unknown-linux-musl", "make release TARGETS="):
                self.assertIn(part, str(stopped.exception))


class Image(unittest.TestCase):
    def test_it_is_built_with_a_list_of_packages_provenance_and_the_dates_of_the_commit(self):
        image, releasing = script("release-image"), script("releasing")
        release = releasing.Release("1.2.3", "1.2.3", "1.2.3-1", "c" * 40, 1_700_000_000, "https://example.com/t", "", False)
        for push, output in ((False, "type=oci,dest="), (True, "type=image,push=true")):
            words = image.command(release, "registry.example.com/telecast", push)
            self.assertLessEqual({"--sbom=true", "--provenance=mode=max", "registry.example.com/telecast:1.2.3"}, set(words))
            self.assertTrue(words[words.index("--output") + 1].startswith(output))
        given = set(words[index + 1].partition("=")[0] for index, word in enumerate(words) if word == "--build-arg")
        declared = set(re.findall(r"^ARG (\w+)", read("Dockerfile"), re.M))
        # BuildKit itself takes the one that no stage declares.
        self.assertEqual(given - declared, {"SOURCE_DATE_EPOCH"})
        self.assertIn("TELECAST_CREATED=2023-11-14T22:13:20Z", words)

    def test_a_release_is_not_built_on_base_images_without_a_digest(self):
        image = script("release-image")
        named = re.findall(r"^FROM ([^@\s]+)(@sha256:\w+)?", read("Dockerfile"), re.M)
        self.assertEqual(len(named), 2)
        self.assertEqual(image.unpinned(), [name for name, digest in named if not digest])


if __name__ == "__main__":
    unittest.main()
