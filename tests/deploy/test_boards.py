"""Grafana's boards: held to the types of its model, and to what a reader expects of them. `test_monitoring_running` asks their queries."""

import json
import re
import unittest

import yaml

from monitoring import BOARDS, VARIABLES, WATCHDOG, alerts, all_panels, annotations, check, panels
from support import TOOLS, read


class Boards(unittest.TestCase):
    def test_boards_are_as_grafana_knows_them(self):
        folder = TOOLS / "grafana"
        # Enumerations as the text they are in JSON; `as const` keeps text from becoming any text.
        (folder / "model.ts").write_text(
            "import type { Dashboard } from '@grafana/schema';\n"
            "type Written<T> = T extends string ? (string extends T ? T : `${T}`)\n"
            "  : T extends readonly (infer U)[] ? readonly Written<U>[]\n"
            "  : T extends object ? { readonly [K in keyof T]: Written<T[K]> } : T;\n"
            "export type Board = Written<Dashboard>;\n"
        )
        files = ["model.ts"]
        for file in BOARDS:
            text = f"import type {{ Board }} from './model';\nconst json = {file.read_text().strip()} as const;\nexport const board: Board = json;\n"
            files.append(f"{file.stem}.ts")
            (folder / files[-1]).write_text(text)
        options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "esnext", "--moduleResolution", "bundler", "--target", "es2022"]
        check(folder / "node_modules/.bin/tsc", *options, *files, cwd=folder)

    def test_boards_can_be_provisioned_and_say_what_they_show(self):
        provider = yaml.safe_load(read("grafana/provisioning/dashboards/telecast.yml"))["providers"][0]
        self.assertEqual(provider["options"]["path"], "/etc/grafana/provisioning/dashboards")
        uids = set()
        for file in BOARDS:
            board = json.loads(file.read_text())
            self.assertIsNone(board["id"])
            self.assertEqual((board["refresh"], board["time"]["from"], board["editable"]), ("15s", "now-1h", True))
            uids.add(board["uid"])
            self.assertEqual([variable["name"] for variable in board["templating"]["list"]], VARIABLES)
            for panel in all_panels(board):
                self.assertTrue(panel["type"] == "row" or panel["description"], panel["title"])
        text = "".join(file.read_text() for file in BOARDS)
        self.assertEqual(set(re.findall(r"/d/([\w-]+)\?", text)), uids)
        for variable in re.findall(r"[?&]var-(\w+)=|\$\{(\w+):queryparam\}", text):
            self.assertIn("".join(variable), VARIABLES)

    def test_the_board_of_nodes_has_its_panels_and_draws_the_thresholds_of_the_alerts(self):
        board = json.loads(read("grafana/provisioning/dashboards/websocket-server.json"))
        there = {panel["title"]: panel for panel in all_panels(board)}
        wanted = {"Connections over time", "Message rate", "Bandwidth", "Tasks", "Slow clients per minute", "Rate limited per minute"}
        wanted |= {"Replay requests per minute", "NATS status", "Connection failures"}
        self.assertLessEqual(wanted, set(there))
        for title, drawn in {"Active connections": [0.8, 0.95], "Memory against limit": [0.8, 0.9], "CPU": [70, 90]}.items():
            steps = there[title]["fieldConfig"]["defaults"]["thresholds"]["steps"]
            self.assertEqual([step["value"] for step in steps[1:]], drawn, title)

    def test_panels_neither_overlap_nor_leave_the_grid(self):
        for file in BOARDS:
            board = json.loads(file.read_text())
            taken = {}
            for panel in board["panels"]:
                place = panel["gridPos"]
                self.assertLessEqual(place["x"] + place["w"], 24, panel["title"])
                for cell in ((place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])):
                    self.assertIsNone(taken.setdefault(cell, None), f"{panel['title']} and {taken[cell]}")
                    taken[cell] = panel["title"]
            numbers = [panel["id"] for panel in all_panels(board)]
            self.assertEqual(len(numbers), len(set(numbers)), file)

    def test_boards_show_what_is_and_not_what_was(self):
        """The last value of a series that has ended would stay: a state that a node left, a node that was taken away."""
        for file in BOARDS:
            for panel in all_panels(json.loads(file.read_text())):
                drawn = panel.get("options", {}).get("graphMode", "none") != "none"
                if panel["type"] in ("stat", "gauge", "bargauge", "table") and not drawn:
                    self.assertTrue(all(target["instant"] for target in panel["targets"]), panel["title"])

    def test_boards_show_one_cluster_at_a_time(self):
        for board, panel, expression in (*panels(), *annotations()):
            for selector in re.findall(r"\b(?:ws_|telecast:|up\b|process_|jetstream_|gnatsd_|ALERTS)[a-zA-Z0-9_:]*(\{[^}]*\})?", expression):
                self.assertRegex(selector, r'cluster=~?"\$cluster\|?",namespace=~?"\$namespace\|?"', f"{board}: {panel}: {expression}")

    def test_rates_are_over_what_fits_the_interval_of_scrapes_and_the_width_of_panels(self):
        for board, panel, expression in panels():
            for window in re.findall(r"\[([^\]]+)\]", expression):
                self.assertRegex(window, r"^\$__rate_interval(:15s)?$", f"{board}: {panel}")

    def test_boards_show_no_alerts_of_others(self):
        """Other people's Prometheus has an alert that always fires."""
        for file in BOARDS:
            board = json.loads(file.read_text())
            asked = [target["expr"] for panel in all_panels(board) for target in panel.get("targets", [])]
            asked += [note["expr"] for note in board["annotations"]["list"] if "expr" in note]
            selectors = [text for expression in asked for text in re.findall(r"ALERTS\w*(?:\{[^}]*\})?", expression)]
            self.assertTrue(selectors, file)
            for selector in selectors:
                self.assertIn('alertname=~"WebSocket.*|Telecast.*|Nats.*"', selector)
        for alert in alerts():
            # The Watchdog is not to make them red.
            self.assertRegex(alert["alert"], f"^(WebSocket|Telecast|Nats)|^{WATCHDOG}$")


if __name__ == "__main__":
    unittest.main()
