"""From runs to tables: medians, Markdown, and the page they go into."""

import json
import os
import platform
import subprocess
import time
from pathlib import Path
from statistics import median

import plot
from catalogue import EDGE, FLOOR, PEERS, ROOT

PAGE = ROOT / "docs/performance.md"
RESULTS = ROOT / "docs/peers.json"
PICTURE = ROOT / "docs/peers.svg"
MODES = ["compare", "sustain"]
BEGIN, END = "<!-- peers:begin -->", "<!-- peers:end -->"


def machine(peers):
    """What the numbers belong to."""
    processor = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    memory_kib = int(open("/proc/meminfo").readline().split()[1])
    versions = [text for text in (version(peer.version) for peer in peers) if text]
    return {
        "processor": f"{processor}, {os.cpu_count()} cores, {memory_kib / 2**20:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "versions": ", ".join(versions),
        "date": time.strftime("%-d %B %Y"),
        "load": f"{os.getloadavg()[0]:.1f}",
    }


def version(of):
    if not of or isinstance(of, str):
        return of
    try:
        said = subprocess.run([str(part) for part in of], capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
    said = said.splitlines()[0] if said else ""
    # Some say only their number.
    return f"{Path(str(of[0])).name} {said}" if said.startswith("v") else said.replace(": ", " ")


def as_json(results):
    """All results, with a line for each run: git shows what changed."""
    parts = []
    for mode, part in results.items():
        about = {key: value for key, value in part.items() if key != "runs"}
        runs = ",\n".join(json.dumps(run) for run in part["runs"])
        parts.append(f"{json.dumps(mode)}: {json.dumps(about)[:-1]}, \"runs\": [\n{runs}\n]}}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def progress(run):
    asked = f"{run['kind']:8} {run['peer']:15} {run['clients']:6} clients {run['bytes']:5} B"
    if run.get("error"):
        return f"{asked}  failed: {run['error']}"
    wrong = f"  {'; '.join(run['wrong'])}" if run["wrong"] else ""
    if run["kind"] == "idle":
        return f"{asked}  {run['kib_per_connection']:6.1f} KiB per connection{wrong}"
    if not run["deliveries"]:
        return f"{asked}{wrong}"
    return (
        f"{asked}  {run['cpu_us']:5.2f} µs ({run['user_us']:.2f} user)  p99 {run['latency_p99_us'] / 1000:7.1f} ms"
        f"  {run['deliveries_per_second'] / 1000:6.0f}k/s  client {run['client_us']:.2f} µs{wrong}"
    )


class Cells:
    """Medians of the runs of one kind."""

    def __init__(self, part, kind):
        self.runs = [run for run in part["runs"] if run["kind"] == kind]

    def of(self, peer, clients, size):
        """Whole runs of a cell; and what was wrong with the others."""
        here = [run for run in self.runs if (run["peer"], run["clients"], run["bytes"]) == (peer, clients, size)]
        whole = [run for run in here if not run.get("error") and not run["wrong"]]
        notes = [run.get("error") or "; ".join(run["wrong"]) for run in here if run not in whole]
        return whole, notes

    def value(self, peer, clients, size, key):
        whole, _ = self.of(peer, clients, size)
        return median(run[key] for run in whole) if whole else None

    def cell(self, peer, clients, size, key, form):
        value = self.value(peer, clients, size, key)
        if value is not None:
            return form(value)
        return "see below" if self.of(peer, clients, size)[1] else ""

    def asked(self, key):
        return sorted({run[key] for run in self.runs})

    def peers(self):
        here = {run["peer"] for run in self.runs}
        return [peer for peer in PEERS if peer.name in here]


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def microseconds(value):
    return f"{value:.2f}"


def milliseconds(value):
    return f"{value / 1000:.1f}" if value < 100_000 else f"{value / 1000:.0f}"


def markdown(results):
    parts = []
    for mode in MODES:
        if mode not in results:
            continue
        part = results[mode]
        fan_out, idle, sustained = (Cells(part, kind) for kind in ("fan-out", "idle", "sustain"))
        parts.append(introduction(part))
        if fan_out.runs:
            parts += [cpu(fan_out, idle), payload(fan_out), latency(fan_out), ratios(fan_out)]
        elif idle.runs:
            parts.append(memory(idle))
        if sustained.runs:
            parts.append(sustain(sustained))
        parts.append(notes(part))
    return "\n\n".join(part for part in parts if part)


def introduction(part):
    about = part["machine"]
    return (
        f"`{part['command']}` on {about['processor']}, {about['kernel']}, {about['date']}; load average {about['load']} "
        f"at the start. {about['versions']}."
    )


def cpu(fan_out, idle):
    clients = sorted({run["clients"] for run in fan_out.runs if run["bytes"] == 512})
    held = idle.asked("clients")
    head = ["server", *[f"{count:,} clients" for count in clients], *[f"KiB per idle connection, of {count:,}" for count in held]]
    rows = []
    for peer in fan_out.peers():
        row = [peer.label]
        row += [fan_out.cell(peer.name, count, 512, "cpu_us", microseconds) for count in clients]
        row += [idle.cell(peer.name, count, 512, "kib_per_connection", lambda kib: f"{max(0, kib):.1f}") for count in held]
        rows.append(row)
    rate = round(fan_out.runs[0]["clients"] * fan_out.runs[0]["messages_per_second"])
    return (
        f"Server CPU (user and system) in µs per delivered message of 512 bytes, at {rate:,} deliveries a second; and resident "
        "memory per connection that gets nothing:\n\n" + table(head, rows)
    )


def memory(idle):
    head = ["server", *[f"KiB per idle connection, of {count:,}" for count in idle.asked("clients")]]
    form = "{:.1f}".format
    rows = [[peer.label, *[idle.cell(peer.name, count, 512, "kib_per_connection", form) for count in idle.asked("clients")]]
            for peer in idle.peers()]
    return table(head, rows)


def payload(fan_out):
    sizes = fan_out.asked("bytes")
    if len(sizes) < 2:
        return ""
    rows = [[peer.label, *[fan_out.cell(peer.name, 1_000, size, "cpu_us", microseconds) for size in sizes]]
            for peer in fan_out.peers()]
    smallest = fan_out.value(EDGE, 1_000, sizes[0], "bytes_per_delivery")
    remark = f" The edge's smallest message is larger than that: {smallest:.0f} bytes with its frame." if smallest and smallest > sizes[0] + 20 else ""
    head = ["server", *[f"{size:,} bytes" for size in sizes]]
    return f"The same by size of the message, with 1,000 clients.{remark}\n\n" + table(head, rows)


def latency(fan_out):
    clients = sorted({run["clients"] for run in fan_out.runs if run["bytes"] == 512})
    head = ["server", *[f"{count:,} clients" for count in clients]]

    def both(peer, count):
        half = fan_out.cell(peer, count, 512, "latency_p50_us", milliseconds)
        most = fan_out.cell(peer, count, 512, "latency_p99_us", milliseconds)
        return half if half == most else f"{half} / {most}"

    rows = [[peer.label, *[both(peer.name, count) for count in clients]] for peer in fan_out.peers()]
    return "Latency in ms from when a message was due to when the client read it, median / 99 %:\n\n" + table(head, rows)


def ratios(fan_out):
    """What the edge is held to: its CPU against the floor's of the same turn, which a slow minute slowed as well."""
    counts = sorted({run["clients"] for run in fan_out.runs if run["bytes"] == 512})
    rows = []
    for peer in fan_out.peers():
        if peer.name.startswith((EDGE, FLOOR)) and peer.name != FLOOR:
            rows.append([peer.label, *[against_floor(fan_out, peer.name, count) for count in counts]])
    if not any("×" in cell for row in rows for cell in row):
        return ""
    head = ["against the floor", *[f"{count:,} clients" for count in counts]]
    return (
        "CPU against the floor's in the same turn (median of the turns); and in parentheses the part in user space, and how many "
        "messages the client found at a time, which is one where nothing was coalesced:\n\n" + table(head, rows)
    )


def against_floor(fan_out, peer, count):
    floors = {run["turn"]: run["cpu_us"] for run in fan_out.of(FLOOR, count, 512)[0]}
    pairs = [run["cpu_us"] / floors[run["turn"]] for run in fan_out.of(peer, count, 512)[0] if run["turn"] in floors]
    if not pairs:
        return ""
    user, together = (fan_out.value(peer, count, 512, key) for key in ("user_us", "deliveries_per_read"))
    return f"{median(pairs):.2f} × ({user:.2f} µs; {together:.1f})"


def sustain(sustained):
    head = ["server"]
    for count in sustained.asked("clients"):
        head += [f"{count:,} clients: deliveries/s", "µs", "99 % (ms)"]
    rows = []
    for peer in sustained.peers():
        row = [peer.label]
        for count in sustained.asked("clients"):
            whole, _ = sustained.of(peer.name, count, 512)
            best = max(whole, key=lambda run: run["deliveries_per_second"], default=None)
            row += [f"{best['deliveries_per_second']:,.0f}", microseconds(best["cpu_us"]), milliseconds(best["latency_p99_us"])] if best else ["", "", ""]
        rows.append(row)
    return "The highest rate at which everything was delivered, on all cores, which the client, publisher and NATS share:\n\n" + table(head, rows)


def notes(part):
    """What has no number, and why."""
    lines = [f"- {label} is missing here: {why}" for label, why in part["missing"].items()]
    for kind in ("fan-out", "idle"):
        cells = Cells(part, kind)
        for peer in cells.peers():
            for clients in cells.asked("clients"):
                for size in cells.asked("bytes"):
                    whole, wrong = cells.of(peer.name, clients, size)
                    if wrong and not whole:
                        lines.append(f"- {peer.label}, {clients:,} clients, {size:,} bytes: {wrong[-1]}")
                    elif wrong:
                        lines.append(f"- {peer.label}, {clients:,} clients, {size:,} bytes: {len(wrong)} of {len(wrong) + len(whole)} rounds left out: {wrong[-1]}")
    return "\n".join(lines)


def write(text, results):
    """Puts the report between its markers, and the picture beside the page."""
    page = PAGE.read_text()
    if BEGIN not in page or END not in page:
        raise SystemExit(f"{PAGE} has no {BEGIN} … {END}: put the two lines where the tables belong")
    before, rest = page.split(BEGIN, 1)
    _, after = rest.split(END, 1)
    picture = "![CPU per delivery, and memory per connection](peers.svg)\n\n" if "compare" in results else ""
    PAGE.write_text(f"{before}{BEGIN}\n{picture}{text}\n{END}{after}")
    if "compare" in results:
        PICTURE.write_text(plot.picture(*(Cells(results["compare"], kind) for kind in ("fan-out", "idle"))))
