"""A clean Debian with systemd as its first process, in namespaces of its own: what is installed and started there ends with it.

It needs root. Nothing of this machine is touched: changes go to a folder of the test, and its network is a loopback of its own.
"""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

from support import TOOLS, eventually

SUITE = "trixie"
COMMAND_SECONDS_MAX = 120
# Mounts what systemd expects of its surroundings, as containers' engines do, and becomes it.
BOOT = """
set -e
mount --make-rprivate /
mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" overlay "$2/root"
cd "$2/root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for name in null zero full random urandom tty; do touch "dev/$name"; mount --bind "/dev/$name" "dev/$name"; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mkdir -p .old
pivot_root . .old
umount -l .old
hostname clean
echo "127.0.0.1 localhost clean" > etc/hosts
ip link set lo up 2>/dev/null || true
exec env -i container=other PATH=/usr/sbin:/usr/bin /usr/lib/systemd/systemd
"""


class CleanMachine:
    def __init__(self, folder):
        assert os.geteuid() == 0, "only root can start a system of its own: run this as root (sudo -E make check-release)"
        lower = TOOLS / f"roots/{SUITE}"
        assert (lower / "installed").exists(), f"{lower} is missing: scripts/setup-release.py makes it, or says why it cannot"
        for name in ("upper", "work", "root"):
            (folder / name).mkdir(parents=True)
        namespaces = ["--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--fork", "--kill-child"]
        self.output = open(folder / "boot.log", "w+")
        self.parent = subprocess.Popen(
            ["unshare", *namespaces, "sh", "-c", BOOT, "boot", lower, folder],
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=subprocess.STDOUT,
        )
        self.init = eventually("a first process", self.first_process)
        self.root = Path(f"/proc/{self.init}/root")
        try:
            eventually("the end of the start", self.started, 180)
        except AssertionError:
            self.stop()
            raise

    def first_process(self):
        self.output.seek(0)
        assert self.parent.poll() is None, self.output.read()
        children = Path(f"/proc/{self.parent.pid}/task/{self.parent.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def started(self):
        # Degraded: some units of a real machine have nothing to do here.
        return self.run("systemctl", "is-system-running", fine=None).stdout.strip() in ("running", "degraded")

    def run(self, *command, fine=0):
        """A command in there; an exit code that is not `fine` is an error, unless that is None."""
        enter = ["nsenter", f"--target={self.init}", "--mount", "--pid", "--uts", "--ipc", "--net", "env", "DEBIAN_FRONTEND=noninteractive"]
        ended = subprocess.run(
            [*enter, *map(str, command)], capture_output=True, text=True, errors="replace", timeout=COMMAND_SECONDS_MAX, cwd="/"
        )
        assert fine is None or ended.returncode == fine, f"{command}: {ended.returncode}\n{ended.stdout}{ended.stderr}"
        return ended

    def show(self, unit, name):
        return self.run("systemctl", "show", "--property", name, "--value", unit).stdout.strip()

    def stop(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.init, signal.SIGKILL)
        self.parent.wait(60)
        self.output.close()
        # The mounts end with the last process that sees them.
        time.sleep(0.1)
