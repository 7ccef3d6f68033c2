#!/usr/bin/env python3
"""Prints live metrics of a Telecast cluster as JSON lines, and never loses its place.

    pip install 'websockets>=14'
    python3 follow.py ws://localhost:3002 ws://localhost:3003 --filter '*.cpu{cpu=cpu-total}' --place place.txt

Whatever breaks, it connects to the next edge and goes on behind the last message. With --place it does so over its own restarts, too.
Needs Python 3.10 and websockets 14, or newer.
"""

import argparse
import asyncio
import datetime
import email.utils
import json
import pathlib
import random
import re
import sys
import time
import urllib.parse

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

# The close code behind which every attempt would end the same way, and those behind which to come back at once. Any other may be
# that of a proxy or balancer which restarts: 1000 and 1001 are usual.
FINAL = {1008}
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
# A longer order to wait is taken for a mistake.
RETRY_AFTER_MAX_S = 3600


class Refused(Exception):
    """The server says that trying again is of no use."""


class Follower:
    """One stream, over as many connections as it takes."""

    def __init__(self, urls, filters, begin, place):
        self.urls, self.filters, self.place_file = urls, filters, place
        self.place = begin
        self.failures = 0
        self.come_back_at = None
        # What the server refused last: it may close the connection for it.
        self.refusal = None

    async def run(self, show):
        """Calls `show` with each message that says something about metrics, in order, each once."""
        attempt = 0
        while True:
            opened = time.monotonic()
            self.come_back_at, self.refusal, code, ordered = None, None, None, 0
            try:
                await self.read(self.urls[attempt % len(self.urls)], show)
            except ConnectionClosed as closed:
                code = closed.rcvd.code if closed.rcvd else None
                if code in FINAL:
                    raise Refused(self.refusal or f"closed with {code}: {closed.rcvd.reason}") from None
                note(f"the connection broke: {closed}")
            except InvalidStatus as refused:
                status, body = refused.response.status_code, bytes(refused.response.body or b"")
                words = body.decode(errors="replace")
                # The server's own words: they say what to do.
                if status in (400, 401, 403, 404, 426):
                    raise Refused(f"{status} {words}") from None
                if 200 <= status < 300:
                    raise Refused(f"{status}: what answers there is no WebSocket of Telecast: {words[:200]}") from None
                ordered = retry_after(refused.response.headers)
                note(f"not now: {status} {words}".rstrip())
            except (OSError, InvalidHandshake, asyncio.TimeoutError) as error:
                note(f"not reached: {error or type(error).__name__}")
            if time.monotonic() - opened >= STABLE_S:
                self.failures = 0
            attempt += 1
            await asyncio.sleep(ordered + self.pause(code))

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
                    case "error":
                        self.refusal = f"{message['code']}: {message['message']}"
                        note(self.refusal)
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


def retry_after(headers):
    """Seconds that the server orders to wait: `Retry-After` has a number of them, or a date."""
    value = headers.get("Retry-After", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (email.utils.parsedate_to_datetime(value) - datetime.datetime.now(datetime.timezone.utc)).total_seconds()
        except (TypeError, ValueError):
            return 0
    return min(max(0, seconds), RETRY_AFTER_MAX_S)


def address(text):
    """`ws://HOST:PORT/ws`, also from what lacks the path, or is the address of the same node over HTTP."""
    parts = urllib.parse.urlsplit(text)
    scheme = {"ws": "ws", "http": "ws", "wss": "wss", "https": "wss"}.get(parts.scheme)
    if scheme is None or not parts.netloc:
        raise argparse.ArgumentTypeError(f"`{text}` is no address of an edge: it looks like ws://HOST:PORT")
    path = re.sub(r"/(ws(/clients)?|sse)?/?$", "", parts.path) + "/ws"
    return urllib.parse.urlunsplit((scheme, parts.netloc, path, "", ""))


def filter_text(text):
    if not text:
        raise argparse.ArgumentTypeError("an empty filter is none: leave it out for everything")
    return text


def main():
    parser = argparse.ArgumentParser(description="Prints live metrics of a Telecast cluster as JSON lines.")
    parser.add_argument("urls", nargs="+", type=address, metavar="ws://HOST:PORT", help="edges, tried in turn")
    parser.add_argument("--filter", action="append", default=[], type=filter_text, help="such as *.cpu; may be repeated")
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
