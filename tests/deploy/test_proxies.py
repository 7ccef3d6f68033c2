"""Proxies in front of nodes, with the files in deploy/proxy: WebSocket, streams, idle connections, reloads, nodes that go."""

import concurrent.futures
import json
import re
import signal
import socket
import subprocess
import time
import unittest

from proxies import OLD_WORKERS_SECONDS, Dns, handshake, ping, start_haproxy, start_nginx, websocket
from support import ROOT, SLOW, Stage, eventually, free_port, get, paths, read, tool

# How long a connection without a byte must live; proxies' usual time-out is 60 s.
IDLE_SECONDS = 70 if SLOW else 3


class Behind:
    """What holds behind every proxy. `start_proxy` starts one."""

    # By how many of 20 clients two edges may differ.
    UNEVEN = 0
    # Neither a heartbeat nor a ping for five minutes: idle is idle.
    SILENT = {"TELECAST__EDGE__HEARTBEAT_MS": "300000", "TELECAST__EDGE__SLOW_CLIENT__TIMEOUT_MS": "300000"}

    def cluster(self, edges=2, environment=None):
        nats = self.one_nats()
        ingest = self.node("ingest", nats)
        nodes = [self.node("edge", nats, environment) for _ in range(edges)]
        self.ready(ingest, *nodes)
        return nats, ingest, nodes

    def behind(self, ingest, edges):
        return type(self).start_proxy(self, [address for _, address in edges], [ingest[1]])

    def test_an_idle_connection_is_not_cut(self):
        _, ingest, edges = self.cluster(1, self.SILENT)
        proxy = self.behind(ingest, edges)
        peer, seen = websocket(proxy.clients, "/ws?filter=nobody.nothing")
        while b'"welcome"' not in seen:
            seen += peer.recv(4096)
        peer.settimeout(IDLE_SECONDS)
        with self.assertRaises(TimeoutError, msg="something came, or the connection was cut"):
            peer.recv(1)
        peer.settimeout(30)
        ping(peer)
        self.assertEqual(peer.recv(6), b"\x8a\x04idle")
        peer.close()

    def test_nodes_tell_the_clients_of_a_trusted_proxy_apart(self):
        limits = {
            "TELECAST__SERVER__CONNECTIONS_PER_ADDRESS_MAX": "1",
            "TELECAST__SERVER__TRUSTED_PROXIES": "127.0.0.1",
        }
        _, ingest, edges = self.cluster(1, limits)
        proxy = self.behind(ingest, edges)
        first, head, _ = handshake(proxy.clients, source="127.0.0.2")
        self.assertTrue(head.startswith(b"HTTP/1.1 101 "), head)
        again, head, _ = handshake(proxy.clients, source="127.0.0.2")
        self.assertTrue(head.startswith(b"HTTP/1.1 429 "), head)
        other, head, _ = handshake(proxy.clients, source="127.0.0.3")
        self.assertTrue(head.startswith(b"HTTP/1.1 101 "), head)
        for peer in (first, again, other):
            peer.close()

    def test_events_come_when_they_are_sent(self):
        _, ingest, edges = self.cluster(1, self.SILENT)
        proxy = self.behind(ingest, edges)
        peer = socket.create_connection(proxy.clients.split(":"), timeout=30)
        peer.sendall(f"GET /sse HTTP/1.1\r\nHost: {proxy.clients}\r\nAccept: text/event-stream\r\n\r\n".encode())
        seen = b""
        while b"welcome" not in seen:
            part = peer.recv(4096)
            self.assertTrue(part, seen)
            seen += part
        host, port = proxy.collectors.split(":")
        line = b"weather,host=balcony temperature=21.5"
        with socket.create_connection((host, port), timeout=30) as writer:
            head = f"POST /api/v1/write HTTP/1.1\r\nHost: {proxy.collectors}\r\nContent-Length: {len(line)}\r\n\r\n"
            writer.sendall(head.encode() + line)
            self.assertIn(b" 204 ", writer.recv(4096))
        sent = time.monotonic()
        while b"21.5" not in seen:
            part = peer.recv(4096)
            self.assertTrue(part, seen)
            seen += part
        self.assertLess(time.monotonic() - sent, 2, "an event waited in a buffer")
        peer.settimeout(IDLE_SECONDS)
        with self.assertRaises(TimeoutError, msg="something came, or the stream was cut"):
            peer.recv(1)
        peer.close()

    def test_a_reload_and_a_new_edge_cost_nobody_a_message(self):
        nats, ingest, edges = self.cluster(2)
        proxy = self.behind(ingest, edges)
        third = self.node("edge", nats)
        self.ready(third)

        def reload(load):
            self.connected(edges, 20)
            proxy.reload([address for _, address in (*edges, third)])
            # Old workers end their connections; clients come back, now to three edges.
            self.connected([third], 1)

        report = self.load(proxy.clients, proxy.collectors, seconds=4 + OLD_WORKERS_SECONDS, meanwhile=reload)
        self.assertGreater(report["clients"]["resumed"], 0, report)

    def test_clients_of_an_edge_that_drains_go_on_at_another(self):
        _, ingest, edges = self.cluster(2)
        proxy = self.behind(ingest, edges)

        def drain(load):
            self.connected(edges, 20)
            # The proxy has spread them evenly.
            self.assertLessEqual(abs(self.clients(edges[0]) - self.clients(edges[1])), self.UNEVEN)
            edges[0][0].send(signal.SIGTERM)

        report = self.load(proxy.clients, proxy.collectors, seconds=4, meanwhile=drain)
        self.assertGreaterEqual(report["clients"]["resumed"], 10 - self.UNEVEN, report)
        self.assertEqual(edges[0][0].ended(), 0)

    def test_a_new_edge_is_found_by_its_name(self):
        for host in ("127.0.0.2", "127.0.0.3", "127.0.0.4"):
            try:
                socket.create_server((host, 0)).close()
            except OSError as error:
                self.fail(f"{host} is no address of this machine ({error}): macOS: sudo ifconfig lo0 alias {host}")
        nats = self.one_nats()
        port = free_port()
        ingest = self.node("ingest", nats, host="127.0.0.2", port=port)
        first = self.node("edge", nats, host="127.0.0.3", port=port)
        self.ready(ingest, first)
        dns = Dns(self, ingest=["127.0.0.2"], edge=["127.0.0.3"])
        proxy = type(self).start_proxy(self, [], [], dns=dns, port=port)
        second = self.node("edge", nats, host="127.0.0.4", port=port)
        self.ready(second)

        def scale(load):
            self.connected([first], 20)
            dns.names["edge"] = ["127.0.0.3", "127.0.0.4"]
            # Without a reload, and without a word to the clients that are there.
            self.reached(proxy, second)

        report = self.load(proxy.clients, proxy.collectors, seconds=5, meanwhile=scale)
        self.assertEqual(report["clients"]["resumed"], 0, report)

    def reached(self, proxy, edge):
        """Connects until a client is at this edge."""
        peers = []
        eventually("a client of the new one", lambda: peers.append(websocket(proxy.clients)) or self.clients(edge))
        for peer, _ in peers:
            peer.close()

    def clients(self, edge):
        answer = get(f"http://{edge[1]}/api/health")
        return json.loads(answer[1])["clients"] if answer else 0

    def connected(self, edges, wanted):
        eventually(f"{wanted} clients", lambda: sum(map(self.clients, edges)) >= wanted)


