"""An hour of a cluster's life, and who is called for what: a deploy, a scale-out, and troubles one after the other, each followed by
quiet. Nobody is called without a cause, and for every incident somebody is.

TELECAST_ALERTS_SECONDS=3600 uses Prometheus, its rules and Alertmanager exactly as they are shipped. With less, all their times are
shorter in proportion, and so are those of what happens.
"""

import os
import signal
import threading
import time
import unittest
import urllib.error
import urllib.request
from dataclasses import dataclass

from support import PATIENCE_SECONDS, Stage, eventually, telecast
from watched_cluster import READY_SECONDS, Cluster

HOUR = 3600
SECONDS = float(os.environ.get("TELECAST_ALERTS_SECONDS", "720"))
SECONDS_MIN = 600
CLIENTS = 120
# Who is called at once; the others are told, and look within the day.
CALLED = "operators-urgent"
DEAD_MANS_SWITCH = "dead-mans-switch"
WATCHDOG = "Watchdog"


@dataclass(frozen=True)
class Event:
    """Something that happens, and what must come of it before the next does."""

    what: str
    minutes: float
    # The method of `Hour` that makes it happen.
    does: str = ""
    # For this somebody is called, once or more.
    calls: frozenset = frozenset()
    # Of this somebody is told.
    tells: frozenset = frozenset()
    # These may come beside: they are of the same trouble, and depend on where it strikes. Nobody is called for them.
    beside: frozenset = frozenset()


EVENTS = (
    Event("quiet", 5),
    Event("a deploy: every node is replaced and every NATS server restarted, one at a time", 8, "deploy"),
    Event("scale-out from 2 edges to 5", 5, "scale_out"),
    Event("scale-in from 5 edges to 2", 6, "scale_in"),
    Event("an edge is lost (kill -9), and replaced after five minutes", 8, "lose_edge", calls=frozenset({"TelecastNodeDown"})),
    Event("for seven minutes, a collector sends four lines a second that are none", 8, "bad_collector", tells=frozenset({"WebSocketErrorsHigh"})),
    Event(
        "all edges are gone, and not even found any more",
        4,
        "lose_edges",
        calls=frozenset({"TelecastEdgesAbsent"}),
        beside=frozenset({"WebSocketConnectionsDropped"}),
    ),
    Event("two edges are back", 5, "recover"),
    Event(
        "a NATS server of three is lost (kill -9), and back after five minutes",
        8,
        "lose_nats",
        calls=frozenset({"NatsReplicaLost"}),
        # Where it led the stream, what is sent waits some seconds for another to lead.
        beside=frozenset({"TelecastDeliverySlow", "TelecastPublishSlow"}),
    ),
    Event("quiet", 3),
)


@dataclass
class Episode:
    """An alert that fired for a while."""

    labels: dict
    begin: float
    # None while it fires.
    end: float | None
    # Receivers that heard of it, and when first.
    heard: dict
    # Another alert said it already.
    inhibited: bool

    @property
    def name(self):
        return self.labels["alertname"]

    @property
    def subject(self):
        return self.labels.get("instance") or self.labels.get("job") or self.labels.get("namespace") or ""


