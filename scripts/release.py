#!/usr/bin/env python3
"""Builds a release into dist/: release.py [--snapshot] [--target TRIPLE]… (`make release` calls it).

For each target a binary without debug information, the debug information beside it, an archive, the list of what is in it
(CycloneDX) and, where the C library is GNU's, a .deb; for all of them provenance and checksums. No path and no time of the machine gets into them. docs/install.md says
what each file is for.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path

from releasing import (
    COMPLETIONS,
    DIST,
    PACKAGE,
    ROOT,
    archive,
    checksums,
    facts,
    give_up,
    lay_out,
    objcopy,
    output,
    provenance,
    tar,
    third_party_licences,
)

TOOLS = ROOT / ".tools"
ZIG, CARGO = TOOLS / "zig/bin", TOOLS / "cargo/bin"
# Of Debian 10 and RHEL 8: newer systems have what it has. Cargo.toml's dependency of the .deb is the same.
GLIBC = "2.28"
DEBIAN_ARCHITECTURES = {"x86_64-unknown-linux-gnu": "amd64", "aarch64-unknown-linux-gnu": "arm64"}
TARGETS = [*DEBIAN_ARCHITECTURES, "x86_64-unknown-linux-musl", "aarch64-unknown-linux-musl"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--snapshot", action="store_true", help="build a commit that is no release, under a name that says so")
    parser.add_argument("--target", action="append", choices=TARGETS, help="only this one; may be repeated")
    arguments = parser.parse_args()
    targets = arguments.target or TARGETS
    release = facts(arguments.snapshot)
    for target in targets:
        need_target(target)
    tools = need_tools()
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    programs = {target: build(release, target) for target in targets}
    pages = reference(release, programs)
    for target, program in programs.items():
        pack(release, target, program, pages)
    shutil.rmtree(PACKAGE, ignore_errors=True)
    shutil.rmtree(DIST / ".work")
    provenance(release, targets, tools)
    checksums()
    print((DIST / "SHA256SUMS").read_text(), end="")


def need_target(target):
    """Rust's standard library for this target: here, or fetched by rustup."""
    installed = Path(output(["rustc", "--print", "target-libdir", "--target", target]).strip())
    if any(installed.glob("libstd-*")):
        return
    if shutil.which("rustup"):
        ended = subprocess.run(["rustup", "target", "add", target], cwd=ROOT, capture_output=True, text=True)
        if ended.returncode == 0:
            return
        why = ended.stderr.strip().splitlines()[-1]
    else:
        why = "there is no rustup"
    give_up(
        f"Rust's standard library for {target} is not installed, and cannot be fetched ({why}).\n"
        f"release: where rustup reaches static.rust-lang.org: rustup target add {target}\n"
        "release: without it, build what can be built here: make release TARGETS=x86_64-unknown-linux-gnu"
    )


def need_tools():
    """Versions of what makes a release; they are part of its provenance."""
    for program in (CARGO / "cargo-deb", CARGO / "cargo-cyclonedx", CARGO / "cargo-auditable", ZIG / "cargo-zigbuild"):
        if not program.exists():
            give_up(f"{program.relative_to(ROOT)} is missing: scripts/setup-release.py fetches it, or says why it cannot")
    return {
        "rustc": output(["rustc", "--version"]).strip(),
        "cargo": output(["cargo", "--version"]).strip(),
        "zig": output([ZIG / "python", "-m", "ziglang", "version"]).strip(),
        "cargo-zigbuild": output([ZIG / "cargo-zigbuild", "--version"]).split()[-1],
        "cargo-auditable": version_of("cargo-auditable"),
        "cargo-cyclonedx": version_of("cargo-cyclonedx"),
        "cargo-deb": version_of("cargo-deb"),
    }


def version_of(name):
    """As scripts/setup-release.py marks what it has installed."""
    (stamp,) = (TOOLS / "cargo").glob(f".{name}-[0-9]*")
    return stamp.name.removeprefix(f".{name}-")


