"""What `make release` has built, unpacked, read, installed and run: no registry is asked.

The release of this commit is taken from dist/ if it is there; else a snapshot of it is built, which takes minutes.
"""

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unittest
import zlib
from functools import cache
from pathlib import Path

from clean_machine import CleanMachine
from support import ROOT, TOOLS, eventually, nats_server, tool
from test_packaging import script

DIST = ROOT / "dist"
ROLES = ["standalone", "ingest", "edge"]
PATIENCE_SECONDS = 300
BUILD_SECONDS_MAX = 5400
GLIBC = (2, 28)


def ran(command, fine=0, **options):
    ended = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=PATIENCE_SECONDS, **options)
    assert ended.returncode == fine, f"{command}: {ended.returncode}\n{ended.stdout}{ended.stderr}"
    return ended.stdout


def head():
    return ran(["git", "-C", ROOT, "rev-parse", "HEAD"]).strip()


def statement():
    found = list(DIST.glob("*.provenance.json"))
    return json.loads(found[0].read_text()) if found else None


def commit_of(document):
    return document["predicate"]["buildDefinition"]["resolvedDependencies"][0]["digest"]["gitCommit"]


@cache
def built():
    """The provenance of what is in dist/, after building it if it is not of this commit."""
    if not (statement() and (DIST / "SHA256SUMS").exists() and commit_of(statement()) == head()):
        command = [sys.executable, ROOT / "scripts/release.py", "--snapshot", "--target", "x86_64-unknown-linux-gnu"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS_MAX)
        assert ended.returncode == 0, ended.stderr[-3000:]
    return statement()


def targets():
    return built()["predicate"]["buildDefinition"]["externalParameters"]["targets"]


def version():
    return built()["predicate"]["buildDefinition"]["externalParameters"]["version"]