class Nginx(Behind, Stage):
    start_proxy = staticmethod(start_nginx)

    def test_a_client_that_waits_for_an_edge_that_vanishes_gets_another(self):
        """A container that is gone answers nothing at all, and its name forgets it while a request still waits for it."""
        nats, port = self.one_nats(), free_port()
        ingest = self.node("ingest", nats, host="127.0.0.2", port=port)
        edge = self.node("edge", nats, host="127.0.0.3", port=port)
        self.ready(ingest, edge)
        dns = Dns(self, ingest=["127.0.0.2"], edge=["127.0.0.3"])
        proxy = start_nginx(self, [], [], dns=dns, port=port)
        # Its queue is full, so the kernel drops what comes.
        gone = socket.create_server(("127.0.0.4", port), backlog=0)
        self.addCleanup(gone.close)
        for _ in range(3):
            filler = socket.socket()
            self.addCleanup(filler.close)
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.4", port))

        def ask(_=None):
            begun = time.monotonic()
            answer = get(f"http://{proxy.clients}/livez")
            return (answer or [0])[0], time.monotonic() - begun

        dns.names["edge"] = ["127.0.0.3", "127.0.0.4"]
        eventually("a request that waits for the other", lambda: ask()[1] > 1)
        dns.names["edge"] = ["127.0.0.3"]
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(ask, range(6)))
        self.assertEqual({status for status, _ in answers}, {200}, answers)
        self.assertGreater(max(seconds for _, seconds in answers), 1, "none was sent to the edge that is gone")

    def test_edges_that_were_full_get_all_their_clients_back_at_once(self):
        """HAProxy asks them itself. nginx counted refusals, and then let one client in every five seconds."""
        _, ingest, edges = self.cluster(2, {"WS_MAX_CONNECTIONS": "4"})
        proxy = self.behind(ingest, edges)
        peers = [websocket(proxy.clients)[0] for _ in range(8)]
        for _ in range(4):
            with self.assertRaisesRegex(AssertionError, " 503 "):
                websocket(proxy.clients)
        for peer in peers:
            peer.close()
        eventually("the end of all clients", lambda: not any(map(self.clients, edges)))
        for peer in [websocket(proxy.clients)[0] for _ in range(8)]:
            peer.close()


