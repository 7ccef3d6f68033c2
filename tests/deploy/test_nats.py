"""NATS servers as Kubernetes starts them: their rendered files and variables, as processes on loopback addresses."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import unittest
from pathlib import Path

from support import ROOT, Stage, eventually, free_port, get, nats_server
from test_kubernetes import ROLES, config_map, containers, environment, named, objects, pod

SECRETS = {"password": "pw-0f3c", "routes-password": "pw-9d1e", "token": "t"}
TLS = ("nats-tls",)
SERVERS = 3


def variables(container):
    """A container's environment as Kubernetes makes it of these secrets."""
    values = {}
    for item in container.get("env", []):
        key = item.get("valueFrom", {}).get("secretKeyRef", {}).get("key")
        text = SECRETS[key] if key else environment({"env": [item]})[item["name"]]
        # $(NAME) is what stands above.
        values[item["name"]] = re.sub(r"\$\((\w+)\)", lambda match: values.get(match[1], match[0]), text)
    return values


def certificates(folder, renewed=False):
    """The certificates that docs/kubernetes.md makes without cert-manager, by its own commands; all but the first renew the servers'."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/kubernetes.md").read_text(), re.S)
    (commands,) = [block for block in blocks if "openssl req" in block]
    folder.mkdir(exist_ok=True)
    if renewed:
        commands = commands[commands.index("openssl req -newkey") :]
    ended = subprocess.run(["sh", "-e", "-c", commands], cwd=folder, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return folder


def mounted(certificate_folder, place):
    """The secret as a volume of it looks: each file is a link through `..data`, which points elsewhere after a change."""
    version = place / f"..{len(list(place.glob('..*')))}"
    version.mkdir(parents=True)
    for name in ("tls.crt", "tls.key", "ca.crt"):
        shutil.copyfile(certificate_folder / name, version / name)
        with contextlib.suppress(FileExistsError):
            (place / name).symlink_to(f"..data/{name}")
    (place / "..data-new").symlink_to(version.name)
    (place / "..data-new").rename(place / "..data")
    return place


class Servers(Stage):
    def setUp(self):
        super().setUp()
        self.clients = [free_port() for _ in range(SERVERS)]
        self.routes = [free_port() for _ in range(SERVERS)]
        self.monitors = [free_port() for _ in range(SERVERS)]
        self.secret = self.folder / "nats-tls"
        # Where nodes have their metrics and probes, by role.
        self.private = {}

    def local(self, text):
        text = re.sub(r"nats-(\d)\.nats-headless:6222", lambda match: f"127.0.0.1:{self.routes[int(match[1])]}", text)
        return text.replace("/etc/nats-tls", str(self.secret))

    def server(self, number, found):
        """One server with the files and variables of these objects."""
        nats = named(found, "StatefulSet", "nats")
        folder = self.folder / f"nats-{number}-{len(self.processes)}"
        folder.mkdir()
        data = self.folder / f"data-{number}"
        data.mkdir(exist_ok=True)
        for name, text in config_map(found, nats, "config")["data"].items():
            own = self.local(text).replace("/data", str(data))
            own = own.replace("\nport: 4222\n", f'\nlisten: "127.0.0.1:{self.clients[number]}"\n')
            own = own.replace("\n  port: 6222\n", f'\n  listen: "127.0.0.1:{self.routes[number]}"\n')
            own = own.replace("\nhttp_port: 8222\n", f'\nhttp: "127.0.0.1:{self.monitors[number]}"\n')
            (folder / name).write_text(own)
        main = containers(nats)[0]
        values = {name: self.local(value) for name, value in variables(main).items()}
        command = [nats_server(), "--config", folder / "nats.conf"]
        return self.start(f"nats-{number}", command, {**values, "POD_NAME": f"nats-{number}"})

    def servers(self, found):
        started = [self.server(number, found) for number in range(SERVERS)]
        self.joined()
        return started

    def beside(self, number):
        """Names of the servers that have a route to this one."""
        answer = get(f"http://127.0.0.1:{self.monitors[number]}/routez")
        return {route["remote_name"] for route in json.loads(answer[1])["routes"]} if answer else set()

    def joined(self):
        """Waits until each server knows the others."""
        for number in range(SERVERS):
            others = {f"nats-{other}" for other in range(SERVERS) if other != number}
            eventually(f"routes of nats-{number}", lambda number=number, others=others: self.beside(number) == others)
            eventually(f"health of nats-{number}", lambda number=number: (self.healthy(number) or (0,))[0] == 200)

    def healthy(self, number):
        return get(f"http://127.0.0.1:{self.monitors[number]}/healthz")

    def stranger(self, login="", tls=""):
        """A server that knows the cluster's name and addresses, and this."""
        folder = self.folder / "stranger"
        folder.mkdir()
        routes = ", ".join(f'"nats://{login}127.0.0.1:{port}"' for port in self.routes)
        (folder / "nats.conf").write_text(
            f'server_name: stranger\nlisten: "127.0.0.1:{free_port()}"\n'
            f'cluster {{ name: telecast, listen: "127.0.0.1:{free_port()}", {tls} routes: [{routes}] }}\n'
        )
        return self.start("stranger", [nats_server(), "--config", folder / "nats.conf", "-D"])

    def nodes(self, found):
        """Ingest and edge with what their pods have, connected to all servers: addresses by role."""
        addresses = {}
        for role in ROLES:
            workload = named(found, "Deployment", role)
            values = {name: self.local(value) for name, value in variables(containers(workload)[0]).items()}
            folder = self.folder / role
            folder.mkdir()
            scheme = "tls" if values.get("TELECAST__NATS__URL", "").startswith("tls:") else "nats"
            servers = ",".join(f"{scheme}://127.0.0.1:{port}" for port in self.clients)
            for name, text in config_map(found, workload, "config")["data"].items():
                (folder / name).write_text(text.replace("nats://nats:4222", servers))
            if "TELECAST__NATS__URL" in values:
                self.assertEqual(values["TELECAST__NATS__URL"], "tls://nats:4222")
                values["TELECAST__NATS__URL"] = servers
            values["TELECAST_CONFIG_DIR"] = str(folder)
            self.private[role] = values["TELECAST__SERVER__METRICS_LISTEN"] = f"127.0.0.1:{free_port()}"
            node = self.node(role, "", values, name=f"{role}-0")
            self.ready(node)
            addresses[role] = node[1]
        return addresses


