"""The image and the Compose files: held to their schema, rendered by the reader Docker Compose is made with, and run as processes."""

import json
import re
import signal
import subprocess
import tomllib
import unittest
from functools import cache
from pathlib import Path

import yaml

from proxies import start_nginx
from support import (
    ROOT,
    SLOW,
    TOOLS,
    Stage,
    configuration,
    documents,
    drain_seconds,
    eventually,
    free_port,
    get,
    nats_server,
    paths,
    read,
    telecast,
    tool,
)

ONE, THREE = ("docker-compose.yml",), ("docker-compose.yml", "docker-compose.cluster.yml")
ROLES = ["ingest", "edge"]


@cache
def services(files):
    return rendered(files)["services"]


@cache
def rendered(files):
    """What Compose makes of the files: interpolated, merged, checked for consistency."""
    command = [tool("compose-spec"), "--format", "json", *(str(ROOT / file) for file in files)]
    ended = subprocess.run(command, cwd=ROOT, env={}, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def environment(service):
    found = service.get("environment", {})
    return dict(item.split("=", 1) for item in found) if isinstance(found, list) else dict(found)


def seconds(text):
    units = {"h": 3600, "m": 60, "s": 1}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([hms])", text))


def mounts(service):
    return [mount for mount in service.get("volumes", []) if mount["type"] == "bind"]


class Files(unittest.TestCase):
    def test_both_files_meet_the_compose_specification(self):
        import jsonschema

        (schema,) = TOOLS.glob("compose-spec-*.json")
        for file in THREE:
            jsonschema.validate(documents(read(file))[0], json.loads(schema.read_text()))

    def test_both_combinations_are_read_by_compose(self):
        self.assertIn("edge", services(ONE))
        self.assertIn("nats-3", services(THREE))

    def test_ports_are_those_that_people_know(self):
        published = {}
        for name, service in services(ONE).items():
            for port in service.get("ports", []):
                published[int(port["published"])] = (name, port["target"])
        self.assertEqual(
            published,
            {
                3004: ("proxy", 3002),
                9090: ("proxy", 9090),
                4222: ("nats", 4222),
                8222: ("nats", 8222),
                9091: ("prometheus", 9090),
                9093: ("alertmanager", 9093),
                3010: ("grafana", 3000),
            },
        )

    def test_an_image_that_is_built_here_is_not_asked_for_elsewhere(self):
        for name, service in services(THREE).items():
            self.assertEqual("build" in service, service.get("pull_policy") == "never", name)

    def test_edges_and_ingest_nodes_scale(self):
        for role in ROLES:
            self.assertNotIn("container_name", services(ONE)[role])
            self.assertNotIn("ports", services(ONE)[role])

    def test_every_service_is_bounded_checked_and_pinned(self):
        for name, service in services(THREE).items():
            self.assertTrue(service["deploy"]["resources"]["limits"]["memory"], name)
            self.assertRegex(service["image"], r":[^:]*\d", name)
            self.assertEqual(service["restart"], "unless-stopped", name)
            # One image has nothing to run a check with, the other nothing to check.
            if not name.startswith("nats-exporter") and name != "telegraf":
                self.assertIn("test", service["healthcheck"], name)
        limit = services(ONE)["edge"]["deploy"]["resources"]["limits"]["memory"]
        self.assertIn(str(limit), ("512M", str(512 * 2**20)))

    def test_what_is_mounted_exists_and_is_not_written_to(self):
        for name, service in services(THREE).items():
            for mount in mounts(service):
                self.assertTrue(Path(mount["source"]).exists(), f"{name}: {mount['source']}")
                self.assertTrue(mount.get("read_only"), f"{name}: {mount['source']}")

    def test_volumes_that_hold_data_have_names(self):
        self.assertEqual(
            rendered(ONE)["volumes"].keys(), {"nats-data", "prometheus-data", "alertmanager-data", "grafana-data"}
        )
        # A server that was alone must not bring its store into a cluster.
        used = [
            mount["source"]
            for name in ("nats", "nats-2", "nats-3")
            for mount in services(THREE)[name]["volumes"]
            if mount["target"] == "/data"
        ]
        self.assertEqual(used, ["nats-data-1", "nats-data-2", "nats-data-3"])

    def test_every_variable_is_a_key_and_stopping_waits_for_the_drain(self):
        for files in (ONE, THREE):
            for role in ROLES:
                service = services(files)[role]
                self.assertEqual(service["command"], [role])
                effective = configuration(role, environment(service), ROOT / "config")
                self.assertGreater(seconds(service["stop_grace_period"]), drain_seconds(effective, role))
                hosts = re.findall(r"//([^:]+):4222", environment(service)["NATS_URL"])
                self.assertLessEqual(set(hosts), services(files).keys())
                self.assertEqual(len(hosts), effective["log"]["replicas"])
                listens = [effective["server"][key].split(":")[-1] for key in ("listen", "metrics_listen")]
                self.assertEqual(service["expose"], listens)

    def test_prometheus_scrapes_services_at_ports_that_they_have(self):
        answering = {name: [name] for name in services(THREE)}
        for name, service in services(THREE).items():
            for alias in ((service.get("networks") or {}).get("default") or {}).get("aliases", []):
                answering[alias].append(name)
        scraped = set()
        for job in documents(read("prometheus.yml"))[0]["scrape_configs"]:
            for found in job.get("dns_sd_configs", []):
                for name in [each for asked in found["names"] for each in answering[asked]]:
                    service = services(THREE)[name]
                    served = [*service.get("expose", []), *(str(port["target"]) for port in service.get("ports", []))]
                    self.assertIn(str(found["port"]), served)
                    scraped.add(name)
        self.assertLessEqual({*ROLES, "nats-exporter", "nats-exporter-2", "nats-exporter-3"}, scraped)
        self.assertIn("/metrics", paths("operator"))
        places = {mount["target"]: mount["source"] for mount in mounts(services(ONE)["prometheus"])}
        for pattern in documents(read("prometheus.yml"))[0].get("rule_files", []):
            folder, _, files = pattern.rpartition("/")
            self.assertTrue(list(Path(places[folder]).glob(files)), pattern)
        command = [tool("promtool"), "check", "config", ROOT / "prometheus.yml"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
        self.assertEqual(ended.returncode, 0, ended.stdout + ended.stderr)

    def test_the_proxy_knows_services_by_name(self):
        text = read("deploy/proxy/nginx.conf")
        named = dict(re.findall(r"server (\w+):(\d+) resolve", text))
        self.assertEqual({name: services(ONE)[name]["expose"][0] for name in ROLES}, named)
        listens = {int(port) for port in re.findall(r"listen (\d+)", text)}
        self.assertEqual(listens, {port["target"] for port in services(ONE)["proxy"]["ports"]})

    def test_all_yaml_is_tidy(self):
        folders = [ROOT / folder for folder in ("k8s", "deploy", "grafana", "alertmanager")]
        files = [*ROOT.glob("*.yml"), *(file for folder in folders for file in folder.rglob("*.y*ml"))]
        # Templates of a chart are YAML only once they are rendered.
        files = [file for file in files if "templates" not in file.parts]
        rules = {
            # Templates of alerts cannot be broken.
            "line-length": {"max": 200},
            "document-start": "disable",
            "comments": {"min-spaces-from-content": 1},
            "truthy": {"check-keys": False},
        }
        command = [tool("yamllint"), "--strict", "-d", yaml.safe_dump({"extends": "default", "rules": rules}), *files]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
        self.assertEqual(ended.returncode, 0, ended.stdout + ended.stderr)


class Image(unittest.TestCase):
    def test_hadolint_finds_nothing(self):
        ended = subprocess.run([tool("hadolint"), ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60)
        self.assertEqual((ended.returncode, ended.stdout), (0, ""))

    def test_it_is_built_from_files_that_the_context_has(self):
        ignored = read(".dockerignore").splitlines()
        allowed = {line[1:] for line in ignored if line.startswith("!")}
        self.assertIn("*", ignored)
        copied = set()
        for line in re.findall(r"^COPY (?!--from)(.*)$", read("Dockerfile"), re.M):
            copied |= set(line.split()[:-1])
        self.assertEqual(copied, allowed)
        for source in copied:
            self.assertTrue((ROOT / source).exists(), source)

    def test_what_the_program_includes_is_in_the_context(self):
        for file in (ROOT / "src").rglob("*.rs"):
            for included in re.findall(r'include_(?:str|bytes)!\(\s*"([^"]+)"', file.read_text()):
                path = (file.parent / included).resolve().relative_to(ROOT)
                self.assertIn(path.parts[0], ("src", "config"), f"{file}: {included}: copy it in the Dockerfile")

    def test_its_rust_is_not_too_old_and_its_ports_are_the_programs(self):
        text = read("Dockerfile")
        wanted = re.search(r'rust-version = "([\d.]+)"', read("Cargo.toml"))[1]
        self.assertRegex(text, rf"FROM rust:{re.escape(wanted)}[-.]")
        exposed = re.search(r"^EXPOSE (.*)$", text, re.M)[1].split()
        listens = {configuration(role, {})["server"]["listen"].split(":")[1] for role in ("standalone", *ROLES)}
        self.assertEqual(set(exposed), listens)
        # It is linked with the C library of the last stage.
        self.assertIn("slim-trixie", text)
        self.assertIn("debian13", text)

    def test_its_labels_are_those_of_oci_and_say_what_it_was_built_from(self):
        labels = dict(re.findall(r'org\.opencontainers\.image\.([a-z.]+)="([^"]*)"', read("Dockerfile")))
        wanted = {"title", "description", "licenses", "url", "source", "documentation", "vendor", "version", "revision", "created"}
        self.assertLessEqual(wanted, labels.keys())
        package = tomllib.loads(read("Cargo.toml"))["package"]
        self.assertEqual((labels["licenses"], labels["source"]), (package["license"], package["repository"]))
        base = re.findall(r"^FROM (\S+)", read("Dockerfile"), re.M)[-1]
        self.assertEqual(labels["base.name"], base.partition("@")[0])

    def test_the_program_needs_no_library_that_the_last_stage_has_not(self):
        ended = subprocess.run(["ldd", telecast()], capture_output=True, text=True, timeout=60)
        if "not a dynamic executable" in ended.stdout + ended.stderr:
            return
        self.assertEqual(ended.returncode, 0, ended.stderr)
        needed = set(re.findall(r"^\s*(?:\S*/)?([\w+-]+)\.so", ended.stdout, re.M))
        has = {"linux-vdso", "libc", "libm", "libgcc_s", "libdl", "libpthread", "librt", "ld-linux-x86-64", "ld-linux-aarch64"}
        self.assertLessEqual(needed, has)

    def test_its_user_is_a_number_and_its_commands_are_the_programs(self):
        text = read("Dockerfile")
        self.assertRegex(text, r"(?m)^USER [1-9]\d*:[1-9]\d*$")
        verbs = [json.loads(words.replace('"telecast", ', "")) for words in re.findall(r"CMD (\[.*\])$", text, re.M)]
        self.assertEqual(verbs, [["status"], ["standalone"]])
        for (verb,) in verbs:
            ended = subprocess.run([telecast(), verb, "--help"], capture_output=True, timeout=60)
            self.assertEqual(ended.returncode, 0, verb)


class Running(Stage):
    """The same commands, variables and files that Compose would use, as processes: names and ports become loopback addresses."""

    def setUp(self):
        super().setUp()
        self.addresses = {}

    def address(self, name, port):
        return self.addresses.setdefault((name, port), f"127.0.0.1:{free_port()}")

    def on_loopback(self, text):
        """NATS servers' names and ports become addresses."""
        return re.sub(r"\b(nats(?:-\d)?):(\d+)", lambda found: self.address(found[1], int(found[2])), text)

    def nats(self, name, service):
        """A server with the command and configuration of its service."""
        (mount,) = [mount for mount in mounts(service) if mount["target"] == "/etc/nats"]
        program, *arguments, file = service["command"]
        self.assertEqual(program, "nats-server")
        text = self.on_loopback(Path(file.replace(mount["target"], mount["source"])).read_text())
        for key, listen, port in (("port", "listen", 4222), ("http_port", "http", 8222), ("  port", "  listen", 6222)):
            text = text.replace(f"\n{key}: {port}\n", f'\n{listen}: "{self.address(name, port)}"\n')
        own = self.folder / f"{name}.conf"
        own.write_text(text.replace("/data/", f"{self.folder}/{name}/"))
        return self.start(name, [nats_server(), *arguments, own], environment(service))

    def telecast(self, role, service, name):
        """A node with the command and variables of its service, and the files of the image."""
        variables = {key: self.on_loopback(value) for key, value in environment(service).items()}
        variables["TELECAST_CONFIG_DIR"] = str(ROOT / "config")
        variables["TELECAST__NODE__ID"] = name
        address = self.address(name, 0)
        variables["TELECAST__SERVER__LISTEN"] = address
        variables["METRICS_PORT"] = self.address(name, int(variables["METRICS_PORT"]))
        process = self.start(name, [telecast(), *service["command"]], variables)
        return process, address, variables

    def check(self, service, variables):
        """The health check of a service, as an engine runs it: exit code and output."""
        kind, program, *arguments = service["healthcheck"]["test"]
        self.assertEqual((kind, program), ("CMD", "telecast"))
        ended = subprocess.run([telecast(), *arguments], env=variables, capture_output=True, text=True, timeout=60)
        return ended.returncode, ended.stdout

    def healthy(self, name, service):
        """Waits for a server as its health check does."""
        url = service["healthcheck"]["test"][-1].replace("127.0.0.1:8222", self.address(name, 8222))
        eventually(f"the health of {name}", lambda: (get(url) or [0])[0] == 200)

    def test_compose_up_relays_and_its_health_checks_tell_the_truth(self):
        found = services(ONE)
        nats = self.nats("nats", found["nats"])
        self.healthy("nats", found["nats"])
        ingest = self.telecast("ingest", found["ingest"], "ingest-1")
        self.assertEqual(found["edge"]["deploy"]["replicas"], 2)
        edges = [self.telecast("edge", found["edge"], f"edge-{number}") for number in (1, 2)]
        for process, address, _ in (ingest, *edges):
            self.answers(f"http://{address}/readyz", process)
        proxy = start_nginx(self, [edge[1] for edge in edges], [ingest[1]], found["proxy"]["command"])
        report = self.load(proxy.clients, proxy.collectors)
        self.assertEqual(report["clients"]["connected"], 20, report)
        for name, node in {"ingest": ingest, "edge": edges[0]}.items():
            code, line = self.check(found[name], node[2])
            self.assertEqual(code, 0, line)
            self.assertRegex(line, f"^(healthy|degraded): {name} {name}-1 is running, ")
        nats.stop(signal.SIGKILL)

        def failed():
            code, line = self.check(found["edge"], edges[0][2])
            return line if code == 1 else None

        self.assertIn("NATS is not connected", eventually("a health check that fails", failed))
        for process, _, _ in (ingest, *edges):
            process.send(signal.SIGTERM)
        for process, _, _ in (ingest, *edges):
            self.assertEqual(process.ended(), 0, process.name)
        self.assertIn("no node answers", failed())

    def test_what_is_for_operators_is_on_no_published_port(self):
        found = services(ONE)
        nats = self.nats("nats", found["nats"])
        self.healthy("nats", found["nats"])
        self.assertTrue(nats.running())
        nodes = {role: self.telecast(role, found[role], f"{role}-1") for role in ROLES}
        for process, address, _ in nodes.values():
            self.answers(f"http://{address}/readyz", process)
        proxy = start_nginx(self, [nodes["edge"][1]], [nodes["ingest"][1]], found["proxy"]["command"])
        for public, (_, address, variables) in ((proxy.clients, nodes["edge"]), (proxy.collectors, nodes["ingest"])):
            self.assertEqual(get(f"http://{public}/metrics")[0], 403)
            # Nor behind the proxy's back, where it would not look for it.
            self.assertEqual(get(f"http://{address}/metrics")[0], 404)
            self.assertIn("# TYPE ws_", get(f"http://{variables['METRICS_PORT']}/metrics")[1])

    def test_three_servers_lose_one_and_nobody_loses_a_message(self):
        found = services(THREE)
        servers = {name: self.nats(name, found[name]) for name in ("nats", "nats-2", "nats-3")}
        for name in servers:
            self.healthy(name, found[name])
        ingest, edge = (self.telecast(role, found[role], f"{role}-1") for role in ROLES)
        for process, address, _ in (ingest, edge):
            self.answers(f"http://{address}/readyz", process)
        monitor = f"http://{self.address('nats', 8222)}/jsz?accounts=true&streams=true&config=true"
        accounts = json.loads(get(monitor)[1])["account_details"]
        streams = {stream["name"]: stream for account in accounts for stream in account["stream_detail"]}
        replicas = {name: stream["config"]["num_replicas"] for name, stream in streams.items()}
        self.assertEqual(replicas, {"telecast-0": 3, "KV_telecast-state": 3})
        # An election of the log's leader takes 7 to 9 s, in which nothing is stored and nothing lost.
        leader = streams["telecast-0"]["cluster"]["leader"]
        victim = leader if SLOW else min(servers.keys() - {leader})

        def lose_one(_load):
            eventually("clients", lambda: '"clients":20' in get(f"http://{edge[1]}/api/health")[1])
            servers[victim].stop(signal.SIGKILL)

        # Longer than the log may be without a leader: a server that goes costs up to nine seconds.
        self.load(edge[1], ingest[1], seconds=30 if SLOW else 14, meanwhile=lose_one)


if __name__ == "__main__":
    unittest.main()
