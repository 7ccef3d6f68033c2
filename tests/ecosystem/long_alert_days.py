"""The rules over whole days: quiet ones, with deployments, with a crowd that comes and goes, and with incidents. Who is called, and when."""

import math
import subprocess
import tempfile
import unittest
from pathlib import Path

import yaml

from days import MINUTES, ROOM, Day, Event
from support import ROOT, tool

PROMTOOL_SECONDS = 300


def office(most, least):
    """Clients over a day: from eight they come, until six they stay, by ten they have left."""

    def demand(minute):
        hour = minute / 60
        rise = 1 / (1 + math.exp(-(hour - 8.5) * 3))
        fall = 1 / (1 + math.exp((hour - 19) * 1.5))
        return least + (most - least) * rise * fall

    return demand


def clock(minute):
    return f"{minute // 60}h{minute % 60}m"


def expected(names):
    return [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(names)]


def asked(severity, start, end, names):
    """Which alerts of a severity have been firing at some time between two minutes."""
    firing = f'max_over_time(ALERTS{{alertstate="firing",severity="{severity}"}}[{end - start}m])'
    return {"expr": f"count by (alertname) ({firing}) > bool 0", "eval_time": clock(end), "exp_samples": expected(names)}


class Days(unittest.TestCase):
    maxDiff = None

    def replay(self, day, questions):
        """Asks the newest promtool what fired."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "day.yml"
            test = {"interval": "1m", "input_series": list(day.series()), "promql_expr_test": questions}
            rules = [str(path) for path in sorted((ROOT / "prometheus/rules").glob("*.yml"))]
            text = {"rule_files": rules, "evaluation_interval": "1m", "tests": [test]}
            file.write_text(yaml.dump(text, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), width=1_000_000))
            command = [tool("promtool-3"), "test", "rules", str(file)]
            ended = subprocess.run(command, capture_output=True, text=True, timeout=PROMTOOL_SECONDS)
            self.assertEqual(ended.returncode, 0, ended.stdout + ended.stderr)

    def test_a_quiet_day_calls_nobody(self):
        day = Day(demand=office(2600, 300))
        self.replay(day, [asked("critical", 0, MINUTES - 1, ()), asked("warning", 0, MINUTES - 1, ())])

    def test_deployments_call_nobody(self):
        rolls = [Event("a release", hour * 60, hour * 60 + 40, {"roll": True}) for hour in (10, 15)]
        day = Day(demand=office(2600, 300), events=rolls)
        self.replay(day, [asked("critical", 0, MINUTES - 1, ())])

    def test_a_crowd_that_an_autoscaler_takes_in_calls_nobody(self):
        # From what two edges hold to more than four do, within twenty minutes, and back.
        def demand(minute):
            return 900 + 2700 * max(0.0, min(1.0, (minute - 600) / 20, (900 - minute) / 60))

        day = Day(edges=2, demand=demand)
        serving = [sum(edge.exists(minute) for edge in day.nodes if edge.role == "edge") for minute in (599, 700, 1200)]
        self.assertEqual((serving[0], serving[1] >= 5, serving[2]), (2, True, 2))
        fullest = max(
            sum(node.samples["ws_connections_active", ""].get(minute, 0) for node in day.nodes if node.role == "edge")
            / sum(node.samples["ws_connections_max", ""].get(minute, 0) for node in day.nodes if node.role == "edge")
            for minute in range(600, 640)
        )
        self.assertGreater(fullest, 0.9, "the crowd fills what there is, before more is there")
        self.replay(day, [asked("critical", 0, MINUTES - 1, ())])

    def test_every_incident_calls_somebody_and_nothing_else_does(self):
        def demand(minute):
            return 2000 if not 1200 <= minute < 1230 else ROOM * 4 * 1.2

        # What happens, when, which alerts have to call, which warn.
        incidents = [
            (Event("an edge is down", 60, 75, {"edges": 1}), ["TelecastNodeDown"]),
            (Event("a NATS server is lost", 150, 170, {"nats": 1}), ["NatsReplicaLost"]),
            (Event("a collector sends nonsense", 240, 300, {"bad_lines": 0.3}), []),
            (
                Event("the disk of the log is full", 360, 380, {"log": "stalled"}),
                ["TelecastDataStale", "TelecastPublishStalled", "WebSocketErrorsCritical"],
            ),
            (Event("all edges are gone", 480, 495, {"edges": "gone"}), ["TelecastEdgesAbsent"]),
            (Event("all ingests are gone", 570, 585, {"ingests": "gone"}), ["TelecastIngestsAbsent"]),
            (Event("the proxy is gone", 660, 675, {"proxy": "gone"}), ["WebSocketConnectionsLost"]),
            (Event("a leak fills the memory", 780, 790, {"memory": 0.93}), ["WebSocketMemoryCritical"]),
            (
                Event("NATS is gone", 900, 915, {"nats": "gone"}),
                ["NatsAbsent", "TelecastDataStale", "TelecastPublishStalled", "WebSocketErrorsCritical", "WebSocketNatsDisconnected"],
            ),
            (Event("its exporters are gone", 1000, 1030, {"exporters": False}), []),
            (Event("no CPU is left", 1090, 1120, {"cpu": 2.0}), ["WebSocketCpuCritical"]),
            (Event("more clients than room", 1200, 1230, {}), ["WebSocketConnectionFailuresCritical", "WebSocketConnectionsCritical"]),
        ]
        day = Day(scales=False, demand=demand, events=[event for event, _ in incidents])
        questions, quiet = [], 0
        for event, pages in incidents:
            questions.append(asked("critical", quiet, event.start, ()))
            # Some alerts go on firing for a while after their cause.
            quiet = event.end + 45
            questions.append(asked("critical", event.start, quiet, pages))
        questions.append(asked("critical", quiet, MINUTES - 1, ()))
        questions.append(asked("warning", 240, 300, ("WebSocketErrorsHigh",)))
        questions.append(asked("warning", 1000, 1030, ("NatsExporterDown",)))
        self.replay(day, questions)


if __name__ == "__main__":
    unittest.main()
