#!/usr/bin/env python3
"""Builds the image of this commit for amd64 and arm64, with a list of its packages and provenance: `make release-image` calls it.

release-image.py [--image NAME] [--push] [--snapshot]. Without --push it is an OCI archive in dist/. It needs Docker with buildx, and
registries for the base images; what it would run is printed first.
"""

import argparse
import shlex
import shutil
import subprocess

import yaml

from releasing import DIST, ROOT, Release, facts, formatted, give_up

PLATFORMS = "linux/amd64,linux/arm64"


def command(release: Release, image, push):
    """The build: every date is the commit's, so that the same commit and the same base images are the same image."""
    created = formatted(release.time, "%Y-%m-%dT%H:%M:%SZ")
    arguments = {
        "TELECAST_COMMIT": release.short,
        "TELECAST_VERSION": release.name,
        "TELECAST_CREATED": created,
        "SOURCE_DATE_EPOCH": str(release.time),
    }
    output = "type=image,push=true" if push else f"type=oci,dest={DIST}/telecast-{release.name}.oci.tar"
    words = ["docker", "buildx", "build", "--platform", PLATFORMS, "--sbom=true", "--provenance=mode=max"]
    words += ["--tag", f"{image}:{release.name}", "--output", f"{output},rewrite-timestamp=true"]
    # Engines and registries show what the index says, which has no labels.
    for name, value in {"version": release.name, "revision": release.commit, "created": created, "source": release.repository}.items():
        words += ["--annotation", f"index:org.opencontainers.image.{name}={value}"]
    for name, value in arguments.items():
        words += ["--build-arg", f"{name}={value}"]
    return [*words, str(ROOT)]


def unpinned():
    """Base images whose digest is not known: a tag is another image tomorrow."""
    images = yaml.safe_load((ROOT / "deploy/images.yaml").read_text())["images"]
    return [f"{images[name]['repository']}:{images[name]['tag']}" for name in ("rust", "base") if not images[name]["digest"]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default="telecast", help="name with registry, without tag")
    parser.add_argument("--push", action="store_true", help="send it to its registry instead of writing an archive")
    parser.add_argument("--snapshot", action="store_true", help="build a commit that is no release")
    arguments = parser.parse_args()
    release = facts(arguments.snapshot)
    if unpinned() and not arguments.snapshot:
        give_up(
            f"base images without a digest: {', '.join(unpinned())}.\n"
            "release: `scripts/images.py pin` asks their registries and writes it down; commit that. SNAPSHOT=1 builds by tags"
        )
    words = command(release, arguments.image, arguments.push)
    print(shlex.join(words), flush=True)
    if not shutil.which("docker"):
        give_up("docker is missing: this is built with BuildKit (https://docs.docker.com/engine/install); docs/install.md has packages without it")
    DIST.mkdir(exist_ok=True)
    raise SystemExit(subprocess.run(words).returncode)


if __name__ == "__main__":
    main()
