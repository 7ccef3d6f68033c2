#!/bin/sh
# Puts an nginx into .tools/bin for the tests that go through a proxy: this machine's own, or the one of Debian's package with the
# libraries that this machine lacks, unpacked and not installed, so that nobody has to be root. Fast when it is there already.
#
# NGINX=/path/to/nginx uses one of your own.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
bin="$root/.tools/bin"
nginx="$bin/nginx"

# 1.19.5 is the first to take `-e`: an older one insists on a log in /var.
works() {
    [ -n "$1" ] && "$1" -v 2>&1 | grep -Eq 'nginx/(1\.(19\.[5-9]|[2-9][0-9]\.)|[2-9]\.)'
}

give_up() {
    echo "setup-nginx: $1" >&2
    echo "setup-nginx: install nginx 1.20 or newer (Debian, Ubuntu: apt-get install nginx-light; macOS: brew install nginx)," >&2
    echo "setup-nginx: or point NGINX at one of your own." >&2
    exit 1
}

if [ -n "${NGINX:-}" ]; then
    works "$NGINX" || give_up "NGINX=$NGINX is no nginx 1.20 or newer."
    exit 0
fi
if works "$nginx"; then
    exit 0
fi
mkdir -p "$bin"
for installed in "$(command -v nginx || true)" /usr/sbin/nginx /usr/local/sbin/nginx; do
    if works "$installed"; then
        ln -sf "$installed" "$nginx"
        exit 0
    fi
done

# On the same file system as the target, so that the last step is one rename and two runs at once cannot collide.
work=$(mktemp -d "$root/.tools/setup.XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM
echo "setup-nginx: fetching nginx and the libraries it needs from Debian" >&2
"$root/scripts/debian-packages.sh" "$work/root" nginx || give_up "there is no nginx here, and none to be had."
cat > "$work/nginx" <<'LAUNCHER'
#!/bin/sh
# The libraries that came with it are not where they are looked for.
here=$(cd "$(dirname "$0")/../nginx" && pwd)
for libraries in "$here"/lib/*-linux-gnu* "$here"/usr/lib/*-linux-gnu*; do
    [ -d "$libraries" ] && LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
done
[ -n "${LD_LIBRARY_PATH:-}" ] && export LD_LIBRARY_PATH
exec "$here/usr/sbin/nginx" "$@"
LAUNCHER
chmod +x "$work/nginx"
rm -rf "$root/.tools/nginx"
mv "$work/root" "$root/.tools/nginx"
mv -f "$work/nginx" "$nginx"
works "$nginx" || give_up "the fetched nginx does not run here."
echo "setup-nginx: $("$nginx" -v 2>&1) in .tools" >&2
