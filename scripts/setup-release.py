#!/usr/bin/env python3
"""Fetches what `make release` and its check are made with, into .tools: packagers, compilers of other targets, linters of packages.

One function per program, in an exact version, by `fetching`. They are apart from other tools because they take minutes to build.
"""

import os
import shutil

from fetching import BIN, TOOLS, Missing, fetch_all, need, python_packages, run, unpack

CARGO = TOOLS / "cargo"
# Programs of crates.io, built from source: version, and the profile. Only the one that compresses gains from an optimised build.
CRATES = {
    # The list of dependencies inside the binary, where scanners of images and hosts look for it.
    "cargo-auditable": ("0.7.7", "dev"),
    # The same list as a document of CycloneDX.
    "cargo-cyclonedx": ("0.5.9", "dev"),
    # Debian packages, by [package.metadata.deb] of Cargo.toml.
    "cargo-deb": ("3.8.0", "release"),
}
# The C compiler and linker of every target and every glibc, in one wheel; and what gives it to cargo. The library of CycloneDX reads
# its documents strictly.
PYTHON_PACKAGES = ["ziglang==0.17.1", "cargo-zigbuild==0.24.1"]
SUITE, MIRROR = "trixie", "http://deb.debian.org/debian"
JUDGES = ["cyclonedx-python-lib[json-validation]==11.12.0"]


def crates():
    cargo = need("cargo", "install Rust from https://rustup.rs")
    for name, (version, profile) in CRATES.items():
        stamp = CARGO / f".{name}-{version}"
        if not stamp.exists():
            # A folder that stays until the end: a run that was too slow goes on where the one before ended.
            command = [cargo, "install", "--quiet", "--locked", "--root", CARGO, "--target-dir", CARGO / "target", "--profile", profile]
            run([*command, "--force", f"{name}@{version}"])
            stamp.touch()
    shutil.rmtree(CARGO / "target", ignore_errors=True)


def compiler():
    python_packages(TOOLS / "zig", PYTHON_PACKAGES)


def judges():
    python_packages(TOOLS / "cyclonedx", JUDGES)


def lintian():
    """Debian's reader of packages: a program of Perl with many modules, none of them installed."""
    root = unpack("lintian")
    modules = [root / "usr/share/perl5", *root.glob("usr/lib/*-linux-*/perl5/*")]
    target = BIN / "lintian"
    target.write_text(
        f'#!/bin/sh\nPERL5LIB="{":".join(map(str, modules))}" LINTIAN_BASE="{root}/usr/share/lintian" exec perl "{root}/usr/bin/lintian" "$@"\n'
    )
    target.chmod(0o755)


def emulator():
    """Runs programs of arm64. The package has one for every processor; the others would take a third of a gigabyte."""
    target = TOOLS / "bin/qemu-aarch64-static"
    if not target.exists():
        programs = unpack("qemu-user-static") / "usr/bin"
        shutil.copyfile(programs / target.name, target)
        target.chmod(0o755)
        shutil.rmtree(TOOLS / "qemu-user-static")


def buildah():
    """Builds images without an engine."""
    root = unpack("buildah")
    target = BIN / "buildah"
    libraries = ":".join(map(str, root.glob("usr/lib/*-linux-*")))
    target.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH="{libraries}" exec "{root}/usr/bin/buildah" "$@"\n')
    target.chmod(0o755)


def clean_root():
    """A small Debian with systemd, in which packages are installed and services started."""
    target = TOOLS / f"roots/{SUITE}"
    if (target / "installed").exists():
        return
    if os.geteuid():
        raise Missing("only root can make a root of Debian: run it as root, or in `unshare --map-auto --map-root-user`")
    folder = unpack("debootstrap")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    command = [folder / "usr/sbin/debootstrap", "--variant=minbase", "--include=systemd-sysv,dbus,ca-certificates", SUITE, target, MIRROR]
    run(command, DEBOOTSTRAP_DIR=str(folder / "usr/share/debootstrap"))
    (target / "installed").touch()


STEPS = (compiler, crates, judges, lintian, emulator, buildah, clean_root)

if __name__ == "__main__":
    fetch_all(STEPS)