class Passwords(Servers):
    def test_two_nodes_relay_and_one_without_the_password_is_refused(self):
        found = objects("overlays/production")
        self.servers(found)
        nodes = self.nodes(found)
        for role in ROLES:
            main = containers(named(found, "Deployment", role))[0]
            for listener, probe in ((nodes[role], "readinessProbe"), (self.private[role], "livenessProbe")):
                self.assertEqual(get(f"http://{listener}{main[probe]['httpGet']['path']}")[0], 200, role)
            self.assertEqual(get(f"http://{self.private[role]}/metrics")[0], 200)
            self.assertEqual(get(f"http://{nodes[role]}/metrics")[0], 404, "metrics are on their own port only")
        self.load(nodes["edge"], nodes["ingest"], clients=5, seconds=1)
        stranger, address = self.node("edge", f"nats://127.0.0.1:{self.clients[0]}")
        eventually("a refusal", lambda: any("uthorization" in line for line in stranger.lines))
        self.assertEqual(get(f"http://{address}/readyz")[0], 503)


class Routes(Servers):
    def test_a_server_without_the_password_is_no_part_of_the_cluster(self):
        self.servers(objects("overlays/production"))
        stranger = self.stranger()
        eventually("a refusal", lambda: any("Authorization Violation" in line for line in stranger.lines))
        for number in range(SERVERS):
            self.assertNotIn("stranger", self.beside(number))

    def test_servers_stay_together_while_they_are_rolled_to_have_one(self):
        """From production's files of before, whose routes had none; the base's are alike in this."""
        before = self.servers(objects("base"))
        for number in reversed(range(SERVERS)):
            before[number].stop(signal.SIGKILL)
            self.server(number, objects("overlays/production"))
            self.joined()

    def test_servers_tell_clients_no_addresses_of_others(self):
        self.servers(objects("overlays/production"))
        with socket.create_connection(("127.0.0.1", self.clients[0])) as connection:
            told = json.loads(connection.recv(65536).decode().split("\r\n")[0].removeprefix("INFO "))
        self.assertNotIn("connect_urls", told)

    def test_no_secret_is_in_what_servers_log_or_show(self):
        started = self.servers(objects("overlays/production"))
        self.stranger()
        shown = [get(f"http://127.0.0.1:{self.monitors[0]}/{page}")[1] for page in ("varz", "routez", "connz")]
        text = "".join("".join(process.lines) for process in started) + "".join(shown)
        for secret in (SECRETS["password"], SECRETS["routes-password"]):
            self.assertNotIn(secret, text)