class Hour(Stage):
    def setUp(self):
        super().setUp()
        self.assertGreaterEqual(SECONDS, SECONDS_MIN, "TELECAST_ALERTS_SECONDS is less than what nodes and NATS take themselves")
        self.speed = HOUR / SECONDS
        self.cluster = Cluster(self, self.speed)
        self.inhibited = []
        self.ended = threading.Event()
        self.addCleanup(self.ended.set)
        threading.Thread(target=self.watch_inhibited, daemon=True).start()

    def watch_inhibited(self):
        while not self.ended.wait(self.cluster.interval / 2):
            self.inhibited += [(time.time(), labels) for labels in self.cluster.silenced()]

    # ── what happens ──

    def deploy(self):
        for role in ("ingest", "edge"):
            for old in self.cluster.hosts(role):
                self.cluster.add(role)
                self.cluster.wait(READY_SECONDS)
                self.cluster.drain(role, old)
                self.cluster.note(f"one {role} replaced")
        for number in list(self.cluster.servers):
            self.cluster.servers[number].stop()
            self.cluster.start_nats(number)
            self.cluster.wait_for_nats()
            self.cluster.note(f"NATS server {number + 1} restarted")

    def scale_out(self):
        for _ in range(3):
            self.cluster.add("edge")
        self.cluster.note("five edges are ready")

    def scale_in(self):
        for host in self.cluster.hosts("edge")[2:]:
            self.cluster.drain("edge", host)
        self.cluster.note("three edges have drained")

    def lose_edge(self):
        lost = self.cluster.hosts("edge")[0]
        self.cluster.nodes["edge"][lost][0].stop(signal.SIGKILL)
        self.cluster.note("an edge was killed")
        # Kubernetes believes for so long that the pods of a lost machine may come back.
        self.cluster.wait(300)
        self.cluster.add("edge")
        self.cluster.forget("edge", lost)
        self.cluster.note("the lost edge is replaced")

    def lose_nats(self):
        self.cluster.servers[1].stop(signal.SIGKILL)
        self.cluster.note("a NATS server was killed")
        self.cluster.wait(300)
        self.cluster.start_nats(1)
        self.cluster.wait_for_nats()
        self.cluster.note("the NATS server is back")

    def bad_collector(self):
        until = time.monotonic() + 420 / self.speed
        url = f"http://{self.cluster.proxy.collectors}/api/v1/write?collector=bad"
        while time.monotonic() < until:
            try:
                urllib.request.urlopen(urllib.request.Request(url, b"cpu no fields\n" * 4, method="POST"), timeout=10).close()
            except urllib.error.HTTPError as error:
                self.assertEqual(error.code, 400)
            time.sleep(1)
        self.cluster.note("the collector has stopped")

    def lose_edges(self):
        for host in self.cluster.hosts("edge"):
            self.cluster.drain("edge", host)
        self.cluster.note("no edge is left")

    def recover(self):
        for _ in range(2):
            self.cluster.add("edge")
        self.cluster.note("two edges are ready")

    def start_load(self):
        proxy = self.cluster.proxy
        command = [telecast(), "load", "--json", "--clients", CLIENTS, "--duration", f"{SECONDS + PATIENCE_SECONDS:.0f}s"]
        command += ["--url", f"ws://{proxy.clients}/ws", "--ingest", f"ws://{proxy.collectors}/ws/collector"]
        self.load = self.start("load", [*command, "--publish", 4, "--publish-rate", 80])
        eventually("clients", lambda: self.connections() >= CLIENTS)

    def connections(self):
        found = self.cluster.ask("query", query="sum(ws_connections_active)")["result"]
        return float(found[0]["value"][1]) if found else 0

    # ── what came of it ──

    def episodes(self, begin):
        """Every alert that fired since, but the one that always does."""
        step = self.cluster.interval
        # Several questions between two evaluations: a table has minutes and seconds.
        query = {"query": 'ALERTS{alertstate="firing"}', "start": begin, "end": time.time(), "step": step / 5}
        found = self.cluster.ask("query_range", **query)
        now, episodes = time.time(), []
        for series in found["result"]:
            labels = {name: value for name, value in series["metric"].items() if name not in ("__name__", "alertstate")}
            if labels["alertname"] == WATCHDOG:
                continue
            times = [at for at, _ in series["values"]]
            begins = [at for before, at in zip([float("-inf"), *times], times) if at - before > 2.5 * step]
            ends = [at for at, after in zip(times, [*times[1:], float("inf")]) if after - at > 2.5 * step]
            episodes += [self.episode(labels, *span, now) for span in zip(begins, ends)]
        return sorted(episodes, key=lambda episode: episode.begin)

    def episode(self, labels, begin, end, now):
        step = self.cluster.interval

        def same(other, at):
            return labels.items() <= other.items() and begin - step <= at <= end + 3 * step

        heard = {}
        for notification in self.cluster.receivers.got:
            if notification.status == "firing" and same(notification.labels, notification.at):
                heard.setdefault(notification.receiver, notification.at)
        inhibited = any(same(other, at) for at, other in self.inhibited)
        return Episode(labels, begin, None if now - end < 2.5 * step else end, heard, inhibited)

    def test_somebody_is_called_for_every_incident_and_for_nothing_else(self):
        self.start_load()
        begin = time.time()
        starts = []
        for event in EVENTS:
            starts.append(time.time())
            self.cluster.note(event.what)
            ended = time.monotonic() + event.minutes * 60 / self.speed
            if event.does:
                getattr(self, event.does)()
            self.assertLess(time.monotonic(), ended, f"no quiet was left after: {event.what}")
            time.sleep(ended - time.monotonic())
        episodes = self.episodes(begin)
        by_event = [
            [episode for episode in episodes if start <= episode.begin < after]
            for start, after in zip(starts, [*starts[1:], float("inf")])
        ]
        wrong = [text for event, of_it in zip(EVENTS, by_event) for text in judge(event, of_it)]
        wrong += [f"still fires at the end: {episode.name} {episode.subject}" for episode in episodes if episode.end is None]
        wrong += self.judge_watchdog(begin)
        if not self.load.running():
            wrong.append("the load has ended")
        print(table(begin, starts, by_event), flush=True)
        told = {receiver: sum(receiver in episode.heard for episode in episodes) for receiver in self.cluster.receiver_names}
        print(f"alerts: {len(episodes)}; of them heard by " + ", ".join(f"{name}: {count}" for name, count in told.items()))
        print("verdict: " + ("; ".join(wrong) or "no call without a cause, no incident without a call"), flush=True)
        self.assertEqual(wrong, [])

    def judge_watchdog(self, begin):
        """It is sent again and again, or what waits for it would raise an alarm."""
        if DEAD_MANS_SWITCH not in self.cluster.receiver_names:
            return [f"alertmanager.yml has no receiver {DEAD_MANS_SWITCH}"]
        times = [heard.at for heard in self.cluster.receivers.got if heard.labels["alertname"] == WATCHDOG]
        longest = max(after - before for before, after in zip([begin, *times], [*times, time.time()]))
        print(f"the Watchdog came {len(times)} times; the longest pause was {longest:.0f} s")
        allowed = max(180 / self.speed, 3 * self.cluster.interval)
        return [] if longest < allowed else [f"the Watchdog paused for {longest:.0f} s"]


