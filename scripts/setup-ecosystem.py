#!/usr/bin/env python3
"""Fetches the programs of others that judge what Telecast ships: `make test-ecosystem` runs them.

One function per program, in an exact version, by `fetching`.
"""

from fetching import fetch_all

STEPS = ()

if __name__ == "__main__":
    fetch_all(STEPS)