class Tls(Servers):
    def found(self):
        return objects("overlays/production", TLS)

    def setUp(self):
        super().setUp()
        mounted(certificates(self.folder / "made"), self.secret)

    def serial(self, number=0):
        """The number of the certificate that a server shows its clients."""
        trust = ssl.create_default_context(cafile=self.secret / "ca.crt")
        with socket.create_connection(("127.0.0.1", self.clients[number])) as plain:
            plain.recv(65536)
            with trust.wrap_socket(plain, server_hostname="nats") as secured:
                return secured.getpeercert()["serialNumber"]

    def test_nodes_relay_over_tls_and_refuse_another_authority(self):
        self.servers(self.found())
        nodes = self.nodes(self.found())
        self.load(nodes["edge"], nodes["ingest"], clients=5, seconds=1)
        others = certificates(self.folder / "others")
        values = {
            "TELECAST__NATS__USER": "telecast",
            "TELECAST__NATS__PASSWORD": SECRETS["password"],
            "SSL_CERT_FILE": str(others / "ca.crt"),
        }
        distrusting, address = self.node("edge", f"tls://127.0.0.1:{self.clients[0]}", values)
        eventually("a refusal", lambda: any("ertificate" in line for line in distrusting.lines))
        self.assertEqual(get(f"http://{address}/readyz")[0], 503)

    def test_a_route_with_the_password_and_a_certificate_of_another_authority_is_refused(self):
        started = self.servers(self.found())
        others = certificates(self.folder / "others")
        tls = f'tls {{ cert_file: "{others}/tls.crt", key_file: "{others}/tls.key", ca_file: "{self.secret}/ca.crt" }}\n'
        self.stranger(f"routes:{SECRETS['routes-password']}@", tls)
        eventually("a refusal", lambda: any("TLS route handshake error" in line for each in started for line in each.lines))
        for number in range(SERVERS):
            self.assertNotIn("stranger", self.beside(number))

    def test_a_renewed_certificate_is_shown_without_a_restart(self):
        """The container `reload` runs as it is written, but quicker; the server's processes and connections stay."""
        server, *_ = self.servers(self.found())
        nodes = self.nodes(self.found())
        nats = named(self.found(), "StatefulSet", "nats")
        self.assertTrue(pod(nats)["spec"]["shareProcessNamespace"])
        (reload,) = [each for each in containers(nats) if each["name"] == "reload"]
        (script,) = reload["args"]
        self.assertIn("sleep 10;", script)
        script = self.local(script).replace("sleep 10;", "sleep 0.1;").replace("/data", str(self.folder / "data-0"))
        tools = f"{Path(nats_server()).parent}:{os.environ['PATH']}"
        shell, *options = reload["command"]
        # -x tells each step.
        loop = self.start("reload", [shell, "-x", *options, script], {"PATH": tools})
        eventually("the loop", lambda: any("seen=" in line for line in loop.lines))
        before = self.serial()
        renewed = certificates(self.folder / "made", renewed=True)
        mounted(renewed, self.secret)
        eventually("another certificate", lambda: self.serial() != before)
        self.assertTrue(server.running())
        self.load(nodes["edge"], nodes["ingest"], clients=5, seconds=1)
        self.joined()

    def test_a_server_hands_over_before_it_goes(self):
        server, *_ = self.servers(self.found())
        nats = named(self.found(), "StatefulSet", "nats")
        command = containers(nats)[0]["lifecycle"]["preStop"]["exec"]["command"]
        own = [word.replace("/data", str(self.folder / "data-0")) for word in command]
        subprocess.run([nats_server(), *own[1:]], check=True, timeout=60)
        eventually("lame duck mode", lambda: any("lame duck mode" in line for line in server.lines))


if __name__ == "__main__":
    unittest.main()
