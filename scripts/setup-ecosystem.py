#!/usr/bin/env python3
"""Fetches the programs of others that judge what Telecast ships: `make test-ecosystem` runs them.

One function per program, in an exact version, by `fetching`.
"""

from fetching import build, fetch_all

# Asks registries for digests, and is one in tests.
CRANE = ("github.com/google/go-containerregistry", "v0.22.1")


def crane():
    build("crane", f"{CRANE[0]}/cmd/crane", *CRANE)


STEPS = (crane,)

if __name__ == "__main__":
    fetch_all(STEPS)
