"""What proxies do not let through: what is for operators, and more than one address's share. nginx, HAProxy and Envoy themselves."""

import contextlib
import json
import re
import socket
import unittest

from proxies import handshake, start_envoy, start_haproxy, start_nginx
from support import FOR_ALL, Stage, documents, paths, read

REFUSED = sorted(paths("operator") - FOR_ALL)
# Words that are in what operators are told, and nowhere else.
TOLD = (b"# TYPE ", b'"collectors"', b'"state"', b"admin.token")


def tricks(path):
    """Other ways to write a path, by which a proxy and a node may come to different opinions."""
    inner = path[1:]
    head, _, tail = inner.rpartition("/")
    encoded = f"%{ord(inner[0]):02x}{inner[1:]}"
    yield from (f"//{inner}", f"/./{inner}", f"/x/../{inner}", f"/{encoded}", f"/%2F{inner}", f"/%2e/{inner}", f"/.%2e/{inner}")
    yield from (f"/ws/../{inner}", f"/ws%2f..%2f{inner}", f"/ws/..;/{inner}", f"/{inner}/", f"/{inner}/.", f"/{inner}//", f"/{inner}/x/..")
    yield from (f"/{inner.upper()}", f"/{inner.capitalize()}", f"/{inner};a=b", f"/{inner}?a=b", f"/{inner}%3fa", f"/{inner}%20", f"/{inner}%00")
    yield from (f"\\{inner}", f"/\\{inner}", f"/%5c{inner}", f"{inner}", f"http://HOST/{inner}", f"http://HOST//{inner}")
    yield from (f"/{inner.replace('e', '%65')}", f"/{inner.replace('e', '%2565')}", f"/livez/../{inner}", f"/{inner}#")
    if head:
        yield from (f"/{head}%2F{tail}", f"/{head}//{tail}", f"/{head}/./{tail}", f"/{head}/x/../{tail}", f"/{head}\\{tail}")


