#!/bin/sh
# Unpacks packages of Debian's archive into a folder, with whatever they need that this machine lacks:
# scripts/debian-packages.sh FOLDER PACKAGE...   (a folder that is there already stays as it is)
#
# It needs no root: nothing is installed, and apt works on lists of its own. Libraries are then not where programs look for them.
set -eu

folder=$1
shift

give_up() {
    echo "debian-packages: $1" >&2
    exit 1
}

[ -d "$folder" ] && exit 0
command -v apt-get >/dev/null 2>&1 && command -v dpkg >/dev/null 2>&1 \
    || give_up "this is no Debian, so its archive does not fit."

mkdir -p "$(dirname "$folder")"
# On the same file system as the folder, so that the last step is one rename and two runs at once cannot collide.
work=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/packages" "$work/root"
# Lists of its own: the machine's are often empty (containers) and writing them needs root. What is installed is still known, so
# only what is missing is fetched.
private="-o Dir::State::lists=$work/lists -o Dir::Cache=$work/cache -o APT::Sandbox::User= -o Debug::NoLocking=1"

# shellcheck disable=SC2086 # options, one word each
apt-get $private -qq update >&2 || give_up "apt-get update failed: is Debian's archive reachable?"
# shellcheck disable=SC2086
plan=$(apt-get $private -qq --simulate --no-install-recommends install "$@") || give_up "Debian's archive has no $* for this machine."
packages=$({ printf '%s\n' "$@" && echo "$plan" | awk '/^Inst / { print $2 }'; } | sort -u)
# shellcheck disable=SC2086
(cd "$work/packages" && apt-get $private -qq download $packages >&2) || give_up "apt-get download failed: is Debian's archive reachable?"
for package in "$work"/packages/*.deb; do
    dpkg -x "$package" "$work/root"
done
# Another run may have been first; what it put there does as well.
mv -T "$work/root" "$folder" 2>/dev/null || [ -d "$folder" ]
