"""The peers: how each is started, fed and spoken to.

Every peer delivers the same messages to the same client, over WebSocket without TLS or compression, with Nagle's algorithm
off unless its label says otherwise. Each is configured for this one task as its documentation suggests.
"""

import json
import os
import shutil
import socket
from dataclasses import dataclass, field
from pathlib import Path

import setup
from processes import Failed, free_port

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "bench/peers"
BUILT = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "bench/target")) / "release"
TELECAST = Path(os.environ.get("TELECAST", Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/telecast"))
NATS_SERVER = Path(os.environ.get("NATS_SERVER", ROOT / ".tools/bin/nats-server"))
CLIENTS_MAX = 30_000
BACKLOG = 4_096


@dataclass(frozen=True)
class Case:
    """What is asked of a server."""

    clients: int
    messages_per_second: float
    bytes: int

    @property
    def idle(self):
        return self.messages_per_second == 0


@dataclass
class Running:
    """A server that is ready for clients."""

    process: object
    port: int
    path: str = "/"
    # More arguments of the client.
    client: list = field(default_factory=list)
    # Arguments of `publish`, which starts when all clients are there; a server that has none makes its own messages.
    publisher: list = field(default_factory=list)


@dataclass(frozen=True)
class Peer:
    name: str
    label: str
    start: object
    # What setup.py fetches for it.
    needs: str = ""
    # Its version: a command, a function or text.
    version: object = ""
    # How many messages go out together, or how long they wait for each other: those may be missing at the end of a window.
    coalesce: int = 1
    hold_ms: int = 0

    def waiting(self, case):
        """Messages that may be under way at the end of a window although nothing is late."""
        return max(self.coalesce - 1, case.messages_per_second * self.hold_ms / 1000)

    def missing(self):
        """Why it cannot run here, or nothing."""
        if self.needs:
            return setup.fetch([self.needs]).get(self.needs, "")
        return ""


def own_timer(binary, *options):
    """A server of ours that makes its own messages."""

    def start(stage, case):
        port = free_port()
        rate = ["--rate", case.messages_per_second, "--bytes", case.bytes, "--await-clients", case.clients]
        process = stage.server([BUILT / binary, "--listen", f"127.0.0.1:{port}", *rate, *options])
        stage.await_port(process, port)
        return Running(process, port)

    return start


def nats_server(stage, start, settings):
    port = free_port()
    configuration = stage.folder / "nats.conf"
    configuration.write_text(f"listen: 127.0.0.1:{port}\nmax_connections: {CLIENTS_MAX}\n{settings}")
    if not NATS_SERVER.exists():
        raise Failed(f"{NATS_SERVER} is missing: run `make tools`")
    process = start([NATS_SERVER, "-c", configuration])
    stage.await_port(process, port)
    return process, port


def edge(throttle_ms):
    """An edge of this project, which follows a NATS server on the other core. Its CPU includes following and encoding."""

    def start(stage, case):
        _, nats_port = nats_server(stage, stage.helper, f'jetstream {{ store_dir: "{stage.folder}/jetstream" }}\n')
        port = free_port()
        environment = {
            "TELECAST_CONFIG_DIR": str(stage.folder),
            "LOG_LEVEL": "warn",
            "LOG_FORMAT": "json",
            "TELECAST__EDGE__DRAIN_GRACE_MS": "0",
            "TELECAST__EDGE__DRAIN_WAVES_MS": "0",
            "TELECAST__EDGE__MAX_CONNECTIONS": str(CLIENTS_MAX),
            "TELECAST__EDGE__THROTTLE_MS": str(throttle_ms),
        }
        nats = f"nats://127.0.0.1:{nats_port}"
        command = [TELECAST, "edge", "--nats", nats, "--node", "bench", "--listen", f"127.0.0.1:{port}"]
        process = stage.server(command, environment=environment)
        stage.await_answer(process, f"http://127.0.0.1:{port}/readyz")
        # What ingest would publish: an envelope with its headers. The edge made the stream.
        to = ["nats", "--server", f"127.0.0.1:{nats_port}", "--subject", "telecast.in.0.bench.load", "--shape", "line"]
        return Running(process, port, "/ws", publisher=to)

    return start


def nats(stage, case):
    port = free_port()
    settings = f"websocket {{ listen: 127.0.0.1:{port}, no_tls: true }}\n"
    process, plain_port = nats_server(stage, stage.server, settings)
    stage.await_port(process, port)
    to = ["nats", "--server", f"127.0.0.1:{plain_port}", "--subject", "bench"]
    hello = r'binary:CONNECT {"verbose":false}\r\nSUB bench 1\r\n'
    return Running(process, port, "/", ["--hello", hello], to)


NGINX = """
{user}
daemon off;
worker_processes {workers};
worker_rlimit_nofile {descriptors};
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log warn;
load_module {root}/usr/lib/nginx/modules/ngx_nchan_module.so;
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    tcp_nodelay on;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    nchan_shared_memory_size 256M;
    server {{
        listen 127.0.0.1:{port} backlog={backlog};
        location /subscribe {{
            nchan_subscriber websocket;
            nchan_channel_id bench;
            nchan_subscriber_first_message newest;
        }}
        location /publish {{
            nchan_publisher websocket;
            nchan_channel_id bench;
            nchan_message_buffer_length 1000;
            nchan_message_timeout 10s;
        }}
    }}
}}
"""


def nginx_folder():
    """What to put before nginx's command. nchan wants to make a folder in /var/lib/nginx, whatever the configuration says: where
    nginx is not installed, it gets an empty /var/lib that only it sees."""
    if Path("/var/lib/nginx").exists():
        return []
    alone = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    return [*alone, "sh", "-c", 'mount -t tmpfs none /var/lib && mkdir /var/lib/nginx && exec "$@"', "nginx"]


def nchan(nagle):
    """nginx with nchan. Published to over WebSocket, which costs it less than a POST per message.

    Neither nginx nor nchan has a setting that turns Nagle's algorithm off here: `tcp_nodelay` reaches kept-alive and proxied
    connections only. Accepted sockets inherit it from the listening one, though, and nginx takes over a listening socket
    that it is given, as it does when its program is replaced.
    """

    def start(stage, case):
        root, port = setup.PEERS / "nchan", free_port()
        configuration = stage.folder / "nginx.conf"
        text = NGINX.format(
            user="user root;" if os.geteuid() == 0 else "",
            workers=len(stage.server_cores),
            descriptors=CLIENTS_MAX * 2,
            connections=CLIENTS_MAX,
            folder=stage.folder,
            root=root,
            port=port,
            backlog=BACKLOG,
        )
        configuration.write_text(text)
        command = [*nginx_folder(), root / "usr/sbin/nginx", "-p", stage.folder, "-c", configuration]
        if nagle:
            process = stage.server(command)
        else:
            with socket.socket() as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                listener.bind(("127.0.0.1", port))
                listener.listen(BACKLOG)
                given = listener.fileno()
                process = stage.server(command, environment={"NGINX": f"{given};"}, pass_fds=[given])
        # The port answers before nginx runs, if it was given the socket. Its workers are there when it has started.
        stage.await_file(process, stage.folder / "nginx.pid")
        stage.await_port(process, port)
        stage.await_children(process, len(stage.server_cores))
        to = ["websocket", "--server", f"127.0.0.1:{port}", "--path", "/publish"]
        return Running(process, port, "/subscribe", publisher=to)

    return start


def node(kind, path="/", client=()):
    def start(stage, case):
        port = free_port()
        program = shutil.which("node") or "node"
        rate = [case.messages_per_second, case.bytes, case.clients]
        command = [program, HERE / "servers/node.mjs", kind, "127.0.0.1", port, *rate]
        process = stage.server(command)
        stage.await_port(process, port)
        return Running(process, port, path, list(client))

    return start


def centrifugo(stage, case):
    """Its memory engine, JSON protocol. Published to over a client's WebSocket: no HTTP request per message."""
    port = free_port()
    configuration = stage.folder / "centrifugo.json"
    settings = {
        "client_insecure": True,
        "allowed_origins": ["*"],
        "client_channel_limit": 4,
        "log_level": "error",
        # Clients of the benchmark do not answer each ping; within a measurement it would send hardly one.
        "ping_interval": "3600s",
        "pong_timeout": "60s",
    }
    configuration.write_text(json.dumps(settings))
    command = [setup.PEERS / "bin/centrifugo", "-c", configuration, "--address", "127.0.0.1", "--port", port]
    process = stage.server(command)
    stage.await_port(process, port)
    path = "/connection/websocket"
    connect = r'text:{"id":1,"connect":{}}'
    template = r'text:{"id":2,"publish":{"channel":"bench","data":{}}}'
    to = ["websocket", "--server", f"127.0.0.1:{port}", "--path", path, "--hello", connect, "--template", template]
    subscribe = connect + r'\n{"id":2,"subscribe":{"channel":"bench"}}'
    return Running(process, port, path, ["--hello", subscribe, "--keepalive-seconds", 0], to)


MQTT_CONNECT = r"binary:\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00"
MQTT_SUBSCRIBE = r"binary:\x82\x0a\x00\x01\x00\x05bench\x00"


def mqtt_length(length):
    """The variable-length number of an MQTT packet, escaped."""
    escaped = ""
    while True:
        length, digit = divmod(length, 128)
        escaped += f"\\x{digit | (128 if length else 0):02x}"
        if not length:
            return escaped


def mosquitto(stage, case):
    """MQTT 3.1.1 with QoS 0."""
    root, port, plain_port = setup.PEERS / "mosquitto", free_port(), free_port()
    configuration = stage.folder / "mosquitto.conf"
    user = "user root\n" if os.geteuid() == 0 else ""
    configuration.write_text(
        f"{user}listener {port} 127.0.0.1\nprotocol websockets\n"
        # This version does not start without a plain listener.
        f"listener {plain_port} 127.0.0.1\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\nlog_type error\n"
    )
    libraries = ":".join(str(root / folder) for folder in ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"])
    command = [root / "usr/sbin/mosquitto", "-c", configuration]
    process = stage.server(command, environment={"LD_LIBRARY_PATH": libraries})
    stage.await_port(process, port)
    protocol = ["--header", "Sec-WebSocket-Protocol: mqtt"]
    template = rf"binary:\x30{mqtt_length(7 + case.bytes)}\x00\x05bench{{}}"
    to = ["websocket", "--server", f"127.0.0.1:{port}", *protocol, "--hello", MQTT_CONNECT, "--template", template]
    return Running(process, port, "/", [*protocol, "--hello", MQTT_CONNECT, "--hello", MQTT_SUBSCRIBE], to)


def debian(peer, packages):
    """Asks for a version once the packages are there."""
    return lambda: ", ".join(f"{package} {setup.debian_version(peer, package)}" for package in packages)


SOCKET_IO_PATH = "/socket.io/?EIO=4&transport=websocket"
# Of its own protocol: enter the namespace; I am still there.
SOCKET_IO_CLIENT = ["--hello", "text:40", "--keepalive", "text:3"]

FLOOR = "floor"
EDGE = "edge"

PEERS = [
    Peer(FLOOR, "floor: one thread, a plain write(2) per message and client", own_timer("floor")),
    Peer("floor-4", "floor, 4 messages in a write", own_timer("floor", "--coalesce", 4), coalesce=4),
    Peer("floor-16", "floor, 16 messages in a write", own_timer("floor", "--coalesce", 16), coalesce=16),
    Peer(EDGE, "**telecast edge**", edge(0), version=[TELECAST, "--version"]),
    Peer("edge-2ms", "**telecast edge**, `throttle_ms = 2`", edge(2), hold_ms=2),
    Peer("edge-10ms", "**telecast edge**, `throttle_ms = 10`", edge(10), hold_ms=10),
    Peer("nchan", "nginx + nchan, Nagle off", nchan(nagle=False), "nchan", debian("nchan", setup.NCHAN_PACKAGES)),
    Peer("nchan-nagle", "nginx + nchan as it comes (Nagle on)", nchan(nagle=True), "nchan"),
    Peer("fastwebsockets", "fastwebsockets, a task and a write per message and client", own_timer("fastwebsockets-per-message"), version="fastwebsockets 0.10"),
    Peer("axum", "axum + tokio broadcast in `select!`", own_timer("axum-broadcast"), version="axum 0.8"),
    Peer("ws-prepared", "node ws, a prepared frame", node("prepared"), "node", ["node", "--version"]),
    Peer("ws", "node ws, plain", node("plain"), "node", f"ws {setup.NODE_PACKAGES['ws']}"),
    Peer("socket.io", "socket.io", node("socket.io", SOCKET_IO_PATH, SOCKET_IO_CLIENT), "node", f"socket.io {setup.NODE_PACKAGES['socket.io']}"),
    Peer("mosquitto", "mosquitto over WebSocket", mosquitto, "mosquitto", debian("mosquitto", setup.MOSQUITTO_PACKAGES)),
    Peer("nats", "nats-server's own WebSocket", nats, version=[NATS_SERVER, "--version"]),
    Peer("centrifugo", "Centrifugo", centrifugo, "centrifugo", f"Centrifugo {setup.CENTRIFUGO_VERSION}"),
]