def ask(address, target, method="GET", headers=(), source="127.0.0.1"):
    """Status and body of an answer to exactly this request target; 0 where the connection ends without one."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {address}", "Content-Length: 0", "Connection: close", *headers, "", ""]
    answer = b""
    with (
        contextlib.suppress(ConnectionError),
        socket.create_connection(address.split(":"), timeout=20, source_address=(source, 0)) as peer,
    ):
        peer.sendall("\r\n".join(lines).encode())
        # Envoy closes a second later than it answers.
        while not whole(answer) and (part := peer.recv(65536)):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]) if head else 0, body


def whole(answer):
    """Whether an answer says how long it is, and is as long."""
    head, _, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)^content-length: *(\d+)", head, re.M)
    return bool(length) and len(body) >= int(length[1])


class Refusing:
    """What holds for every proxy."""

    # What is said of a path that is for operators: Traefik has no words of its own for it.
    WORDS = b"this path is for operators"
    STATUS = 403

    def nodes(self):
        """An ingest and an edge whose operators' paths are all on the public port."""
        nats = self.one_nats()
        environment = {"TELECAST__ADMIN__TOKEN": "an-operators-token-of-some-length"}
        ingest, edge = (self.node(role, nats, environment) for role in ("ingest", "edge"))
        self.ready(ingest, edge)
        return ingest[1], edge[1]

    def limited(self, edits=()):
        """Nodes, and the proxy before them with other limits."""
        ingest, edge = self.nodes()
        return ingest, edge, type(self).start_proxy(self, [edge], [ingest], edits=edits)

    def test_operators_paths_do_not_pass_however_they_are_written(self):
        ingest, edge, proxy = self.limited()
        for node, public in ((edge, proxy.clients), (ingest, proxy.collectors)):
            for path in REFUSED:
                # Asked itself, a node answers: these would show if they came through.
                self.assertTrue(any(word in ask(node, path)[1] for word in TOLD), path)
                status, body = ask(public, path)
                self.assertEqual(status, self.STATUS, path)
                self.assertIn(self.WORDS, body, path)
                for target in (trick.replace("HOST", public) for trick in tricks(path)):
                    status, body = ask(public, target)
                    self.assertIn(status, (0, 307, 400, 403, 404), f"{target}: {body}")
                    self.assertFalse([word for word in TOLD if word in body], f"{target}: {body}")
            for headers in (["X-Original-URL: /metrics", "X-Rewrite-URL: /metrics"], ["X-Forwarded-Prefix: /metrics"]):
                self.assertFalse([word for word in TOLD if word in ask(public, "/livez", headers=headers)[1]])
            status, body = ask(public, "/admin/log-level", "PUT", ["Authorization: Bearer an-operators-token-of-some-length"])
            self.assertEqual((status, self.WORDS in body), (self.STATUS, True))
            _, head, _ = handshake(public, "/metrics")
            self.assertIn(b" %d " % self.STATUS, head.split(b"\r\n")[0])

    def test_behind_another_request_or_a_refused_upgrade_they_do_not_pass_either(self):
        """A proxy that takes an upgrade for granted passes on what comes next as it is: a tunnel to the node."""
        _, _, proxy = self.limited()
        head = f"Host: {proxy.clients}\r\n"
        upgrade = f"{head}Connection: Upgrade\r\nUpgrade: %s\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n%s\r\n"
        for first in (
            f"GET /livez HTTP/1.1\r\n{head}\r\n",
            f"GET /ws HTTP/1.1\r\n{upgrade % ('websocket', 'Sec-WebSocket-Version: 777')}\r\n",
            f"GET /nothing HTTP/1.1\r\n{upgrade % ('websocket', 'Sec-WebSocket-Version: 13')}\r\n",
            f"GET /livez HTTP/1.1\r\n{upgrade % ('h2c', 'HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA')}\r\n",
        ):
            with socket.create_connection(proxy.clients.split(":"), timeout=20) as peer:
                peer.sendall(first.encode())
                seen = peer.recv(65536)
                self.assertNotIn(b" 101 ", seen.split(b"\r\n")[0], first)
                # Envoy answers nothing more on such a connection.
                peer.settimeout(1)
                answer = b""
                with contextlib.suppress(ConnectionError, TimeoutError):
                    peer.sendall(f"GET /metrics HTTP/1.1\r\n{head}Connection: close\r\n\r\n".encode())
                    while not whole(answer) and (part := peer.recv(65536)):
                        answer += part
                self.assertFalse([word for word in TOLD if word in answer], f"{first}: {answer}")

    def test_what_anybody_may_ask_passes(self):
        _, _, proxy = self.limited()
        for public in (proxy.clients, proxy.collectors):
            for path in sorted(FOR_ALL):
                self.assertEqual(ask(public, path)[0], 200, path)
            # A wrong path gets a node's own directions.
            status, body = ask(public, "/Livez")
            self.assertEqual((status, b"did you mean /livez?" in body), (404, True), body)
        self.assertEqual(ask(proxy.clients, "/api/metrics/latest")[0], 200)
        self.assertEqual(ask(proxy.collectors, "/ping")[0], 204)

    def test_one_address_has_no_more_requests_than_its_share(self):
        _, _, proxy = self.limited(self.RATES)
        for public in (proxy.clients, proxy.collectors):
            statuses = [ask(public, "/livez", source="127.0.0.7")[0] for _ in range(8)]
            self.assertIn(200, statuses[:2])
            self.assertIn(self.TOO_OFTEN, statuses)
            self.assertEqual(ask(public, "/livez", source="127.0.0.8")[0], 200)


class Sharing:
    """What holds for proxies that count the connections of an address."""

    def test_one_address_has_no_more_connections_than_its_share(self):
        _, _, proxy = self.limited(self.CONNECTIONS)
        with contextlib.ExitStack() as open_ones:
            for _ in range(3):
                peer, head, _ = handshake(proxy.clients, source="127.0.0.7")
                open_ones.callback(peer.close)
                self.assertIn(b" 101 ", head.split(b"\r\n")[0])
            peer, head, _ = handshake(proxy.clients, source="127.0.0.7")
            open_ones.callback(peer.close)
            self.assertIn(b" 429 ", head.split(b"\r\n")[0])
            peer, head, _ = handshake(proxy.clients, source="127.0.0.8")
            open_ones.callback(peer.close)
            self.assertIn(b" 101 ", head.split(b"\r\n")[0])


