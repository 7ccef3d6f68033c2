"""One measurement: a server, its publisher, the client, and what came of it."""

import json
import os
import shutil
import tempfile
from pathlib import Path

from catalogue import BUILT
from processes import Failed, Stage, family

# Messages that a window may miss at its ends because they wait for others, the floor's for 16.
MESSAGES_AT_ENDS = 16
# Deliveries below this share of what was asked for: the server, or the machine, is at its end.
KEEPS_UP = 0.97
# What a client may take longer than it was told to: a busy machine.
CLIENT_SECONDS_MORE_MAX = 30
# A source address has 28,000 ports, of which the kernel gives out half quickly.
CLIENTS_PER_ADDRESS = 5_000


def cores(both):
    """Cores of the server, and of everything else: one each, or, for `both`, all for everybody."""
    available = sorted(os.sched_getaffinity(0))
    if both or len(available) < 2:
        return set(available), set(available)
    # With more than two, the rest is for what feeds and receives: it must not be what limits.
    return {available[0]}, set(available[1:])


def measure(peer, case, seconds, warmup, both_cores=False):
    """Runs a peer once. Returns numbers, or {"error": why}."""
    folder = Path(tempfile.mkdtemp(prefix=f"peers-{peer.name}-"))
    try:
        with Stage(folder, *cores(both_cores)) as stage:
            running = peer.start(stage, case)
            command = client(running, case, seconds, warmup)
            line = stage.client(command, warmup + seconds + CLIENT_SECONDS_MORE_MAX, lambda: publish(stage, running, case))
            stage.check()
        return judged(case, json.loads(line))
    except (Failed, OSError, ValueError) as why:
        return {"error": str(why)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(stage, running, case):
    if running.publisher and not case.idle:
        rate = ["--rate", case.messages_per_second, "--bytes", case.bytes]
        stage.helper([BUILT / "publish", *rate, *running.publisher])


def client(running, case, seconds, warmup):
    command = [BUILT / "fanout-client", "--server", f"127.0.0.1:{running.port}", "--path", running.path]
    command += ["--clients", case.clients, "--warmup", warmup, "--seconds", seconds, *running.client]
    addresses = -(-case.clients // CLIENTS_PER_ADDRESS)
    command += ["--addresses", ",".join(f"127.0.0.{2 + index}" for index in range(addresses))]
    for pid in family(running.process):
        command += ["--watch", pid]
    return command


def judged(case, numbers):
    """Adds what follows from the numbers, and what is wrong with them."""
    cpu = numbers["server_cpu"]
    numbers["kib_per_connection"] = (numbers["server_kib_after"] - numbers["server_kib_before"]) / max(1, numbers["connected"])
    if numbers["deliveries"]:
        deliveries = numbers["deliveries"]
        numbers["deliveries_per_second"] = deliveries / numbers["seconds"]
        numbers["cpu_us"] = (cpu["user_s"] + cpu["system_s"]) * 1e6 / deliveries
        numbers["user_us"] = cpu["user_s"] * 1e6 / deliveries
        numbers["client_us"] = sum(numbers["client_cpu"].values()) * 1e6 / deliveries
        numbers["bytes_per_delivery"] = numbers["bytes_read"] / deliveries
        numbers["deliveries_per_read"] = deliveries / numbers["reads"]
    numbers["wrong"] = wrong(case, numbers)
    return numbers


def wrong(case, numbers):
    """Why these numbers are not those of a server that delivered everything; empty if it did."""
    found = []
    if numbers["connected"] < case.clients:
        reasons = "; ".join(f"{count}: {why}" for why, count in numbers["failed"].items())
        found.append(f"{numbers['connected']} of {case.clients} connected ({reasons})")
    if case.idle:
        return found
    for key in ("lost", "repeated"):
        if numbers[key]:
            found.append(f"{numbers[key]} {key}")
    if numbers["silent"]:
        found.append(f"{numbers['silent']} connections got nothing")
    expected = case.clients * case.messages_per_second * numbers["seconds"]
    if numbers["deliveries"] < KEEPS_UP * expected - MESSAGES_AT_ENDS * case.clients:
        found.append(f"{100 * numbers['deliveries'] / expected:.0f} % of what was asked for")
    return found
