"""Days of a cluster as Prometheus would have recorded them, a sample a minute, in the form that promtool reads.

A day begins quietly: two ingests, some edges and three NATS servers, clients that come in the morning and leave in the evening, and the
noise that every such system has. Events change that for some minutes.
"""

import math
from dataclasses import dataclass, field

MINUTES = 24 * 60
ROOM = 1000
NATS_SERVERS = 3
LABELS = 'cluster="telecast",namespace="telecast"'
# Of an ingest, per minute.
LINES, ENVELOPES = 30_000, 600
# An autoscaler's aim, and how long it takes from a figure to a node that serves: scrapes, its own rounds, the start.
AIM, SCALING_MINUTES = 0.73, 4


@dataclass
class Node:
    """What is recorded of one node; a sample is missing where the node does not answer."""

    name: str
    role: str
    born: int
    gone: int = MINUTES
    down: list = field(default_factory=list)
    samples: dict = field(default_factory=dict)
    counters: dict = field(default_factory=dict)

    def exists(self, minute):
        return self.born <= minute < self.gone

    def answers(self, minute):
        return self.exists(minute) and not any(start <= minute < end for start, end in self.down)

    def gauge(self, minute, name, value, labels=""):
        self.samples.setdefault((name, labels), {})[minute] = value

    def count(self, minute, name, by, labels=""):
        self.counters[name, labels] = self.counters.get((name, labels), 0) + by
        self.gauge(minute, name, round(self.counters[name, labels], 3), labels)

    def restart(self):
        self.counters.clear()

    def series(self):
        for (name, labels), values in self.samples.items():
            of = f'{LABELS},job="telecast/{self.role}",instance="{self.name}"{"," if labels else ""}{labels}'
            yield f"{name}{{{of}}}", values


@dataclass
class Event:
    """Something that happens from one minute to another: `changes` gets the day's state of each minute within."""

    name: str
    start: int
    end: int
    changes: dict


