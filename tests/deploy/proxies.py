"""How tests start proxies with the files in deploy/proxy, and how they talk through them."""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import threading
from types import SimpleNamespace

from support import TOOLS, documents, free_port, read, tool

# What old workers may take after a reload, instead of the minute in the files.
OLD_WORKERS_SECONDS = 1


def replace(text, pattern, replacement):
    """Every occurrence; there must be one, or the file has another form than these tests expect."""
    changed, count = re.subn(pattern, replacement, text)
    assert count, f"{pattern} is not in the file"
    return changed


def edited(text, edits):
    for pattern, replacement in edits:
        text = replace(text, pattern, replacement)
    return text


class Dns:
    """A name server for a test: names and their addresses may change at any time."""

    def __init__(self, stage, **names):
        self.names = names
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.socket.getsockname()[1]
        thread = threading.Thread(target=self.serve, daemon=True)
        thread.start()
        stage.addCleanup(self.socket.close)
        stage.addCleanup(thread.join)
        # Nothing asked: the end.
        stage.addCleanup(self.socket.sendto, b"", self.socket.getsockname())

    def serve(self):
        """Answers questions for A; for everything else there is nothing (RFC 1035 section 4)."""
        while True:
            query, client = self.socket.recvfrom(4096)
            if not query:
                return
            end = query.index(0, 12) + 5
            length = query[12]
            name, kind = query[13 : 13 + length].decode(), query[end - 4 : end - 2]
            found = self.names.get(name, []) if kind == b"\0\1" else []
            records = b"".join(
                b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + socket.inet_aton(address) for address in found
            )
            head = query[:2] + b"\x81\x80\0\1" + len(found).to_bytes(2, "big") + b"\0\0\0\0"
            self.socket.sendto(head + query[12:end] + records, client)


def start_nginx(stage, edges, ingests, command=("nginx",), dns=None, port=None, edits=()):
    """nginx with deploy/proxy/nginx.conf: ports become free ones, services addresses. With `dns` they stay names, whose nodes
    all have this port. `edits` are replacements beside."""
    proxy = SimpleNamespace(clients=f"127.0.0.1:{free_port()}", collectors=f"127.0.0.1:{free_port()}")
    file = stage.folder / "nginx.conf"

    def write(edges, ingests):
        text = read("deploy/proxy/nginx.conf")
        # Following DNS takes a newer nginx than Debian's.
        text = replace(text, r"resolver 127.0.0.11", f"resolver {dns.address}") if dns else replace(text, r"\n *resolver .*", "")
        for name, nodes in {"edge:3002": edges, "ingest:9090": ingests}.items():
            if dns:
                text = replace(text, f"server {name} ", f"server {name.split(':')[0]}:{port} ")
                continue
            (line,) = re.findall(rf"\n( *)server {name} resolve(.*);", text)
            servers = "".join(f"\n{line[0]}server {node}{line[1]};" for node in nodes)
            text = replace(text, rf"\n *server {name} resolve.*;", servers)
        text = replace(text, "listen 3002", f"listen {proxy.clients}")
        text = replace(text, "listen 9090", f"listen {proxy.collectors}")
        text = replace(text, "worker_shutdown_timeout 60s", f"worker_shutdown_timeout {OLD_WORKERS_SECONDS}s")
        text = replace(text, "/tmp/", f"{stage.folder}/nginx-")
        text = edited(text, edits)
        # One that was started by root would give its rights away, and could not write here.
        user = "user root;\n" if os.getuid() == 0 else ""
        file.write_text(user + text)

    write(edges, ingests)
    # The version that Compose runs, if it could be built here.
    built = sorted(TOOLS.glob("bin/nginx-*"))
    program = os.environ.get("NGINX") or (built[-1] if built else tool(command[0]))
    if dns:
        ended = subprocess.run([program, "-t", "-e", "stderr", "-c", file], capture_output=True, text=True, timeout=60)
        if 'invalid parameter "resolve"' in ended.stderr:
            stage.fail("this nginx is older than 1.27.3: scripts/setup-operations.py says why")
    process = stage.start("nginx", [program, "-e", "stderr", "-c", file, "-g", "daemon off;"])
    return answering(stage, proxy, process, write, (edges, ingests), signal.SIGHUP)


def start_haproxy(stage, edges, ingests, dns=None, port=None, edits=()):
    """HAProxy with deploy/proxy/haproxy.cfg, in the same way."""
    proxy = SimpleNamespace(clients=f"127.0.0.1:{free_port()}", collectors=f"127.0.0.1:{free_port()}")
    file = stage.folder / "haproxy.cfg"

    def write(edges, ingests):
        text = read("deploy/proxy/haproxy.cfg")
        if dns:
            text = replace(text, "127.0.0.11:53", dns.address)
            text = replace(text, r"(edge|ingest):(3002|9090) resolvers", rf"\1:{port} resolvers")
        for name, nodes in {} if dns else {"edge": edges, "ingest": ingests}.items():
            servers = "".join(f"\n  server {name}-{number} {node}" for number, node in enumerate(nodes))
            text = replace(text, rf"\n *server-template {name} .*", servers)
        text = text if dns else replace(text, r" init-addr none", "")
        text = replace(text, r"bind :3002", f"bind {proxy.clients}")
        text = replace(text, r"bind :9090", f"bind {proxy.collectors}")
        # Two descriptors for each: more than the tests' shell may have.
        text = replace(text, "maxconn 20000", "maxconn 200")
        text = replace(text, "hard-stop-after 60s", f"hard-stop-after {OLD_WORKERS_SECONDS}s")
        file.write_text(edited(text, edits))

    write(edges, ingests)
    process = stage.start("haproxy", [tool("haproxy"), "-W", "-f", file])
    return answering(stage, proxy, process, write, (edges, ingests), signal.SIGUSR2)


