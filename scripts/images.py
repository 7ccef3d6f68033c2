#!/usr/bin/env python3
"""Holds every image reference to deploy/images.yaml: images.py check | list | write | pin [--root FOLDER]."""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
REGISTRY_SECONDS_MAX = 60

# What names images: globs, and how a reference is written there. Changelogs tell the past.
YAML_FILES = ("docker-compose*.yml", "k8s/**/*.yaml", "deploy/**/*.y*ml", "deploy/**/*.tpl", "docs/**/*.y*ml")
DOCKERFILES = ("Dockerfile*", "deploy/**/Dockerfile*")
TEXTS = ("README.md", "docs/**/*.md", "deploy/**/*.md", "k8s/**/*.md")

# A registry may have a port.
REPOSITORY = r"(?:[\w.-]+:\d+/)?[\w./-]+"
IN_YAML = re.compile(
    rf"""(?m)^(?!\s*#).*?\bimage:[ ]*["']?(?P<reference>{REPOSITORY}(?::[\w.-]+)?(?:@sha256:\w+)?)["']?(?=[\s,}}#]|$)"""
)
IN_VALUES = re.compile(
    rf"""(?m)^\s*repository:[ ]*["']?(?P<repository>{REPOSITORY})["']?\s*\n\s*tag:[ ]*["']?(?P<tag>[\w.-]*)["']?"""
    r"""(?:\s*\n\s*digest:[ ]*["']?(?P<digest>[\w:]*)["']?)?"""
)
IN_DOCKERFILE = re.compile(
    r"(?m)^(?:#[ ]*syntax=|FROM[ ]+(?:--\S+[ ]+)*|COPY[ ]+--from=)(?P<reference>[\w.-]*[/:][\w./:-]*(?:@sha256:\w+)?)"
)


class Image(NamedTuple):
    repository: str
    tag: str
    digest: str

    def reference(self):
        return f"{self.repository}:{self.tag}" + (f"@{self.digest}" if self.digest else "")


class Found(NamedTuple):
    """What stands somewhere, and what belongs there; None where the image is unknown."""

    file: Path
    start: int
    end: int
    text: str
    wanted: str | None


def images(root):
    """The entries of deploy/images.yaml, read without a YAML library: this also runs where nothing is installed."""
    entry = r"(?m)^  [\w-]+:\n    repository: (\S+)\n    tag: (\S+)\n    digest: (\S+)$"
    return [
        Image(*(word.strip("\"'") for word in words))
        for words in re.findall(entry, (root / "deploy/images.yaml").read_text())
    ]


def is_ours(repository):
    """Built from this repository: its version is that of Cargo.toml, its registry the operator's."""
    return repository.rpartition("/")[2] == "telecast"


def files(root, patterns):
    listed = {file for pattern in patterns for file in root.glob(pattern) if file.is_file()}
    return sorted(listed - {root / "deploy/images.yaml"})


def references(root):
    """Every reference in every file."""
    known = {image.repository: image for image in images(root)}
    for file in files(root, YAML_FILES):
        text = file.read_text()
        yield from whole(file, IN_YAML.finditer(text), known)
        yield from parts(file, IN_VALUES.finditer(text), known)
    for file in files(root, DOCKERFILES):
        yield from whole(file, IN_DOCKERFILE.finditer(file.read_text()), known)
    # Prose may also name a host and its port; a version has a dot.
    words = "|".join(map(re.escape, known))
    in_prose = re.compile(rf"(?<![\w./-])(?P<reference>(?:{words}):(?:[\w-]*\.[\w.-]*\w|latest)(?:@sha256:\w+)?)")
    for file in files(root, TEXTS):
        yield from whole(file, in_prose.finditer(file.read_text()), known)


def whole(file, matches, known):
    for match in matches:
        text = match["reference"]
        repository = re.match(REPOSITORY, text)[0]
        if not is_ours(repository):
            image = known.get(repository)
            yield Found(file, *match.span("reference"), text, image and image.reference())


def parts(file, matches, known):
    for match in matches:
        if is_ours(match["repository"]):
            continue
        image = known.get(match["repository"])
        yield Found(file, *match.span("tag"), match["tag"], image and image.tag)
        if match["digest"] is not None:
            yield Found(file, *match.span("digest"), match["digest"], image and image.digest)
        elif image and image.digest:
            print(f"{file}: {image.repository} has no key `digest` below its tag to put its digest in", file=sys.stderr)


def check(root):
    wrong = [found for found in references(root) if found.text != found.wanted]
    for found in wrong:
        line = found.file.read_text().count("\n", 0, found.start) + 1
        reason = f"should be {found.wanted}: scripts/images.py write" if found.wanted else "is not in deploy/images.yaml: add it"
        print(f"{found.file.relative_to(root)}:{line}: {found.text or '(nothing)'} {reason}")
    return bool(wrong)


def show(root):
    for found in references(root):
        print(f"{found.file.relative_to(root)}\t{found.text}")


def write(root):
    wrong = [found for found in references(root) if found.wanted not in (None, found.text)]
    # From the end of each file, so that places before it stay.
    for found in sorted(wrong, key=lambda found: -found.start):
        text = found.file.read_text()
        found.file.write_text(text[: found.start] + found.wanted + text[found.end :])
    return check(root)


def pin(root):
    registry = root / "deploy/images.yaml"
    ask = asker()
    for image in images(root):
        digest = ask(f"{image.repository}:{image.tag}")
        below = rf"(repository: {re.escape(image.repository)}\n    tag: .*\n    digest: )\S+"
        registry.write_text(re.sub(below, rf'\g<1>"{digest}"', registry.read_text()))
    return write(root)


def asker():
    """Asks a registry for the digest of a tag's index, by whichever program for that is there."""
    for program, command in {
        "crane": ["crane", "digest"],
        "skopeo": ["skopeo", "inspect", "--format", "{{.Digest}}"],
        "docker": ["docker", "buildx", "imagetools", "inspect", "--format", "{{.Manifest.Digest}}"],
    }.items():
        if shutil.which(program):
            break
    else:
        sys.exit("images: no crane, skopeo or docker: go install github.com/google/go-containerregistry/cmd/crane@v0.22.1")

    def ask(reference):
        asked = f"docker://{reference}" if program == "skopeo" else reference
        ended = subprocess.run([*command, asked], capture_output=True, text=True, timeout=REGISTRY_SECONDS_MAX)
        if ended.returncode or not re.fullmatch(r"sha256:[0-9a-f]{64}", ended.stdout.strip()):
            sys.exit(f"images: {program} got no digest of {reference}: is its registry reachable, and the tag right?\n{ended.stderr}")
        return ended.stdout.strip()

    return ask


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("what", choices=("check", "list", "write", "pin"))
    arguments.add_argument("--root", type=Path, default=ROOT)
    given = arguments.parse_args()
    sys.exit({"check": check, "list": show, "write": write, "pin": pin}[given.what](given.root.resolve()))


if __name__ == "__main__":
    main()
