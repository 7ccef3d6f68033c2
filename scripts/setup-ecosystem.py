#!/usr/bin/env python3
"""Fetches the programs of others that judge what Telecast ships: `make test-ecosystem` runs them.

One function per program, in an exact version, by `fetching`.
"""

from fetching import ROOT, build, build_own, fetch_all

# Asks registries for digests, and is one in tests.
CRANE = ("github.com/google/go-containerregistry", "v0.22.1")


def crane():
    build("crane", f"{CRANE[0]}/cmd/crane", *CRANE)


def scheduler():
    """kube-scheduler, which has no program that answers questions: ours asks its code. Takes minutes once."""
    build_own(ROOT / "tests/ecosystem/scheduler")


STEPS = (crane, scheduler)

if __name__ == "__main__":
    fetch_all(STEPS)