class Day:
    """Plays 24 hours, minute by minute."""

    def __init__(self, edges=4, scales=True, demand=lambda minute: 0.0, events=()):
        self.events, self.scales, self.demand = events, scales, demand
        self.nodes, self.nats = [], [Node(f"nats-{number}", "nats", 0) for number in range(NATS_SERVERS)]
        self.sequence, self.names = 0, 0
        self.edges = [self.new("edge", 0) for _ in range(edges)]
        self.ingests = [self.new("ingest", 0) for _ in range(2)]
        self.clients, self.wanted = {}, []
        for minute in range(MINUTES):
            self.minute(minute)

    def new(self, role, minute):
        self.names += 1
        node = Node(f"{role}-{self.names}", role, minute)
        self.nodes.append(node)
        return node

    def now(self, minute, what, otherwise=None):
        found = [event.changes[what] for event in self.events if event.start <= minute < event.end and what in event.changes]
        return found[-1] if found else otherwise

    def minute(self, minute):
        self.lifecycle(minute)
        self.place(minute)
        for edge in self.edges:
            self.edge(edge, minute)
        for ingest in self.ingests:
            self.ingest(ingest, minute)
        for server in self.nats:
            self.server(server, minute)

    # ── who is there ──

    def lifecycle(self, minute):
        for event in self.events:
            if event.start == minute:
                for what in ("edges", "ingests", "nats"):
                    self.begin(event, what, minute)
        if self.now(minute, "roll") and minute % 3 == 0:
            self.roll(minute)
        for kind in ("edges", "ingests"):
            self.replace_lost(kind, minute)
        if self.scales:
            self.scale(minute)

    def begin(self, event, what, minute):
        change = event.changes.get(what)
        nodes = getattr(self, what) if what != "nats" else self.nats
        if change == "gone":
            for node in nodes:
                if node.role == "nats":
                    node.down.append((event.start, event.end))
                else:
                    node.gone = minute
        elif isinstance(change, int):
            for node in nodes[:change]:
                node.down.append((event.start, event.end))

    def replace_lost(self, kind, minute):
        """What was taken away altogether comes back as new nodes when that is over."""
        nodes = getattr(self, kind)
        alive = [node for node in nodes if node.exists(minute)]
        if not alive and self.now(minute, kind) != "gone":
            alive = [self.new(kind[:-1], minute) for _ in nodes]
        if alive or self.now(minute, kind) != "gone":
            setattr(self, kind, alive)

    def roll(self, minute):
        """One node after the other, oldest first: the new one is there before the old one goes."""
        for kind in ("edges", "ingests"):
            nodes = getattr(self, kind)
            before = [node for node in nodes if node.born < self.began("roll", minute)]
            if before:
                nodes.append(self.new(kind[:-1], minute))
                before[0].gone = minute + 2
                return
        for server in self.nats:
            if not any(start >= self.began("roll", minute) for start, _ in server.down):
                server.down.append((minute, minute + 2))
                return

    def began(self, what, minute):
        return max(event.start for event in self.events if what in event.changes and event.start <= minute)

    def scale(self, minute):
        total = sum(self.clients.values())
        self.wanted.append(max(2, math.ceil(total / (AIM * ROOM))))
        serving = [edge for edge in self.edges if edge.gone == MINUTES]
        if len(self.wanted) > SCALING_MINUTES and not self.now(minute, "edges") and not self.now(minute, "roll"):
            out, into = min(self.wanted[-SCALING_MINUTES:]), max(self.wanted[-10:])
            if out > len(serving):
                self.edges += [self.new("edge", minute) for _ in range(out - len(serving))]
            elif into < len(serving) and minute % 3 == 0:
                serving[0].gone = minute + 2

    def place(self, minute):
        """Clients stay where they are; new ones, and those of nodes that went, go to the emptiest."""
        there = [edge for edge in self.edges if edge.answers(minute)]
        kept = {edge.name: self.clients.get(edge.name, 0) for edge in there}
        total = 0 if self.now(minute, "proxy") == "gone" or not there else int(self.demand(minute))
        full = len(there) * ROOM
        self.refused = max(0, total - full)
        total = min(total, full)
        moved = total - sum(kept.values())
        for _ in range(abs(moved)):
            name = min(kept, key=kept.get) if moved > 0 else max(kept, key=kept.get)
            kept[name] += 1 if moved > 0 else -1
        self.arrived = {name: max(0, count - self.clients.get(name, 0)) for name, count in kept.items()}
        self.clients = kept

    # ── what they say ──

    def common(self, node, minute):
        """Whether it answers; then everything that each node has."""
        if not node.exists(minute):
            return False
        node.gauge(minute, "up", int(node.answers(minute)))
        if not node.answers(minute):
            node.restart()
            return False
        fresh = minute == node.born or not node.answers(minute - 1)
        node.started = minute if fresh else getattr(node, "started", minute)
        draining = node.gone <= minute + 2 and node.gone < MINUTES
        for state in ("starting", "running", "draining", "error"):
            of = "draining" if draining else "starting" if fresh else "running"
            node.gauge(minute, "ws_server_state", int(state == of), f'state="{state}"')
        node.gauge(minute, "process_start_time_seconds", node.started * 60)
        reached = sum(server.answers(minute) for server in self.nats) > NATS_SERVERS // 2
        node.gauge(minute, "ws_nats_connected", int(reached))
        node.gauge(minute, "ws_log_last_sequence", self.sequence, 'shard="0"')
        node.gauge(minute, "ws_memory_limit_bytes", 512 << 20)
        node.gauge(minute, "ws_memory_bytes", int((512 << 20) * self.now(minute, "memory", 0.4)))
        node.gauge(minute, "ws_clock_ahead_seconds", 0.01)
        for reason in ("buffer", "timeout", "refused", "bad_body", "draining"):
            node.count(minute, "ws_writes_failed_total", 0, f'reason="{reason}"')
        for reason in ("refused", "shutdown", "capacity", "conflict"):
            node.count(minute, "ws_envelopes_dropped_total", 0, f'reason="{reason}"')
        return True

    def edge(self, node, minute):
        if not self.common(node, minute):
            return
        clients, arrived = self.clients.get(node.name, 0), self.arrived.get(node.name, 0)
        share = clients / ROOM
        node.gauge(minute, "ws_connections_active", clients)
        node.gauge(minute, "ws_connections_max", ROOM)
        # Some always come and go: pages that are opened and closed.
        node.count(minute, "ws_connections_total", arrived + clients // 20 + 1)
        failures = {"capacity": self.refused * 2 // max(1, len(self.clients)), "handshake": 0, "views": 0}
        failures |= {"bad_request": 1, "not_ready": 40 if minute == node.born else 0, "draining": 0}
        for reason, count in failures.items():
            node.count(minute, "ws_connections_failed_total", count, f'reason="{reason}"')
        node.gauge(minute, "ws_cpu_usage_percent", round(100 * min(1, self.now(minute, "cpu", 0.75) * share + 0.05), 1))
        node.gauge(minute, "ws_runtime_busy_ratio", round(min(1, 0.7 * share + 0.05), 3))
        node.count(minute, "ws_messages_sent_total", clients * 60)
        node.count(minute, "ws_slow_clients_disconnected_total", 1 if minute % 7 == 0 else 0)
        node.gauge(minute, "ws_message_queue_size", 30 + (minute * 37) % 90)
        node.count(minute, "ws_replay_requests_total", arrived, 'outcome="recovered"')
        node.count(minute, "ws_gaps_total", 1 if minute % 11 == 0 else 0, 'reason="slow"')
        stalled = self.now(minute, "log") == "stalled"
        node.gauge(minute, "ws_log_lag_seconds", 0 if minute != node.born else 4)
        for le, within in (("0.1", 0.97), ("1", 0.999), ("+Inf", 1)):
            node.count(minute, "ws_delivery_latency_seconds_bucket", 0 if stalled else 600 * within, f'le="{le}"')

    def ingest(self, node, minute):
        if not self.common(node, minute):
            return
        stalled = self.now(minute, "log") == "stalled" or sum(server.answers(minute) for server in self.nats) <= NATS_SERVERS // 2
        bad = self.now(minute, "bad_lines", 0.0)
        node.gauge(minute, "ws_connections_active", 0)
        node.gauge(minute, "ws_connections_max", 0)
        node.count(minute, "ws_connections_total", 0)
        node.gauge(minute, "ws_collectors_connected", 20)
        node.count(minute, "ws_lines_accepted_total", 0 if stalled else LINES * (1 - bad))
        # One bad line a second is noise among so many.
        node.count(minute, "ws_lines_rejected_total", 60 + LINES * bad, 'kind="syntax"')
        node.count(minute, "ws_writes_failed_total", 600 if stalled else 0, 'reason="buffer"')
        node.count(minute, "ws_writes_failed_total", 20 * bad, 'reason="bad_body"')
        node.count(minute, "ws_envelopes_published_total", 0 if stalled else ENVELOPES)
        if not stalled:
            self.sequence += ENVELOPES
        waits = getattr(node, "waits", 0) + 60 if stalled else 0
        node.waits = waits
        node.gauge(minute, "ws_publish_stalled_seconds", waits)
        node.gauge(minute, "ws_collector_buffered_bytes", min(64_000_000, 100_000 + waits * 200_000))
        node.gauge(minute, "ws_collector_buffer_bytes_max", 64_000_000)
        for le, within in (("0.1", 0.98), ("1", 0.999), ("+Inf", 1)):
            node.count(minute, "ws_publish_duration_seconds_bucket", 0 if stalled else ENVELOPES * within, f'le="{le}"')

    def server(self, node, minute):
        if not self.now(minute, "exporters", True):
            return
        node.gauge(minute, "up", 1)
        alive = [server for server in self.nats if server.answers(minute)]
        if node not in alive:
            return
        # The first that has a majority with it leads.
        leader = alive[0].name if len(alive) > NATS_SERVERS // 2 else ""
        of = f'nats_cluster="telecast",server_name="{node.name}"'
        node.gauge(minute, "jetstream_server_jetstream_disabled", 0, f'{of},meta_leader="{leader}"')
        node.gauge(minute, "jetstream_server_total_message_bytes", 1 << 30, of)
        node.gauge(minute, "jetstream_server_max_storage", 10 << 30, of)

    def series(self):
        """Every series and its samples, as promtool's tests take them."""
        for node in (*self.nodes, *self.nats):
            for name, values in node.series():
                yield {"series": name, "values": " ".join(written(values))}


def written(values):
    """With the mark that Prometheus sets where a series ends, or it would go on for five minutes."""
    before = False
    for minute in range(MINUTES):
        yield str(values[minute]) if minute in values else "stale" if before else "_"
        before = minute in values
