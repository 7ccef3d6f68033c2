#!/usr/bin/env python3
"""Runs the tests of operations files: run.py [NAME…], as unittest names them (test_compose, test_proxies.Nginx). All, if none is named."""

import os
import sys
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
PYTHON = HERE.parents[1] / ".tools/python/bin/python"


def main():
    if PYTHON.exists() and Path(sys.prefix) != PYTHON.parents[1]:
        os.execv(PYTHON, [str(PYTHON), *sys.argv])
    try:
        import yaml  # noqa: F401
    except ImportError:
        sys.exit("run: PyYAML is missing: scripts/setup-operations.py fetches it, or says why it cannot")
    sys.path.insert(0, str(HERE))
    names = sys.argv[1:]
    loader = unittest.TestLoader()
    suite = loader.loadTestsFromNames(names) if names else loader.discover(str(HERE), top_level_dir=str(HERE))
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    for test, why in result.skipped:
        print(f"skipped: {test}: {why}")
    bad, ignored = len(result.failures) + len(result.errors), len(result.skipped)
    # As cargo says it, so that one summary can add up both.
    word = "ok" if result.wasSuccessful() else "FAILED"
    print(f"test result: {word}. {result.testsRun - bad - ignored} passed; {bad} failed; {ignored} ignored")
    sys.exit(not result.wasSuccessful())


if __name__ == "__main__":
    main()
