"""Where pods go, as kube-scheduler itself decides it: rendered manifests on many layouts of machines, scaled, rolled and drained."""

import copy
import json
import math
import os
import subprocess
import sys
import unittest
from functools import cache

from support import PATIENCE_SECONDS, ROOT
from test_kubernetes import named, objects, of_kind, pod

sys.path.append(str(ROOT / "scripts"))
from fetching import own

PROGRAM = own(ROOT / "tests/ecosystem/scheduler")

MANIFESTS = {
    "base": ("base", ()),
    "base with KEDA": ("base", ("keda",)),
    "dev": ("overlays/dev", ()),
    "production": ("overlays/production", ()),
}
# NATS servers of production, each on a machine of its own.
SERVERS = 3
# Machines of unlike size: without the large one there is not room for all.
TOO_SMALL = "while large is drained"
UNLIKE = ("small", "unlike", "full", "zones of", "without a zone", "one zone", "taken away")


def play(manifests, layout=""):
    """What happened to these manifests: scheduler/main.go says in which form."""
    assert PROGRAM.exists(), "kube-scheduler's code is not built: scripts/setup-ecosystem.py --long builds it, or says what it lacks for that"
    command = [PROGRAM, "-layout", layout]
    environment = {**os.environ, "GODEBUG": "randautoseed=0"}
    ended = subprocess.run(
        command, input=json.dumps(manifests), env=environment, capture_output=True, text=True, timeout=5 * PATIENCE_SECONDS
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@cache
def cases():
    return play({name: objects(*which) for name, which in MANIFESTS.items()})


def where(case):
    return f"{case['manifests']}, {case['layout']}, {case['scenario']}"


def machines(case):
    """Those with room for a NATS server."""
    return case["machines"] - ("one of them full" in case["layout"])


class Placement(unittest.TestCase):
    def test_nothing_is_held_back_for_the_sake_of_spread(self):
        self.assertGreater(len(cases()), 2000)
        for case in cases():
            for pending in case["pending"]:
                said = f"{where(case)}, {pending['when']}: {pending['workload']}: {pending['message']}"
                self.assertNotIn("PodTopologySpread", pending["plugins"], said)
                if pending["workload"] != "nats" and TOO_SMALL not in pending["when"]:
                    # No machine takes any pod.
                    self.assertLessEqual(set(pending["plugins"]), {"NodeUnschedulable", "TaintToleration"}, said)

    def test_no_roll_out_and_no_drain_waits_where_nats_servers_have_a_machine_to_spare(self):
        for case in cases():
            if machines(case) > SERVERS or (machines(case) > 1 and case["manifests"] != "production"):
                waiting = [each for each in case["waiting"] if "of large waits" not in each]
                self.assertEqual(waiting, [], where(case))

    def test_on_three_machines_each_can_be_drained_in_its_turn(self):
        """A NATS server of production waits for its machine, the other two have the quorum, and the drain ends. Of two drains at once, the
        second ends when the first machine is back."""
        seen = 0
        for case in cases():
            if case["manifests"] == "production" and machines(case) == SERVERS and case["scenario"] in (
                "drain in turn",
                "drain in turn at the most",
                "two drains at once",
            ):
                seen += 1
                self.assertEqual(case["waiting"], [], where(case))
        self.assertGreaterEqual(seen, 10)

    def test_with_fewer_machines_than_servers_only_nats_waits(self):
        for case in cases():
            if case["manifests"] == "production" and 1 < machines(case) < SERVERS:
                for waiting in case["waiting"]:
                    self.assertRegex(waiting, "nats", where(case))
                for pending in case["pending"]:
                    self.assertEqual(pending["workload"], "nats", where(case))
                    self.assertIn("InterPodAffinity", pending["plugins"], where(case))

    def test_machines_that_are_alike_share_evenly(self):
        """Also where machines have no zones, or take no pods: none has more than one above its share, and none has all."""
        for case in cases():
            if any(word in case["layout"] for word in UNLIKE) or case["scenario"] not in ("settle", "grow", "roll", "roll at the most"):
                continue
            for workload, placed in case["placed"].items():
                pods = sum(placed.values())
                said = f"{where(case)}: {workload} on {placed}"
                self.assertLessEqual(max(placed.values()), math.ceil(pods / case["machines"]) + 1, said)
                if pods > 1 and case["machines"] > 1:
                    self.assertGreater(len(placed), 1, said)

    def test_three_zones_all_have_some(self):
        for case in cases():
            if case["layout"].endswith("in three zones") and case["scenario"] == "settle":
                for workload, placed in case["placed"].items():
                    if sum(placed.values()) >= SERVERS:
                        zones = {int(machine.removeprefix("m")) % 3 for machine in placed}
                        self.assertEqual(len(zones), 3, f"{where(case)}: {workload} on {placed}")


class Conditions(unittest.TestCase):
    """What is avoided: the scheduler holds pods back, so that the above is seen to be able to fail."""

    def held_back(self, layout, **changes):
        found = copy.deepcopy(objects("overlays/production"))
        spec = pod(named(found, "Deployment", "edge"))["spec"]
        spec["topologySpreadConstraints"] = [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "edge"}},
                **changes,
            }
        ]
        (scaler,) = [item for item in of_kind(found, "HorizontalPodAutoscaler") if item["metadata"]["name"] == "edge"]
        scaler["spec"]["maxReplicas"] = 10
        seen = play({"production": found}, layout)
        self.assertTrue(seen, f"no layout is called {layout}")
        return {case["scenario"] for case in seen for each in case["pending"] if "PodTopologySpread" in each["plugins"]}

    def test_a_condition_that_counts_tainted_machines_blocks_growth_and_drains(self):
        self.assertLessEqual({"grow", "drain in turn"}, self.held_back("3 and a control plane"))

    def test_one_that_counts_machines_without_room_blocks_growth(self):
        self.assertIn("grow", self.held_back("4, one of them full", nodeTaintsPolicy="Honor"))


if __name__ == "__main__":
    unittest.main()