def environment(release):
    """What makes builds of one commit equal: no path and no time of this machine gets into them."""
    home = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
    flags = [f"--remap-path-prefix={home}=/cargo", f"--remap-path-prefix={ROOT}=/telecast", "-Clink-arg=-Wl,--build-id=sha1"]
    foreign = {"RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS", "CARGO_TARGET_DIR"}
    return {
        **{name: value for name, value in os.environ.items() if name not in foreign},
        "PATH": f"{ZIG}:{CARGO}:{os.environ['PATH']}",
        "CARGO_ENCODED_RUSTFLAGS": "\x1f".join(flags),
        "CARGO_INCREMENTAL": "0",
        "SOURCE_DATE_EPOCH": str(release.time),
        "TELECAST_COMMIT": release.short,
        # Paths in what C compilers say.
        "CFLAGS": f"-ffile-prefix-map={home}=/cargo -ffile-prefix-map={ROOT}=/telecast",
    }


def build(release, target):
    """The program of one target, with its debug information still in it."""
    versioned = f"{target}.{GLIBC}" if target in DEBIAN_ARCHITECTURES else target
    command = ["cargo", "auditable", "zigbuild", "--release", "--locked", "--bin", "telecast", "--target", versioned]
    print(f"release: {' '.join(command)}", flush=True)
    if subprocess.run(command, cwd=ROOT, env=environment(release)).returncode:
        give_up(f"{target} cannot be built: the compiler says why above")
    built = DIST / ".work" / target / "telecast"
    built.parent.mkdir(parents=True)
    shutil.copyfile(ROOT / "target" / target / "release/telecast", built)
    built.chmod(0o755)
    return built


def reference(release, programs):
    """Completions and manual pages, which are the same for all targets, made by a program that runs here."""
    native = [program for target, program in programs.items() if target.startswith(platform.machine() + "-")]
    if not native:
        own = next(target for target in DEBIAN_ARCHITECTURES if target.startswith(platform.machine() + "-"))
        native = [build(release, own)]
    pages = DIST / ".work/pages"
    (pages / "completions").mkdir(parents=True)
    for shell, name in COMPLETIONS.items():
        (pages / "completions" / name).write_text(output([native[0], "completions", shell]))
    output([native[0], "man", pages / "man", "--made", release.time])
    return pages


def pack(release, target, program, pages):
    """Everything that is made of one program."""
    name = f"telecast-{release.name}-{target}"
    stripped = split(program)
    identity = build_identity(program)
    debug = {f"usr/lib/debug/.build-id/{identity[:2]}/{identity[2:]}.debug": program.with_name("debug")}
    tar(DIST / f"{name}.debug.tar.gz", debug, release.time)
    crates = bill_of_materials(release, target, name)
    licences = pages.with_name(f"{target}.licences")
    licences.write_text(third_party_licences(crates))
    archive(release, target, stripped, pages, licences)
    if target in DEBIAN_ARCHITECTURES:
        lay_out(release, stripped, pages, licences)
        file = DIST / f"telecast_{release.debian}_{DEBIAN_ARCHITECTURES[target]}.deb"
        command = [CARGO / "cargo-deb", "deb", "--no-build", "--no-strip", "--locked", "--target", target]
        output([*command, "--deb-version", release.debian, "--output", file], env=environment(release))


def split(program):
    """The program without symbols, and these in a file that debuggers find by the program's build id. The list of crates stays in it."""
    stripped = program.with_name("stripped")
    objcopy("--only-keep-debug", program, program.with_name("debug"))
    objcopy("--strip-all", "--keep-section=.dep-v0", program, stripped)
    stripped.chmod(0o755)
    return stripped


def build_identity(program):
    """The build id: the content of a note after its header of 16 bytes."""
    note = program.with_name("note")
    objcopy(f"--dump-section=.note.gnu.build-id={note}", program, os.devnull)
    return note.read_bytes()[16:].hex()


def bill_of_materials(release, target, name):
    """Writes it, and returns the crates that are in the program."""
    command = [CARGO / "cargo-cyclonedx", "cyclonedx", "--format", "json", "--spec-version", "1.5", "--target", target]
    made = ROOT / "telecast-sbom.json"
    output([*command, "--override-filename", made.stem], env=environment(release))
    made = made.rename(DIST / f"{name}.cdx.json")
    return {(each["name"], each["version"]) for each in json.loads(made.read_text())["components"]}


if __name__ == "__main__":
    main()