def start_envoy(stage, edges, ingests, dns=None, port=None, edits=()):
    """Envoy with deploy/proxy/envoy.yaml, in the same way. It reads its file once: a reload is a new process."""
    proxy = SimpleNamespace(clients=f"127.0.0.1:{free_port()}", collectors=f"127.0.0.1:{free_port()}")
    file = stage.folder / "envoy.yaml"

    def write(edges, ingests):
        (found,) = documents(edited(read("deploy/proxy/envoy.yaml"), edits))
        for listener, address in zip(found["static_resources"]["listeners"], (proxy.clients, proxy.collectors), strict=True):
            listener["address"] = socket_address(address)
        for cluster, nodes in zip(found["static_resources"]["clusters"], (edges, ingests), strict=True):
            if dns:
                cluster["dns_refresh_rate"] = "1s"
                (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
                endpoint["endpoint"]["address"]["socket_address"]["port_value"] = port
            else:
                # Names come one by one, and the first would get all clients; addresses of one name come together, as these do.
                cluster["type"] = "STATIC"
                endpoints = [{"endpoint": {"address": socket_address(node)}} for node in nodes]
                cluster["load_assignment"]["endpoints"][0]["lb_endpoints"] = endpoints
        if dns:
            found["typed_dns_resolver_config"] = {
                "name": "envoy.network.dns_resolver.cares",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
                    "resolvers": [socket_address(dns.address)],
                },
            }
        file.write_text(json.dumps(found))

    def start():
        command = [tool("envoy"), "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning", "-c", file]
        return stage.start("envoy", command)

    def reload(edges=edges, ingests=ingests):
        write(edges, ingests)
        proxy.process.stop()
        proxy.process = start()
        stage.answers(f"http://{proxy.clients}/livez", proxy.process)

    write(edges, ingests)
    answering(stage, proxy, start(), write, (edges, ingests), None)
    proxy.reload = reload
    return proxy


def socket_address(address):
    host, port = address.split(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def start_traefik(stage, edges, ingests, edits=()):
    """Traefik with deploy/proxy/traefik.yaml and its routes, in the same way. It watches its routes itself."""
    proxy = SimpleNamespace(clients=f"127.0.0.1:{free_port()}", collectors=f"127.0.0.1:{free_port()}")
    file, routes = stage.folder / "traefik.yaml", stage.folder / "traefik-routes.yaml"
    text = replace(read("deploy/proxy/traefik.yaml"), "/etc/telecast-proxy/traefik-routes.yaml", str(routes))
    text = replace(replace(text, '":3002"', f'"{proxy.clients}"'), '":9090"', f'"{proxy.collectors}"')
    file.write_text(replace(text, "graceTimeOut: 30s", f"graceTimeOut: {OLD_WORKERS_SECONDS}s"))

    def write(edges, ingests):
        (found,) = documents(edited(read("deploy/proxy/traefik-routes.yaml"), edits))
        for name, nodes in {"edge": edges, "ingest": ingests}.items():
            found["http"]["services"][name]["loadBalancer"]["servers"] = [{"url": f"http://{node}"} for node in nodes]
        # It reads as soon as something is written: a file of its own, then a rename.
        beside = stage.folder / "traefik-routes.new"
        beside.write_text(json.dumps(found))
        beside.rename(routes)

    write(edges, ingests)
    process = stage.start("traefik", [tool("traefik"), f"--configFile={file}"])
    return answering(stage, proxy, process, write, (edges, ingests), None)


def answering(stage, proxy, process, write, nodes, again):
    """The proxy, once nodes answer through it. It reads its file, which `write` writes, `again` when it gets that signal."""
    stage.answers(f"http://{proxy.clients}/livez", process)
    stage.answers(f"http://{proxy.collectors}/livez", process)

    def reload(edges=nodes[0], ingests=nodes[1]):
        write(edges, ingests)
        if again:
            process.send(again)

    proxy.process, proxy.reload = process, reload
    return proxy


def websocket(address, path="/ws", source="127.0.0.1"):
    """A socket after the handshake, and what came behind it already."""
    peer, head, behind = handshake(address, path, source)
    assert head.startswith(b"HTTP/1.1 101 "), head
    return peer, behind


def handshake(address, path="/ws", source="127.0.0.1"):
    """A socket, the head of the answer to its handshake, and what came behind it already."""
    peer = socket.create_connection(address.split(":"), timeout=30, source_address=(source, 0))
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [f"GET {path} HTTP/1.1", f"Host: {address}", "Connection: Upgrade", "Upgrade: websocket"]
    lines += ["Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}", "", ""]
    peer.sendall("\r\n".join(lines).encode())
    head = b""
    while b"\r\n\r\n" not in head:
        part = peer.recv(4096)
        assert part, head
        head += part
    return peer, *head.split(b"\r\n\r\n", 1)


def ping(peer):
    """A masked ping with an empty mask."""
    peer.sendall(b"\x89\x84" + bytes(4) + b"idle")
