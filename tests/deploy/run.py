#!/usr/bin/env python3
"""Runs the tests of operations files, here and in tests/ecosystem: run.py [--long] [NAME…].

Names are as unittest has them (test_compose, test_proxies.Nginx). Without one, all files test_*.py run side by side; with --long those
named long_*.py too, one after the other: what takes minutes, or judges what changes rarely.

SLOW_TESTS=1 waits as long as proxies' usual time-outs; TELECAST=… tests another program than what cargo built last.
"""

import concurrent.futures
import importlib.util
import os
import subprocess
import sys
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDERS = [HERE, HERE.parent / "ecosystem"]
PYTHON = HERE.parents[1] / ".tools/operations/bin/python"
OUTPUT = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}


def main():
    if sys.version_info < (3, 11):
        sys.exit("run: Python 3.11 or newer is needed; this is " + sys.version.split()[0])
    if PYTHON.exists() and Path(sys.prefix) != PYTHON.parents[1]:
        os.execv(PYTHON, [str(PYTHON), *sys.argv])
    if not importlib.util.find_spec("yaml"):
        sys.exit("run: PyYAML is missing: scripts/setup-operations.py fetches it, or says why it cannot")
    sys.path[:0] = map(str, FOLDERS)
    names = [word for word in sys.argv[1:] if word != "--long"]
    if names:
        sys.exit(run(names))
    bad = run_files("test_*.py", at_once=8)
    if "--long" in sys.argv[1:]:
        bad |= run_files("long_*.py", at_once=1)
    sys.exit(bad)


def run_files(pattern, at_once):
    """Each file in a process of its own: most of their time is waiting."""
    files = sorted(file.stem for folder in FOLDERS for file in folder.glob(pattern))
    bad = False
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        for ended in pool.map(lambda file: subprocess.run([sys.executable, __file__, file], **OUTPUT), files):
            print(ended.stdout, flush=True)
            bad |= ended.returncode != 0
    return bad


def run(names):
    result = unittest.TextTestRunner(verbosity=2).run(unittest.TestLoader().loadTestsFromNames(names))
    for test, why in result.skipped:
        print(f"skipped: {test}: {why}")
    bad, ignored = len(result.failures) + len(result.errors), len(result.skipped)
    # As cargo says it, so that one summary can add up both.
    word = "ok" if result.wasSuccessful() else "FAILED"
    print(f"test result: {word}. {result.testsRun - bad - ignored} passed; {bad} failed; {ignored} ignored")
    return not result.wasSuccessful()


if __name__ == "__main__":
    main()
