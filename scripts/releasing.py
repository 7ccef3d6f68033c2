"""What a release consists of: its facts, the files laid out for archives, and the documents that say what is in them."""

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
# Where the files of one target lie before they are packed; Cargo.toml names it for the .deb.
PACKAGE = DIST / ".package"
COMPLETIONS = {"bash": "telecast.bash", "zsh": "_telecast", "fish": "telecast.fish"}


def give_up(text):
    sys.exit(f"release: {text}")


def output(command, **options):
    """What a command prints; a failure of it is one of ours."""
    ended = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True, **options)
    if ended.returncode:
        give_up(f"`{' '.join(map(str, command))}` failed:\n{ended.stdout}{ended.stderr}")
    return ended.stdout


def objcopy(*words):
    """That of Rust's toolchain: it reads the files of all processors. Its libraries are where only the compiler looks."""
    libraries = Path(output(["rustc", "--print", "target-libdir"]).strip())
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries.parents[2])}
    return output([libraries.parent / "bin/rust-objcopy", *words], env=environment)


@dataclass(frozen=True)
class Release:
    """`name` is the version in names of files, `number` the program's own; `time` is the commit's, which all dates are."""

    name: str
    number: str
    debian: str
    commit: str
    time: int
    repository: str
    notes: str
    dirty: bool

    @property
    def short(self):
        return self.commit[:12] + ("-dirty" if self.dirty else "")


def facts(snapshot):
    """The release that this commit is. Without `snapshot`, only a commit that is one: all committed, and its changes written down."""
    package = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
    number, repository = package["version"], package["repository"]
    commit = output(["git", "rev-parse", "HEAD"]).strip()
    time = int(output(["git", "log", "-1", "--format=%ct"]))
    dirty = bool(output(["git", "status", "--porcelain"]).strip())
    sections = changelog((ROOT / "CHANGELOG.md").read_text())
    if snapshot:
        day = formatted(time, "%Y%m%d")
        mark = f"git{day}.{commit[:7]}"
        notes = sections.get("Unreleased") or sections.get(number, "")
        return Release(f"{number}-{mark}", number, f"{number}~{mark}-1", commit, time, repository, notes, dirty)
    hint = "SNAPSHOT=1 builds what is here without calling it a release"
    if dirty:
        give_up(f"there are changes that no commit has: commit them, or {hint}")
    if number not in sections:
        give_up(f"CHANGELOG.md has no section `## {number}`: rename `## Unreleased` to it (and say what to do before an upgrade), or {hint}")
    return Release(number, number, f"{number}-1", commit, time, repository, sections[number], dirty)


def changelog(text):
    """Sections by their version: `## 1.2.3 (2026-11-28)`, `## [1.2.3]` and `## Unreleased` are headings."""
    found = {}
    for part in re.split(r"^## ", text, flags=re.M)[1:]:
        heading, _, body = part.partition("\n")
        found[heading.split()[0].strip("[]")] = body.strip()
    return found


def formatted(time, pattern):
    import datetime

    return datetime.datetime.fromtimestamp(time, datetime.UTC).strftime(pattern)


# ── files ──


def lay_out(release, program, pages, licences):
    """The files of the .deb at their places under PACKAGE; `pages` has completions and manual pages."""
    shutil.rmtree(PACKAGE, ignore_errors=True)
    place(program, "usr/bin/telecast", 0o755)
    for file in (ROOT / "config").glob("*.toml"):
        place(file, f"etc/telecast/{file.name}")
    units = ROOT / "deploy/systemd"
    for file in [*units.glob("*.service"), *units.glob("*.service.d/*")]:
        place(file, f"usr/lib/systemd/system/{file.relative_to(units)}")
    place(units / "sysusers.conf", "usr/lib/sysusers.d/telecast.conf")
    for page in (pages / "man").iterdir():
        pack(page.read_bytes(), f"usr/share/man/man1/{page.name}.gz")
    place(pages / "completions/telecast.bash", "usr/share/bash-completion/completions/telecast")
    place(pages / "completions/_telecast", "usr/share/zsh/vendor-completions/_telecast")
    place(pages / "completions/telecast.fish", "usr/share/fish/vendor_completions.d/telecast.fish")
    place(ROOT / "README.md", "usr/share/doc/telecast/README.md")
    pack((ROOT / "CHANGELOG.md").read_bytes(), "usr/share/doc/telecast/changelog.gz")
    pack((ROOT / "docs/install.md").read_bytes(), "usr/share/doc/telecast/install.md.gz")
    pack(licences.read_bytes(), "usr/share/doc/telecast/third-party-licenses.gz")
    place(ROOT / "deploy/debian/lintian-overrides", "usr/share/lintian/overrides/telecast")
    # What apt-listchanges shows before an upgrade.
    before = upgrade_notes(release.notes)
    if before:
        pack(debian_entry(release, before).encode(), "usr/share/doc/telecast/NEWS.Debian.gz")
    (PACKAGE / "changelog.Debian").write_text(debian_entry(release, f"* Version {release.number}: see changelog.gz beside this file."))


