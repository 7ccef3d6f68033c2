"""Who may reach whom: the network policies of every base, judged as a network plugin does."""

import ipaddress
import unittest
from dataclasses import dataclass, field

from test_kubernetes import bases_and_everything, named, of_kind, pod, ports, selects


@dataclass(frozen=True)
class Peer:
    """A pod, or what has an address only."""

    name: str
    namespace: str = ""
    labels: dict = field(default_factory=dict)
    ports: dict = field(default_factory=dict)
    address: str = "10.0.0.9"


def named_by_kubernetes(namespace):
    return {"kubernetes.io/metadata.name": namespace}


def matches(peer, term, policy_namespace):
    """Whether one entry of `from` or `to` takes this peer."""
    if "ipBlock" in term:
        address = ipaddress.ip_address(peer.address)
        block = term["ipBlock"]
        inside = address in ipaddress.ip_network(block["cidr"])
        return not peer.namespace and inside and not any(address in ipaddress.ip_network(each) for each in block.get("except", []))
    if not peer.namespace:
        return False
    if "namespaceSelector" in term:
        if not selects(term["namespaceSelector"], named_by_kubernetes(peer.namespace)):
            return False
    elif peer.namespace != policy_namespace:
        return False
    return selects(term.get("podSelector", {}), peer.labels)


def opens(rule, peers, peer, port, protocol, target_ports, policy_namespace):
    """Whether one rule lets this through. `peers` is the name of its list; no list, or no ports, is any."""
    if peers in rule and not any(matches(peer, term, policy_namespace) for term in rule[peers]):
        return False
    return "ports" not in rule or any(
        each.get("protocol", "TCP") == protocol and target_ports.get(each["port"], each["port"]) == port for each in rule["ports"]
    )


def allowed(policies, source, target, port, protocol="TCP"):
    """Whether both sides let it through: who is selected by no policy of a direction is open in it."""
    for direction, peers, own, other in (("Egress", "to", source, target), ("Ingress", "from", target, source)):
        about = [
            item
            for item in policies
            if item["metadata"]["namespace"] == own.namespace
            and direction in item["spec"]["policyTypes"]
            and selects(item["spec"]["podSelector"], own.labels)
        ]
        rules = [(rule, item["metadata"]["namespace"]) for item in about for rule in item["spec"].get(direction.lower(), [])]
        if about and not any(
            opens(rule, peers, other, port, protocol, target.ports, namespace) for rule, namespace in rules
        ):
            return False
    return True


GATEWAY = Peer("a gateway", "envoy-gateway-system")
STRANGER = Peer("a pod of another namespace", "default")
NEIGHBOUR = Peer("another pod of ours", "telecast", {"app": "other"})
PROMETHEUS = Peer("Prometheus", "monitoring")
OPENSHIFT_PROMETHEUS = Peer("OpenShift's Prometheus", "openshift-user-workload-monitoring")
INTERNET = Peer("the internet", address="93.184.216.34")
API = Peer("Kubernetes", address="10.96.0.1")
SOLVER = Peer("cert-manager's solver", "telecast", {"acme.cert-manager.io/http01-solver": "true"})
# Where clusters have their DNS, and the port of the pod or program that answers.
DNS = [
    (Peer("CoreDNS", "kube-system", {"k8s-app": "kube-dns"}), 53),
    (Peer("Gardener's CoreDNS", "kube-system", {"k8s-app": "kube-dns"}), 8053),
    (Peer("OpenShift's DNS", "openshift-dns", {"dns.operator.openshift.io/daemonset-dns": "default"}), 5353),
    (Peer("NodeLocal DNSCache", address="169.254.20.10"), 53),
]


