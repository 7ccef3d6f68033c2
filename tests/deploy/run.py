#!/usr/bin/env python3
"""Runs the tests of operations files: run.py [NAME…], as unittest names them (test_compose, test_proxies.Nginx). All, if none is named.

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
PYTHON = HERE.parents[1] / ".tools/operations/bin/python"
OUTPUT = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}


def main():
    if sys.version_info < (3, 11):
        sys.exit("run: Python 3.11 or newer is needed; this is " + sys.version.split()[0])
    if PYTHON.exists() and Path(sys.prefix) != PYTHON.parents[1]:
        os.execv(PYTHON, [str(PYTHON), *sys.argv])
    if not importlib.util.find_spec("yaml"):
        sys.exit("run: PyYAML is missing: scripts/setup-operations.py fetches it, or says why it cannot")
    sys.path.insert(0, str(HERE))
    names = sys.argv[1:]
    sys.exit(run(names) if names else run_all())


def run_all():
    """Each file in a process of its own: most of their time is waiting."""
    files = sorted(file.stem for file in HERE.glob("test_*.py"))
    with concurrent.futures.ThreadPoolExecutor(len(files)) as pool:
        ended = list(pool.map(lambda file: subprocess.run([sys.executable, __file__, file], **OUTPUT), files))
    for each in ended:
        print(each.stdout, flush=True)
    return any(each.returncode for each in ended)


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
