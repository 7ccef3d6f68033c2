"""What linters of manifests share: what they read, and what they may say, each with its reason."""

import re

from test_kubernetes import BASES, everything, rendered


def renderings():
    """Each base by itself, and with all components that go together: its name and the text."""
    for base in BASES:
        for components in [(), *(components for components, _ in everything(base))]:
            yield base, rendered(base, components)


def unexplained(findings, excluded):
    """Findings (check, where, text) that nothing explains, and explanations that nothing needs any more. What is excluded is a check, and a
    pattern of where."""
    used = set()
    left = []
    for check, where, text in findings:
        found = [(known, part) for known, part in excluded if known == check and re.search(part, where)]
        used.update(found)
        if not found:
            left.append(f"{check}: {where}: {text}")
    return sorted(set(left)), sorted(set(excluded) - used)