def judge(event, episodes):
    """What is wrong with what came of an event."""
    called = {episode.name for episode in episodes if CALLED in episode.heard}
    fired = {episode.name for episode in episodes}
    told = {episode.name for episode in episodes if episode.heard}
    yield from (f"called without a cause: {name} after: {event.what}" for name in sorted(called - event.calls))
    yield from (f"nobody was called: {name} after: {event.what}" for name in sorted(event.calls - called))
    yield from (f"nobody was told: {name} after: {event.what}" for name in sorted(event.tells - told))
    unexpected = fired - called - event.calls - event.tells - event.beside
    yield from (f"fired without a cause: {name} after: {event.what}" for name in sorted(unexpected))
    # Of the second node with the same alert nobody need hear: a group is not told anew at once.
    said = told | {episode.name for episode in episodes if episode.inhibited}
    yield from (f"nobody heard of it, nor of what says the same: {name} after: {event.what}" for name in sorted(fired - said))


def table(begin, starts, by_event):
    """What happened beside what fired, for people; minutes and seconds since the beginning, as the clock of the run had them."""

    def clock(at):
        return f"{int(at - begin) // 60:02}:{int(at - begin) % 60:02}"

    def row(episode):
        heard = "; ".join(f"{receiver} {clock(at)}" for receiver, at in episode.heard.items())
        heard = heard or ("nobody: another alert says it" if episode.inhibited else "nobody")
        ended = clock(episode.end) if episode.end else "still"
        return f"| | | {episode.name} {episode.subject} | {episode.labels['severity']} | {clock(episode.begin)} | {ended} | {heard} |"

    lines = ["| at | what happened | alert | severity | fired | until | heard by, first |", "|---|---|---|---|---|---|---|"]
    for event, start, episodes in zip(EVENTS, starts, by_event):
        lines.append(f"| {clock(start)} | {event.what} | {'' if episodes else 'none'} | | | | |")
        lines += [row(episode) for episode in episodes]
    return "\n".join(lines)


if __name__ == "__main__":
    unittest.main()