def place(source, target, mode=0o644):
    target = PACKAGE / target
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(mode)


def pack(content, target):
    target = PACKAGE / target
    target.parent.mkdir(parents=True, exist_ok=True)
    # No name and no time of its own: the same content is the same file.
    target.write_bytes(gzip.compress(content, compresslevel=9, mtime=0))


def upgrade_notes(notes):
    found = re.search(r"^### Before you upgrade\n(.*?)(?=^### |\Z)", notes, re.M | re.S)
    return found[1].strip() if found else ""


def debian_entry(release, text):
    """One entry of a Debian changelog, or of NEWS."""
    maintainer = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["metadata"]["deb"]["maintainer"]
    lines = "\n".join(f"  {line}".rstrip() for line in text.splitlines())
    return f"telecast ({release.debian}) stable; urgency=medium\n\n{lines}\n\n -- {maintainer}  {formatdate(release.time)}\n"


def archive(release, target, program, pages, licences):
    """NAME-TARGET.tar.gz: the same bytes wherever it is made."""
    folder = f"telecast-{release.name}-{target}"
    files = {"telecast": program, "THIRD-PARTY-LICENSES": licences}
    files |= {name: ROOT / name for name in ("README.md", "LICENSE", "CHANGELOG.md")}
    files |= {f"docs/{name}": ROOT / "docs" / name for name in ("install.md", "configuration.md")}
    files |= {f"config/{file.name}": file for file in (ROOT / "config").glob("*.toml")}
    units = ROOT / "deploy/systemd"
    files |= {f"systemd/{file.relative_to(units)}": file for file in units.rglob("*") if file.is_file()}
    files |= {str(file.relative_to(pages)): file for file in pages.rglob("*") if file.is_file()}
    return tar(DIST / f"{folder}.tar.gz", {f"{folder}/{name}": path for name, path in files.items()}, release.time)


def tar(target, files, time):
    with open(target, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, time) as packed, tarfile.open(fileobj=packed, mode="w") as whole:
        for name, path in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = path.stat().st_size, time
            entry.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            with open(path, "rb") as content:
                whole.addfile(entry, content)
    return target


# ── documents ──


def third_party_licences(crates):
    """Notices and licences of the crates that a program contains, which most of these ask for; each text once."""
    found = json.loads(output(["cargo", "metadata", "--format-version", "1", "--locked"]))["packages"]
    names, texts = [], {}
    for package in sorted(found, key=lambda package: (package["name"], package["version"])):
        if (package["name"], package["version"]) not in crates:
            continue
        crate = f"{package['name']} {package['version']}"
        names.append(f"{crate}: {package['license'] or 'see below'}")
        for file in sorted(Path(package["manifest_path"]).parent.iterdir()):
            if file.is_file() and re.match(r"(licen[cs]e|copying|copyright|notice|unlicense)", file.name, re.I):
                texts.setdefault(file.read_text(errors="replace").strip(), []).append(crate)
    parts = [f"{', '.join(dict.fromkeys(of))}:\n\n{text}" for text, of in texts.items()]
    return f"\n\n{'-' * 80}\n\n".join(["This program contains:\n\n" + "\n".join(names), *parts]) + "\n"


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def provenance(release, targets, tools):
    """What was made of what, as an in-toto statement with SLSA's predicate. It is not signed: it says what the build knows, and proves
    nothing by itself. No time of the build is in it, so that it is the same wherever the same commit is built."""
    source = f"git+{release.repository}"
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": file.name, "digest": {"sha256": digest(file)}} for file in artifacts()],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": f"{release.repository}/blob/main/docs/install.md#how-a-release-is-built",
                "externalParameters": {"source": source, "version": release.name, "targets": targets},
                "internalParameters": {"uncommittedChanges": release.dirty},
                "resolvedDependencies": [
                    {"uri": source, "digest": {"gitCommit": release.commit}},
                    {"uri": f"{source}#Cargo.lock", "digest": {"sha256": digest(ROOT / "Cargo.lock")}},
                    *({"name": name, "annotations": {"version": version}} for name, version in tools.items()),
                ],
            },
            "runDetails": {"builder": {"id": f"{release.repository}/blob/{release.commit}/scripts/release.py"}},
        },
    }
    (DIST / f"telecast-{release.name}.provenance.json").write_text(json.dumps(statement, indent=2) + "\n")


def artifacts():
    return sorted(file for file in DIST.iterdir() if file.is_file() and file.name != "SHA256SUMS")


def checksums():
    (DIST / "SHA256SUMS").write_text("".join(f"{digest(file)}  {file.name}\n" for file in artifacts()))