class Nginx(Refusing, Sharing, Stage):
    start_proxy = staticmethod(start_nginx)
    TOO_OFTEN = 429
    CONNECTIONS = [("limit_conn connections 2500", "limit_conn connections 3")]
    RATES = [
        ("rate=(500|2000)r/s", "rate=1r/m"),
        ("burst=(2500|10000) nodelay", "burst=2 nodelay"),
    ]


class Haproxy(Refusing, Sharing, Stage):
    start_proxy = staticmethod(start_haproxy)
    # It ends connections that come too fast: nothing has been read of them.
    TOO_OFTEN = 0
    CONNECTIONS = [("sc0_conn_cur gt 2500", "sc0_conn_cur gt 3")]
    RATES = [("sc0_conn_rate gt 500", "sc0_conn_rate gt 3"), (r"conn_rate\(1s\)", "conn_rate(60s)")]

    def test_one_address_has_no_more_writes_on_a_connection_than_its_share(self):
        edits = [("sc0_http_req_rate gt 2000", "sc0_http_req_rate gt 3"), (r"http_req_rate\(1s\)", "http_req_rate(60s)")]
        _, _, proxy = self.limited(edits)
        statuses = [ask(proxy.collectors, "/ping", source="127.0.0.7")[0] for _ in range(6)]
        self.assertEqual((statuses[0], statuses[-1]), (204, 429))


class Envoy(Refusing, Stage):
    start_proxy = staticmethod(start_envoy)
    TOO_OFTEN = 429
    RATES = [
        ("max_tokens: 2500, tokens_per_fill: 500, fill_interval: 1s", "max_tokens: 2, tokens_per_fill: 1, fill_interval: 60s"),
        ("max_tokens: 10000, tokens_per_fill: 2000, fill_interval: 1s", "max_tokens: 2, tokens_per_fill: 1, fill_interval: 60s"),
    ]

    def test_all_addresses_together_have_no_more_connections_than_its_descriptors(self):
        edits = [("max_active_downstream_connections: 20000", "max_active_downstream_connections: 3")]
        _, _, proxy = self.limited(edits)
        with contextlib.ExitStack() as open_ones:
            for number in range(3):
                peer, head, _ = handshake(proxy.clients, source=f"127.0.0.{7 + number}")
                open_ones.callback(peer.close)
                self.assertIn(b" 101 ", head.split(b"\r\n")[0])
            self.assertEqual(ask(proxy.clients, "/livez", source="127.0.0.10")[0], 0)
            self.assertEqual(ask(proxy.collectors, "/livez", source="127.0.0.11")[0], 0)

    def test_a_node_that_refuses_is_not_asked_again_and_its_peer_is(self):
        """Health checks are left aside: in the two seconds between them a node that fills up looks well."""
        nats = self.one_nats()
        ingest = self.node("ingest", nats)
        full, free = (self.node("edge", nats, {"WS_MAX_CONNECTIONS": number}) for number in ("1", "100"))
        self.ready(ingest, full, free)
        edits = [("interval: 2s", "interval: 600s")]
        proxy = start_envoy(self, [full[1], free[1]], [ingest[1]], edits=edits)
        with contextlib.ExitStack() as open_ones:
            for _ in range(30):
                peer, head, _ = handshake(proxy.clients)
                open_ones.callback(peer.close)
                self.assertIn(b" 101 ", head.split(b"\r\n")[0])


class EnvoysFile(unittest.TestCase):
    def test_no_cluster_has_the_default_bounds_of_a_website(self):
        (found,) = documents(read("deploy/proxy/envoy.yaml"))
        for cluster in found["static_resources"]["clusters"]:
            (threshold,) = cluster["circuit_breakers"]["thresholds"]
            for key in ("max_connections", "max_requests", "max_pending_requests", "max_retries"):
                self.assertGreaterEqual(threshold[key], 10_000, f"{cluster['name']}: {key}")
        for listener in found["static_resources"]["listeners"]:
            manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
            routes = manager["route_config"]["virtual_hosts"][0]["routes"]
            retries = [route["route"]["retry_policy"] for route in routes if "route" in route]
            self.assertEqual([policy["retriable_status_codes"] for policy in retries], [[503]], listener["name"])
            self.assertIn("previous_hosts", json.dumps(retries), listener["name"])


if __name__ == "__main__":
    unittest.main()