class Haproxy(Behind, Stage):
    start_proxy = staticmethod(start_haproxy)

    def test_the_file_as_it_is_is_valid(self):
        ended = subprocess.run(
            [tool("haproxy"), "-c", "-f", ROOT / "deploy/proxy/haproxy.cfg"], capture_output=True, text=True, timeout=60
        )
        self.assertEqual(ended.returncode, 0, ended.stdout + ended.stderr)
        self.assertNotIn("WARNING", ended.stdout + ended.stderr)


class Samples(unittest.TestCase):
    """Proxies that are not at hand here: their files say the same things."""

    def test_no_sample_cuts_a_stream_or_takes_turns(self):
        for file, words in {
            "nginx.conf": ["proxy_read_timeout 3600s", "proxy_send_timeout 3600s", "least_conn", "proxy_buffering off"],
            "haproxy.cfg": ["timeout tunnel 3600s", "timeout server 3600s", "balance leastconn"],
            "envoy.yaml": ["stream_idle_timeout: 3600s", "timeout: 0s", "LEAST_REQUEST", "upgrade_type: websocket"],
            "traefik.yaml": ["idleTimeout: 3600s", "readTimeout: 0s"],
            "traefik-routes.yaml": ["strategy: p2c"],
        }.items():
            text = read(f"deploy/proxy/{file}")
            for word in words:
                self.assertIn(word, text, file)

    def test_every_sample_bounds_what_one_address_takes(self):
        for file, words in {
            "nginx.conf": ["limit_conn connections 2500", "limit_req zone=requests", "X-Forwarded-For", "keepalive_timeout 180s"],
            "haproxy.cfg": ["sc0_conn_cur gt 2500", "sc0_conn_rate gt 500", "option forwardfor", "http-keep-alive 180s"],
            "envoy.yaml": ["masked_remote_address", "use_remote_address: true"],
            "traefik-routes.yaml": ["inFlightReq:", "amount: 2500", "average: 500", "ipv6Subnet: 64"],
        }.items():
            text = read(f"deploy/proxy/{file}")
            for word in words:
                self.assertIn(word, text, file)

    def test_samples_ask_for_what_is_served_at_ports_that_are_served(self):
        for file in ("haproxy.cfg", "envoy.yaml", "traefik-routes.yaml"):
            text = read(f"deploy/proxy/{file}")
            asked = set(re.findall(r"(?:GET |path: )(/[a-z/]+)", text)) - {"/etc/"}
            self.assertEqual(asked, {"/readyz"}, file)
            self.assertLessEqual(asked, paths("operator"))


if __name__ == "__main__":
    unittest.main()
