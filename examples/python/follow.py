#!/usr/bin/env python3
"""Prints live metrics of a Telecast cluster as JSON lines, and never loses its place.

    pip install 'websockets>=14'
    python3 follow.py ws://localhost:3002/ws ws://localhost:3003/ws --filter '*.cpu{cpu=cpu-total}' --place place.txt

Whatever breaks, it connects to the next edge and goes on behind the last message. With --place it does so over its own restarts, too.
Needs Python 3.10 and websockets 14, or newer.
"""

import argparse
import asyncio
import json
import pathlib
import random
import sys
import time
import urllib.parse

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

# Close codes behind which every attempt would end the same way, and those behind which to come back at once.
FINAL = {1000, 1001, 1002, 1003, 1007, 1008, 1009}
AT_ONCE = {1012, 4008, 4010}

OPEN_TIMEOUT_S = 10
# A dead connection does not answer to a farewell either.
CLOSE_TIMEOUT_S = 1
# Silence of two heartbeats and this is a dead connection.
SILENCE_MARGIN_S = 5
PAUSE_BASE_S = 1
PAUSE_MAX_S = 30
# A connection that held for so long ends the count of failures.
STABLE_S = 10


class Refused(Exception):
    """The server says that trying again is of no use."""


class Follower:
    """One stream, over as many connections as it takes."""

    def __init__(self, urls, filters, begin, place):
        self.urls, self.filters, self.place_file = urls, filters, place
        self.place = begin
        self.failures = 0
        self.come_back_at = None

    async def run(self, show):
        """Calls `show` with each message that says something about metrics, in order, each once."""
        attempt = 0
        while True:
            opened = time.monotonic()
            self.come_back_at, code = None, None
            try:
                await self.read(self.urls[attempt % len(self.urls)], show)
            except ConnectionClosed as closed:
                code = closed.rcvd.code if closed.rcvd else None
                if code in FINAL:
                    raise Refused(f"closed with {code}: {closed.rcvd.reason}") from None
                note(f"the connection broke: {closed}")
            except InvalidStatus as refused:
                status, body = refused.response.status_code, bytes(refused.response.body or b"")
                # The server's own words: they say what to do.
                if status in (400, 401, 403, 404, 426):
                    raise Refused(f"{status} {body.decode(errors='replace')}") from None
                note(f"not now: {status}")
            except (OSError, InvalidHandshake, asyncio.TimeoutError) as error:
                note(f"not reached: {error or type(error).__name__}")
            if time.monotonic() - opened >= STABLE_S:
                self.failures = 0
            attempt += 1
            await asyncio.sleep(self.pause(code))

    def pause(self, code):
        """Seconds until the next attempt."""
        if self.come_back_at is not None:
            return max(0, self.come_back_at - time.monotonic())
        self.failures += 1
        if code in AT_ONCE and self.failures == 1:
            return 0
        # Full jitter: clients that were cut off together do not come back together.
        return random.uniform(0, min(PAUSE_MAX_S, PAUSE_BASE_S * 2 ** (self.failures - 1)))

    async def read(self, url, show):
        parameters = [("filter", text) for text in self.filters] + [("from", self.place)]
        query = urllib.parse.urlencode(parameters)
        # The server pings, and heartbeats tell whether it lives: no pings of our own.
        times = {"open_timeout": OPEN_TIMEOUT_S, "close_timeout": CLOSE_TIMEOUT_S, "ping_interval": None}
        async with connect(f"{url}?{query}", max_size=None, **times) as socket:
            silence_max = OPEN_TIMEOUT_S
            while True:
                message = json.loads(await asyncio.wait_for(socket.recv(), silence_max))
                match message["type"]:
                    case "welcome":
                        silence_max = 2 * message["heartbeat_ms"] / 1000 + SILENCE_MARGIN_S
                    case "goodbye":
                        self.come_back_at = time.monotonic() + message["reconnect_after_ms"] / 1000
                    case "metrics" | "gap" | "stale" | "live":
                        show(message)
                # Behind what was shown, not before: what breaks in between comes again and is not lost.
                place = message.get("to") if message["type"] == "gap" else message.get("offset")
                if place is not None:
                    self.keep(place)

    def keep(self, place):
        self.place = place
        if self.place_file:
            # Replaced in one step: half an offset would be refused.
            beside = self.place_file.with_suffix(".new")
            beside.write_text(place)
            beside.replace(self.place_file)


def note(text):
    print(text, file=sys.stderr, flush=True)


def address(text):
    if urllib.parse.urlsplit(text).scheme not in ("ws", "wss"):
        raise argparse.ArgumentTypeError(f"`{text}` is no address of an edge: it looks like ws://HOST:PORT/ws")
    return text


def main():
    parser = argparse.ArgumentParser(description="Prints live metrics of a Telecast cluster as JSON lines.")
    parser.add_argument("urls", nargs="+", type=address, metavar="ws://HOST:PORT/ws", help="edges, tried in turn")
    parser.add_argument("--filter", action="append", default=[], help="such as *.cpu; may be repeated")
    parser.add_argument("--from", dest="begin", default="latest", help="latest, earliest, -30s, or an offset")
    parser.add_argument("--place", type=pathlib.Path, help="a file that keeps the place; it wins over --from")
    arguments = parser.parse_args()
    kept = arguments.place.read_text().strip() if arguments.place and arguments.place.exists() else ""
    follower = Follower(arguments.urls, arguments.filter, kept or arguments.begin, arguments.place)
    try:
        asyncio.run(follower.run(lambda message: print(json.dumps(message), flush=True)))
    except Refused as refused:
        sys.exit(f"follow.py: {refused}")
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
