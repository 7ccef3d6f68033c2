#!/bin/sh
# Puts a Chromium from Debian's archive into .tools/chromium (ignored by git), with the libraries that this machine lacks, unpacked
# and not installed, so that nobody has to be root. Prints the path of the browser.
#
# CHROMIUM=/path/to/chromium uses a browser of your own; one that is installed is used as it is.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
place="$root/.tools/chromium"
launcher="$place/chromium"

give_up() {
    echo "setup-chromium: $1" >&2
    echo "setup-chromium: install Chromium (Debian: apt-get install chromium), or point CHROMIUM at a Chromium or Chrome of your own." >&2
    exit 1
}

works() {
    [ -n "$1" ] && "$1" --version >/dev/null 2>&1
}

if [ -n "${CHROMIUM:-}" ]; then
    works "$CHROMIUM" || give_up "CHROMIUM=$CHROMIUM does not start."
    echo "$CHROMIUM"
    exit 0
fi
for installed in "$(command -v chromium || true)" "$(command -v google-chrome || true)" \
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome" "$launcher"; do
    if works "$installed"; then
        echo "$installed"
        exit 0
    fi
done

mkdir -p "$root/.tools"
# On the same file system as the target, so that the last step is one rename and two runs at once cannot collide.
work=$(mktemp -d "$root/.tools/chromium.XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM
echo "setup-chromium: fetching Chromium and the libraries it needs from Debian (about 120 MB)" >&2
"$root/scripts/debian-packages.sh" "$work/root" chromium || give_up "there is no Chromium here, and none to be had."

# The libraries and the fonts are not where they are looked for, so a launcher says where they are.
cat > "$work/chromium" <<'LAUNCHER'
#!/bin/sh
here=$(cd "$(dirname "$0")" && pwd)/root
for libraries in "$here"/usr/lib/*-linux-gnu*; do
    LD_LIBRARY_PATH="$libraries:$libraries/pulseaudio${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
done
export LD_LIBRARY_PATH
[ -e /etc/fonts/fonts.conf ] || export FONTCONFIG_PATH="$here/etc/fonts"
exec "$here/usr/lib/chromium/chromium" "$@"
LAUNCHER
chmod +x "$work/chromium"
"$work/chromium" --version >&2 || give_up "the Chromium from Debian's archive does not start here."

rm -rf "$place"
# Another run may have been first; what it put there does as well.
mv -T "$work" "$place" 2>/dev/null || [ -x "$launcher" ]
trap - EXIT INT TERM
echo "$launcher"
