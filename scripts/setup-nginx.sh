#!/bin/sh
# Puts an nginx into .tools/bin for the tests that go through a proxy: this machine's own, or the one of Debian's package, unpacked
# and not installed, so that nobody has to be root. Fast when it is there already.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
bin="$root/.tools/bin"
nginx="$bin/nginx"

# The first to take `-e`: an older one insists on a log in /var.
works() {
    "$1" -v 2>&1 | grep -Eq 'nginx/(1\.(19\.[5-9]|[2-9][0-9]\.)|[2-9]\.)'
}

if [ -x "$nginx" ] && works "$nginx"; then
    exit 0
fi
mkdir -p "$bin"

for installed in "$(command -v nginx || true)" /usr/sbin/nginx /usr/local/sbin/nginx; do
    if [ -n "$installed" ] && [ -x "$installed" ] && works "$installed"; then
        ln -sf "$installed" "$nginx"
        exit 0
    fi
done

give_up() {
    echo "setup-nginx: $1" >&2
    echo "setup-nginx: install nginx 1.20 or newer (Debian, Ubuntu: apt-get install nginx-light; macOS: brew install nginx)," >&2
    echo "setup-nginx: or point NGINX at one when you run the tests." >&2
    exit 1
}

for program in apt-get dpkg-deb; do
    command -v "$program" >/dev/null 2>&1 || give_up "there is no nginx here, and no $program to fetch Debian's"
done

# On the same file system as the target, so that the last step is one rename and two runs at once cannot collide.
work=$(mktemp -d "$root/.tools/setup.XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM
# apt drops its rights to fetch if it has any, and then has to be able to write here.
chmod 755 "$work"

echo "setup-nginx: fetching nginx from the Debian archive" >&2
(cd "$work" && apt-get download -qq -o APT::Sandbox::User=root nginx >&2) \
    || give_up "apt-get could not fetch nginx: has \"apt-get update\" been run, and is the archive reachable?"
dpkg-deb -x "$work"/nginx_*.deb "$work/unpacked" || give_up "the package cannot be unpacked"
works "$work/unpacked/usr/sbin/nginx" || give_up "the fetched nginx does not run here: is a library of it missing?"
mv -f "$work/unpacked/usr/sbin/nginx" "$nginx"
echo "setup-nginx: $("$nginx" -v 2>&1) in .tools/bin" >&2
