"""Starting servers where they belong, and ending them whatever happens."""

import ctypes
import os
import resource
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

PR_SET_PDEATHSIG = 1
START_SECONDS_MAX = 20
END_SECONDS_MAX = 5
# 20,000 connections, and what a process has open anyway.
DESCRIPTORS_WANTED = 65_536

_libc = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
    """A measurement could not be made; the text says why, for the report."""


def raise_descriptor_limit():
    """Raises this process's limit, which children inherit. Returns what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(DESCRIPTORS_WANTED, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    except (ValueError, OSError):
        # Only root may go above the hard limit.
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def free_port():
    """A port that nobody uses now, below those that connections take for themselves."""
    for port in range(20_000 + os.getpid() % 5_000, 32_000):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            return port
        continue
    _given.clear()
    raise Failed("no free port between 20,000 and 32,000")


_given = set()


class Stage:
    """The processes of one measurement and their folder. Leaving it ends them all, by their ids."""

    def __init__(self, folder: Path, server_cores, other_cores):
        self.folder = folder
        self.server_cores = server_cores
        self.other_cores = other_cores
        self.processes = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # Workers of a server that forks, first: nobody may know them once their parent is gone.
        workers = [pid for process in self.processes for pid in children(process.pid)]
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
        for process in reversed(self.processes):
            try:
                process.wait(END_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pid in workers:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def server(self, command, **options):
        """Starts what is measured."""
        return self._start(command, self.server_cores, **options)

    def helper(self, command, **options):
        """Starts what feeds it."""
        return self._start(command, self.other_cores, **options)

    def client(self, command, seconds_max, when_connected):
        """Runs the client to its end. Returns its line of JSON."""
        process = self._start(command, self.other_cores, stdout=subprocess.PIPE)
        # It gives up by itself after a minute.
        if process.stdout.readline().strip() == b"connected":
            when_connected()
        try:
            line, _ = process.communicate(timeout=seconds_max)
        except subprocess.TimeoutExpired:
            raise Failed(f"the client did not end within {seconds_max:.0f} s") from None
        if process.returncode and not line:
            raise Failed(f"the client failed: {self.last_words(process)}")
        return line

    def _start(self, command, cores, stdout=None, environment=None, pass_fds=()):
        log = self.folder / f"{len(self.processes)}-{Path(command[0]).name}.log"

        def prepare():
            os.sched_setaffinity(0, cores)
            # However this program ends, its children do not outlive it; nor do theirs, as they are asked to end and not killed.
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

        with log.open("wb") as output:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=stdout or output,
                stderr=output,
                env={**os.environ, "RUST_BACKTRACE": "0", **(environment or {})},
                preexec_fn=prepare,
                pass_fds=pass_fds,
                cwd=self.folder,
            )
        process.log = log
        self.processes.append(process)
        return process

    def await_port(self, process, port):
        """Waits until a server listens."""

        def listens():
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        self._await(process, listens)

    def await_answer(self, process, url):
        """Waits until a server answers 200."""

        def answers():
            try:
                with urllib.request.urlopen(url, timeout=1) as answer:
                    return answer.status == 200
            except (urllib.error.URLError, OSError):
                return False

        self._await(process, answers)

    def _await(self, process, condition):
        end = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < end:
            if process.poll() is not None:
                raise Failed(f"it ended at its start: {self.last_words(process)}")
            if condition():
                return
            time.sleep(0.05)
        raise Failed(f"it was not ready after {START_SECONDS_MAX} s: {self.last_words(process)}")

    def await_file(self, process, path):
        """Waits until a server has written a file."""
        self._await(process, path.exists)

    def await_children(self, process, count):
        """Waits until a server that forks has its workers."""
        self._await(process, lambda: len(children(process.pid)) >= count)

    def check(self):
        """Says so if a process ended that should still run."""
        for process in self.processes:
            if process.poll() is not None and process.stdout is None:
                raise Failed(f"{Path(process.args[0]).name} ended: {self.last_words(process)}")

    @staticmethod
    def last_words(process):
        lines = process.log.read_text(errors="replace").strip().splitlines()
        return " / ".join(lines[-3:]) or f"exit code {process.returncode}"


def children(pid):
    """Processes that a process started."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []


def family(process):
    """A server's process and those it started: what is to be measured."""
    return [process.pid, *children(process.pid)]