class Reach(unittest.TestCase):
    def each(self):
        """The policies of each rendering, and its pods by name."""
        for _, found in bases_and_everything():
            pods = {}
            for item in of_kind(found, "Deployment", "StatefulSet"):
                name = item["metadata"]["name"]
                pods[name] = Peer(name, "telecast", pod(item)["metadata"]["labels"], ports(item))
            self.assertLessEqual({"edge", "ingest", "nats"}, pods.keys())
            yield of_kind(found, "NetworkPolicy"), pods

    def only(self, policies, sources, allowed_names, target, port):
        """Of these sources, exactly the named ones reach the target's port."""
        got = {source.name for source in sources if source is not target and allowed(policies, source, target, port)}
        self.assertEqual(got, allowed_names & {source.name for source in sources}, f"who reaches {target.name}:{port}")

    def everybody(self, pods):
        return [*pods.values(), GATEWAY, STRANGER, NEIGHBOUR, PROMETHEUS, OPENSHIFT_PROMETHEUS, INTERNET, SOLVER]

    def test_clients_and_collectors_come_from_anywhere_outside(self):
        outside = {each.name for each in (GATEWAY, STRANGER, PROMETHEUS, OPENSHIFT_PROMETHEUS, INTERNET)}
        for policies, pods in self.each():
            for role in ("edge", "ingest"):
                self.only(policies, self.everybody(pods), outside, pods[role], pods[role].ports["http"])

    def test_only_prometheus_reads_metrics(self):
        for policies, pods in self.each():
            for name in ("edge", "ingest", "nats"):
                readers = {PROMETHEUS.name, OPENSHIFT_PROMETHEUS.name}
                self.only(policies, self.everybody(pods), readers, pods[name], pods[name].ports["metrics"])

    def test_nats_hears_nodes_the_operators_box_and_its_own_servers(self):
        for policies, pods in self.each():
            nats = pods["nats"]
            self.only(policies, self.everybody(pods), {"edge", "ingest", "nats-box"}, nats, nats.ports["client"])
            self.only(policies, self.everybody(pods), set(), nats, nats.ports["cluster"])
            self.assertTrue(allowed(policies, nats, nats, nats.ports["cluster"]))
            # Kubelets ask it, and no policy stands between them and the pods of their machine.
            self.only(policies, self.everybody(pods), set(), nats, nats.ports["monitor"])

    def test_every_pod_finds_the_dns_of_every_kind_of_cluster_and_no_other(self):
        for policies, pods in self.each():
            for source in pods.values():
                for server, port in DNS:
                    for protocol in ("UDP", "TCP"):
                        self.assertTrue(allowed(policies, source, server, port, protocol), f"{source.name} to {server.name}")
                self.assertFalse(allowed(policies, source, INTERNET, 53, "UDP"), source.name)

    def test_nothing_of_ours_reaches_the_internet_kubernetes_or_strangers(self):
        for policies, pods in self.each():
            for source in pods.values():
                for target in (INTERNET, API, STRANGER, NEIGHBOUR):
                    self.assertFalse(allowed(policies, source, target, 443), f"{source.name} to {target.name}")

    def test_an_authority_can_ask_cert_managers_solver_and_nothing_else_there(self):
        for policies, pods in self.each():
            for source in (GATEWAY, INTERNET):
                self.assertTrue(allowed(policies, source, SOLVER, 8089))
                self.assertFalse(allowed(policies, source, SOLVER, 80))
            self.assertFalse(allowed(policies, SOLVER, pods["nats"], 4222))


class Judge(unittest.TestCase):
    """The judge itself, on what Kubernetes' documentation says of policies."""

    def test_without_a_policy_everything_is_open_and_an_empty_one_closes(self):
        self.assertTrue(allowed([], STRANGER, NEIGHBOUR, 1))
        closed = {"metadata": {"namespace": "telecast"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}
        self.assertFalse(allowed([closed], STRANGER, NEIGHBOUR, 1))
        self.assertTrue(allowed([closed], NEIGHBOUR, STRANGER, 1))

    def test_a_pod_selector_alone_means_the_policys_own_namespace(self):
        rule = {"from": [{"podSelector": {}}]}
        policy = {
            "metadata": {"namespace": "telecast"},
            "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [rule]},
        }
        self.assertFalse(allowed([policy], STRANGER, NEIGHBOUR, 1))
        self.assertTrue(allowed([policy], SOLVER, NEIGHBOUR, 1))

    def test_policies_of_base_and_of_components_are_all_there(self):
        for _, found in bases_and_everything():
            for name in ("default-deny", "dns", "edge", "ingest", "nats", "metrics", "http01-solver"):
                named(found, "NetworkPolicy", name)


if __name__ == "__main__":
    unittest.main()