@cache
def unpacked(target):
    """The folder that the archive of a target has in it."""
    folder = Path(tempfile.mkdtemp(prefix="release-"))
    unittest.addModuleCleanup(shutil.rmtree, folder)
    with tarfile.open(DIST / f"telecast-{version()}-{target}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    (found,) = folder.iterdir()
    assert found.name == f"telecast-{version()}-{target}"
    return found


def embedded(program):
    """The list of dependencies that cargo-auditable has put into a program."""
    section = program.with_name("dependencies")
    script("releasing").objcopy(f"--dump-section=.dep-v0={section}", program, os.devnull)
    return json.loads(zlib.decompress(section.read_bytes()))["packages"]


class Documents(unittest.TestCase):
    def test_checksums_hold_and_name_every_file(self):
        built()
        ran(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=DIST)
        named = {line.split()[1] for line in (DIST / "SHA256SUMS").read_text().splitlines()}
        self.assertEqual(named, {file.name for file in DIST.iterdir()} - {"SHA256SUMS"})

    def test_provenance_names_commit_tools_and_the_digest_of_each_file(self):
        document = built()
        self.assertEqual(commit_of(document), head())
        self.assertEqual(document["_type"], "https://in-toto.io/Statement/v1")
        for subject in document["subject"]:
            content = (DIST / subject["name"]).read_bytes()
            self.assertEqual(subject["digest"]["sha256"], hashlib.sha256(content).hexdigest(), subject["name"])
        others = {file.name for file in DIST.iterdir()} - {subject["name"] for subject in document["subject"]}
        self.assertEqual({re.sub(r"^telecast-.*\.prov", "prov", name) for name in others}, {"SHA256SUMS", "provenance.json"})
        tools = {each.get("name") for each in document["predicate"]["buildDefinition"]["resolvedDependencies"]}
        self.assertLessEqual({"rustc", "zig", "cargo-deb"}, tools)

    def test_the_bill_of_materials_is_cyclonedx_and_lists_what_the_program_lists(self):
        python = TOOLS / "cyclonedx/bin/python"
        strict = "import sys; from cyclonedx.validation.json import JsonStrictValidator as V; from cyclonedx.schema import SchemaVersion as S; "
        strict += "error = V(S.V1_5).validate_str(open(sys.argv[1]).read()); sys.exit(str(error) if error else 0)"
        for target in targets():
            file = DIST / f"telecast-{version()}-{target}.cdx.json"
            ran([python, "-c", strict, file])
            listed = {(each["name"], each["version"]) for each in json.loads(file.read_text())["components"]}
            inside = {(each["name"], each["version"]) for each in embedded(unpacked(target) / "telecast") if each.get("kind", "runtime") == "runtime"}
            self.assertGreater(len(inside), 100)
            self.assertEqual({pair for pair in inside if pair[0] != "telecast"} - listed, set(), target)
            licences = (unpacked(target) / "THIRD-PARTY-LICENSES").read_text()
            for name, number in listed:
                self.assertRegex(licences, rf"(?m)^{re.escape(name)} {re.escape(number)}: ", target)


class Archives(unittest.TestCase):
    def test_each_has_all_that_an_installation_needs(self):
        for target in targets():
            folder = unpacked(target)
            files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
            wanted = {"telecast", "README.md", "LICENSE", "THIRD-PARTY-LICENSES", "CHANGELOG.md", "docs/install.md", "man/telecast.1", "config/default.toml"}
            wanted |= {"completions/telecast.bash", "completions/_telecast", "completions/telecast.fish"}
            wanted |= {f"systemd/telecast-{role}.service" for role in ROLES} | {f"man/telecast-{role}.1" for role in ROLES}
            self.assertLessEqual(wanted | {"systemd/telecast-.service.d/10-telecast.conf", "systemd/sysusers.conf"}, files, target)

    def test_programs_are_stripped_and_their_symbols_are_beside_them(self):
        for target in targets():
            sections = ran(["readelf", "--sections", "--wide", unpacked(target) / "telecast"])
            self.assertNotRegex(sections, r"\.symtab|\.debug_(info|line|str)", target)
            identity = re.search(r"Build ID: (\w+)", ran(["readelf", "--notes", unpacked(target) / "telecast"]))[1]
            with tarfile.open(DIST / f"telecast-{version()}-{target}.debug.tar.gz") as archive:
                self.assertEqual(archive.getnames(), [f"usr/lib/debug/.build-id/{identity[:2]}/{identity[2:]}.debug"])

    def test_programs_need_no_newer_system_than_is_said(self):
        for target in targets():
            program = unpacked(target) / "telecast"
            asked = {tuple(map(int, found)) for found in re.findall(r"GLIBC_(\d+)\.(\d+)", ran(["readelf", "--version-info", program]))}
            needed = set(re.findall(r"Shared library: \[([\w+-]+)", ran(["readelf", "--dynamic", program])))
            if target.endswith("musl"):
                self.assertEqual((asked, needed), (set(), set()), target)
            else:
                self.assertLessEqual(max(asked), GLIBC, target)
                self.assertLessEqual(needed, {"libc", "libm", "libpthread", "libdl", "librt", "ld-linux-x86-64", "ld-linux-aarch64"}, target)

    def test_programs_run_and_name_version_and_commit(self):
        for target in targets():
            program = [unpacked(target) / "telecast"]
            if target.startswith("aarch64") and os.uname().machine != "aarch64":
                # The C library of arm64 is not here; a static program needs none.
                if not target.endswith("musl"):
                    continue
                program = [tool("qemu-aarch64-static"), *program]
            self.assertIn(head()[:12], ran([*program, "version"]), target)
            effective = ran([*program, "config", "--role", "edge"], env={"TELECAST_CONFIG_DIR": str(unpacked(target) / "config")})
            self.assertIn("max_connections", effective)

    def test_no_file_tells_on_which_machine_it_was_made(self):
        for target in targets():
            content = (unpacked(target) / "telecast").read_bytes()
            for trace in (str(ROOT), str(Path.home() / ".cargo")):
                self.assertNotIn(trace.encode(), content, target)


class OnCleanMachine(unittest.TestCase):
    """In a Debian of its own, whose first process is systemd."""

    @classmethod
    def setUpClass(cls):
        built()
        (cls.package,) = DIST.glob("telecast_*_amd64.deb")
        folder = Path(tempfile.mkdtemp(prefix="machine-"))
        cls.addClassCleanup(shutil.rmtree, folder, ignore_errors=True)
        cls.machine = CleanMachine(folder)
        cls.addClassCleanup(cls.machine.stop)

    def copy(self, source, target):
        shutil.copyfile(source, str(self.machine.root) + target)

    def write(self, target, text):
        Path(str(self.machine.root) + target).write_text(text)

    def answers(self, port):
        ask = f"exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'GET /readyz HTTP/1.0\\r\\n\\r\\n' >&3; head -1 <&3"
        return eventually("an answer", lambda: "200" in self.machine.run("bash", "-c", ask, fine=None).stdout)


class FromTheArchive(OnCleanMachine):
    def test_a_node_is_installed_as_the_documentation_says(self):
        name = f"telecast-{version()}-{targets()[0]}.tar.gz"
        self.copy(DIST / name, f"/root/{name}")
        text = (ROOT / "docs/install.md").read_text()
        lines = re.search(r"^## From the archive\n\n```sh\n(.*?)```", text, re.M | re.S)[1]
        lines = re.sub(r"telecast-\d+\.\d+\.\d+-x86_64-unknown-linux-gnu", name.removesuffix(".tar.gz"), lines).replace("sudo ", "")
        self.machine.run("bash", "-euc", f"cd /root\n{lines}")
        self.machine.run("systemctl", "enable", "--now", "telecast-standalone")
        self.answers(9090)
        self.assertEqual(self.machine.show("telecast-standalone", "User"), "telecast")


class Package(OnCleanMachine):
    def setUp(self):
        self.copy(self.package, "/root/telecast.deb")
        # Lines of the tests before are not of this one.
        self.machine.run("journalctl", "--rotate", "--vacuum-time=1s")

    def install(self):
        return self.machine.run("dpkg", "--install", "/root/telecast.deb")

    def purge(self):
        self.machine.run("dpkg", "--purge", "telecast")
        # Files that a test has put there are the operator's, not the package's.
        self.machine.run("rm", "-rf", "/etc/telecast")

    def test_lintian_finds_nothing(self):
        ended = subprocess.run(
            [tool("lintian"), "--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "0", self.package],
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        self.assertEqual((ended.returncode, ended.stdout), (0, ""), ended.stderr)

    def test_it_installs_without_starting_anything_and_purges_without_a_trace(self):
        before = self.machine.run("find", "/etc", "/usr", "/var/lib", "-newermt", "2000-01-01", "-path", "*telecast*").stdout
        self.assertEqual(before, "")
        self.install()
        self.assertIn("telecast:x:", self.machine.run("getent", "passwd", "telecast").stdout)
        for role in ROLES:
            unit = f"telecast-{role}.service"
            self.assertEqual(self.machine.run("systemctl", "is-enabled", unit, fine=1).stdout.strip(), "disabled")
            self.assertEqual(self.machine.show(unit, "ActiveState"), "inactive")
            self.machine.run("systemd-analyze", "verify", "--man=no", unit)
            self.machine.run("systemd-analyze", "security", "--threshold=15", unit)
        self.machine.run("dpkg", "--purge", "telecast")
        left = self.machine.run("find", "/etc", "/usr", "/var/lib", "-path", "*telecast*").stdout
        self.assertEqual(left, "")

    def test_a_standalone_node_runs_under_its_unit_drains_and_keeps_its_configuration_over_an_upgrade(self):
        self.install()
        self.addCleanup(self.purge)
        self.write("/etc/telecast/standalone.env", "TELECAST__EDGE__DRAIN_GRACE_MS=500\n")
        self.machine.run("systemctl", "enable", "--now", "telecast-standalone")
        self.answers(9090)
        self.assertIn("is running", self.machine.run("telecast", "status").stdout)
        first = self.machine.show("telecast-standalone", "MainPID")
        # An operator's change of a file of the package survives; the node that runs drains and starts anew.
        settings = Path(f"{self.machine.root}/etc/telecast/standalone.toml")
        settings.write_text(settings.read_text() + "\n# mine\n")
        self.install()
        self.answers(9090)
        self.assertNotEqual(self.machine.show("telecast-standalone", "MainPID"), first)
        self.assertIn("# mine", settings.read_text())
        self.machine.run("systemctl", "stop", "telecast-standalone")
        self.assertEqual(self.machine.show("telecast-standalone", "Result"), "success")
        log = self.machine.run("journalctl", "--unit", "telecast-standalone", "--no-pager", "--output", "cat").stdout
        self.assertEqual(log.count('"event":"stopped"'), 2, log)
        self.machine.run("systemctl", "disable", "telecast-standalone")

    def test_ingest_and_edge_run_under_their_units_against_a_nats_server(self):
        self.install()
        self.addCleanup(self.purge)
        self.copy(nats_server(), "/usr/bin/nats-server")
        self.machine.run("chmod", "755", "/usr/bin/nats-server")
        self.machine.run("systemd-run", "--unit=nats-server", "nats-server", "-js", "-sd", "/tmp/nats")
        self.addCleanup(self.machine.run, "systemctl", "stop", "nats-server")
        for role, port in (("ingest", 9090), ("edge", 3002)):
            self.write(f"/etc/telecast/{role}.env", "TELECAST__EDGE__DRAIN_GRACE_MS=0\nTELECAST__EDGE__DRAIN_WAVES_MS=0\n")
            self.machine.run("systemctl", "start", f"telecast-{role}")
            self.answers(port)
        for role in ("ingest", "edge"):
            self.machine.run("systemctl", "stop", f"telecast-{role}")
            self.assertEqual(self.machine.show(f"telecast-{role}", "Result"), "success", role)

    def test_a_killed_node_comes_back_and_a_bad_configuration_says_so_once(self):
        self.install()
        self.addCleanup(self.purge)
        self.machine.run("systemctl", "start", "telecast-standalone")
        self.answers(9090)
        first = self.machine.show("telecast-standalone", "MainPID")
        self.machine.run("systemctl", "kill", "--signal=KILL", "telecast-standalone")
        eventually("another process", lambda: self.machine.show("telecast-standalone", "MainPID") not in (first, "0"))
        self.answers(9090)
        self.write("/etc/telecast/standalone.env", "TELECAST__EDGE__THROTTLE_MS=never\n")
        self.machine.run("systemctl", "restart", "telecast-standalone", fine=None)
        eventually("the end", lambda: self.machine.show("telecast-standalone", "ActiveState") == "failed")
        self.assertEqual(self.machine.show("telecast-standalone", "ExecMainStatus"), "64")
        log = self.machine.run("journalctl", "--unit", "telecast-standalone", "--no-pager", "--output", "cat").stdout
        self.assertEqual(len(re.findall(r"edge\.throttle_ms", log)), 1, log)
        self.machine.run("systemctl", "reset-failed", "telecast-standalone")

    def test_upgrade_notes_are_where_apt_shows_them(self):
        with tempfile.TemporaryDirectory() as folder:
            ran(["dpkg-deb", "--extract", self.package, folder])
            documents = Path(folder, "usr/share/doc/telecast")
            news = gzip.decompress((documents / "NEWS.Debian.gz").read_bytes()).decode()
        self.assertRegex(news, r"^telecast \(\S+\) stable; urgency=medium\n\n  - ")
        ran(["dpkg-parsechangelog", "--file", "-"], input=news)


class Image(unittest.TestCase):
    """The last stage of the Dockerfile, with the program of the release in place of the first stage's, on the C library of Debian."""

    BASE = "gcr.io/distroless/cc-debian13:nonroot"

    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        (self.folder / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        (self.folder / "registries.conf").write_text("unqualified-search-registries = []\n")
        self.addCleanup(self.buildah, "unmount", "--all")

    def buildah(self, *words):
        store = ["--storage-driver", "vfs", "--root", self.folder / "store", "--runroot", self.folder / "run"]
        return ran([tool("buildah"), *store, "--registries-conf", self.folder / "registries.conf", *words]).strip()

    def build(self, name, text, context, *options):
        (self.folder / "Dockerfile").write_text(text)
        words = ["bud", "--signature-policy", self.folder / "policy.json", "--isolation", "chroot", "--pull-never", "--format", "docker"]
        self.buildah(*words, "--quiet", "--tag", name, "--file", self.folder / "Dockerfile", *options, context)

    def stand_in(self):
        """What of the base image the program needs, under its name: no registry is asked."""
        context = self.folder / "base"
        libraries = ("libc.so.6", "libm.so.6", "libgcc_s.so.1", "libdl.so.2", "libpthread.so.0", "librt.so.1")
        for library in ("lib64/ld-linux-x86-64.so.2", *(f"lib/x86_64-linux-gnu/{name}" for name in libraries)):
            (context / library).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile((TOOLS / "roots/trixie" / library).resolve(), context / library)
            (context / library).chmod(0o755)
        self.build(self.BASE, "FROM scratch\nCOPY . /\n", context)

    def test_it_has_all_labels_no_root_and_runs_each_role(self):
        target = next(target for target in targets() if target == "x86_64-unknown-linux-gnu")
        context = self.folder / "context"
        shutil.copytree(ROOT / "config", context / "config")
        shutil.copyfile(unpacked(target) / "telecast", context / "telecast")
        (context / "telecast").chmod(0o755)
        self.stand_in()
        text = (ROOT / "Dockerfile").read_text()
        last = re.sub(r"^FROM \S+", f"FROM {self.BASE}", text[text.rindex("\nFROM ") + 1 :])
        given = {"TELECAST_VERSION": version(), "TELECAST_COMMIT": head()[:12], "TELECAST_CREATED": "2026-11-28T00:00:00Z"}
        options = [word for name, value in given.items() for word in ("--build-arg", f"{name}={value}")]
        first = "FROM scratch AS build\nCOPY telecast /build/target/release/telecast\n"
        self.build("telecast:check", first + last, context, *options)
        config = json.loads(self.buildah("inspect", "--type", "image", "telecast:check"))["Docker"]["config"]
        self.assertEqual((config["User"], config["Entrypoint"], config["Cmd"]), ("65532:65532", ["telecast"], ["standalone"]))
        for label, value in (("version", version()), ("revision", head()[:12]), ("created", "2026-11-28T00:00:00Z")):
            self.assertEqual(config["Labels"][f"org.opencontainers.image.{label}"], value)
        container = self.buildah("from", "--signature-policy", self.folder / "policy.json", "--pull-never", "telecast:check")
        root = self.buildah("mount", container)
        enter = ["chroot", "--userspec", config["User"], root, "/usr/local/bin/telecast"]
        environment = dict(pair.split("=", 1) for pair in config["Env"])
        self.assertIn(head()[:12], ran([*enter, "version"], env=environment))
        for role in ROLES:
            self.assertIn("/etc/telecast", ran([*enter, "config", "--role", role], env=environment), role)


@unittest.skipUnless(os.environ.get("SLOW_TESTS") == "1", "SLOW_TESTS=1 builds the same commit again, in another folder")
class Reproduction(unittest.TestCase):
    def test_the_same_commit_gives_the_same_bytes_in_another_folder(self):
        document = built()
        self.assertFalse(document["predicate"]["buildDefinition"]["internalParameters"]["uncommittedChanges"], "commit first")
        with tempfile.TemporaryDirectory() as folder:
            clone = Path(folder) / "elsewhere"
            ran(["git", "clone", "--quiet", ROOT, clone])
            (clone / ".tools").symlink_to((ROOT / ".tools").resolve())
            command = [sys.executable, clone / "scripts/release.py", "--snapshot", "--target", targets()[0]]
            ended = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS_MAX)
            self.assertEqual(ended.returncode, 0, ended.stderr[-3000:])
            again = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (clone / "dist").iterdir()}
        before = {subject["name"]: subject["digest"]["sha256"] for subject in document["subject"]}
        same = {name: digest for name, digest in again.items() if name in before}
        self.assertGreater(len(same), 3)
        self.assertEqual(same, {name: before[name] for name in same})


if __name__ == "__main__":
    unittest.main()
