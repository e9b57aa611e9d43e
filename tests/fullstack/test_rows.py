# SPDX-License-Identifier: Apache-2.0
"""Rows of the deployment's checklist that are about what stands on a node: M1, M8, M9, M10, D1, D2, D7."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
from pathlib import Path
from typing import Iterator

import pytest

from frames import ends, is_tunnelled
from lab import FALLBACK_DEVICES, LabNode, wait_for
from matrix import missing, ping, run_matrix
from outbound import tcp_source
from pings import send_pings

TOPOLOGY = Path(__file__).parent / "topologies" / "two-routers.yaml"
POOL = ipaddress.IPv4Network("169.254.64.0/18")
OUTSIDE = "203.0.113.9"


def addresses(node: LabNode, netns: str, device: str) -> list[str]:
    rows = json.loads(node.run_in(netns, f"ip -j -4 address show dev {device}"))
    return [f"{info['local']}/{info['prefixlen']}" for row in rows for info in row.get("addr_info", [])]


def devices(node: LabNode, netns: str) -> set[str]:
    return {row["ifname"] for row in json.loads(node.run_in(netns, "ip -j link"))} - FALLBACK_DEVICES


def external_id(lab) -> str:
    return lab.topology.networks["public"].id


def what_stands(node: LabNode) -> str:
    """Everything that fiplane may have made on a node, without counters and clocks."""
    text = everywhere(
        node,
        "ip -d link; ip -4 address; ip rule; ip -4 route show table all; ip neigh show nud permanent;"
        "bridge fdb show; nft -s list ruleset",
    )
    return re.sub(r"\b(\w*timer|valid_lft|preferred_lft)\s+\S+", "", text)


def addressing(node: LabNode) -> list[str]:
    """Who has which address, and where packets go: what must survive a reboot, whatever the devices' numbers are."""
    text = everywhere(node, "ip -4 -o address; ip rule; ip -4 route show table all; nft -s list ruleset")
    return sorted(re.sub(r"^\d+: (?=\w+-)", "", line).strip() for line in text.splitlines())


def everywhere(node: LabNode, script: str) -> str:
    """What a script prints on the node and in each of its namespaces."""
    inside = f"for ns in $(ls /run/netns); do echo == $ns; nsenter --net=/run/netns/$ns sh -c '{script}'; done"
    return node.run(["sh", "-c", f"{script}; {inside}"]).stdout


@contextlib.contextmanager
def restarted(node: LabNode) -> Iterator[None]:
    """Without an agent inside, with a new one afterwards, whatever happens."""
    node.stop_agent()
    try:
        yield
    finally:
        node.start_agent()
        wait_for(f"agent of {node.name}", node.agent_answers)


@pytest.mark.parametrize("name", ["primary", "subnode1"])
def test_D1_objects(lab, name):
    """One fip namespace for the external network, shared by both routers with one fpr- each; the even address of a /31
    on rfp-, the odd one on fpr-; Neutron's names."""
    node, topology = lab.nodes[name], lab.topology
    names = node.run(["ls", "/run/netns"]).stdout.split()
    fip_netns = f"fip-{external_id(lab)}"
    assert sorted(names) == sorted([fip_netns, *(router.namespace for router in topology.routers.values())])
    gateway = topology.gateway_port(name, "public")
    assert gateway.device == f"fg-{gateway.id}"[:14]
    routers = topology.routers.values()
    assert devices(node, fip_netns) == {"lo", gateway.device, *(router.fpr for router in routers)}
    assert addresses(node, fip_netns, gateway.device) == [f"{gateway.fixed_ip}/23"]
    pairs = set()
    for router in routers:
        (even,), (odd,) = addresses(node, router.namespace, router.rfp), addresses(node, fip_netns, router.fpr)
        low, high = ipaddress.IPv4Interface(even), ipaddress.IPv4Interface(odd)
        assert low.network == high.network and low.network.prefixlen == 31 and low.network.subnet_of(POOL)
        assert (low.ip, high.ip) == (low.network[0], low.network[1])
        pairs.add(low.network)
        interfaces = [port for port in topology.ports.values() if port.router == router.name
                      and port.owner.startswith("router_interface")]
        assert devices(node, router.namespace) == {"lo", router.rfp, *(port.device for port in interfaces)}
        for port in interfaces:
            assert port.device == f"qr-{port.id}"[:14]
            assert addresses(node, router.namespace, port.device) == [f"{port.fixed_ip}/{port.prefix_length}"]
    assert len(pairs) == 2
    for network in topology.networks.values():
        bridge = json.loads(node.run(["ip", "-j", "link", "show", network.bridge]).stdout)
        assert bridge[0]["operstate"] == "UP" and bridge[0]["mtu"] == network.encapsulation.mtu


def test_D1_M9_router_only_where_it_is_needed(lab):
    """A node without ports of a router's subnets and without floating IPs has no router and no fip namespace; the one with
    the SNAT ports has that namespace alone, with a leg in each network and Neutron's names."""
    node, topology = lab.nodes["subnode2"], lab.topology
    netns = topology.routers["router1"].snat_namespace
    assert node.run(["ls", "/run/netns"]).stdout.split() == [netns]
    legs = [topology.router_gateway("router1"), *(topology.snat_port("router1", name) for name in ("red", "blue"))]
    assert [port.device for port in legs] == [f"{kind}-{port.id}"[:14] for kind, port in zip(("qg", "sg", "sg"), legs)]
    assert devices(node, netns) == {"lo", *(port.device for port in legs)}
    for port in legs:
        assert addresses(node, netns, port.device) == [f"{port.fixed_ip}/{port.prefix_length}"]
    (default,) = json.loads(node.run_in(netns, "ip -j route show default"))
    assert (default["gateway"], default["dev"], default["protocol"]) == ("172.24.4.3", legs[0].device, "static")
    assert all(name.run(["ls", "/run/netns"]).stdout.find("snat-") < 0 for name in lab.nodes.values() if name is not node)


def test_D2_three_classes_three_tables(lab):
    """Three probes, three paths: east-west by main, no floating IP by the subnet's SNAT table, floating IP by 16."""
    node, topology = lab.nodes["primary"], lab.topology
    router = topology.routers["router1"]
    red, blue = topology.router_port("router1", "red"), topology.router_port("router1", "blue")

    def way(destination: str, source: str) -> dict:
        text = node.run_in(router.namespace, f"ip -j route get {destination} from {source} iif {red.device}")
        return json.loads(text)[0]

    east_west = way("10.2.0.21", "10.1.0.11")
    assert east_west["dev"] == blue.device and "gateway" not in east_west
    snat = way(OUTSIDE, "10.1.0.12")
    assert (snat["dev"], snat["gateway"]) == (red.device, "10.1.0.3")
    table = int(ipaddress.IPv4Address(red.fixed_ip))
    assert snat["table"] in (table, str(table))
    fip = way(OUTSIDE, "10.1.0.11")
    (fpr,) = addresses(node, f"fip-{external_id(lab)}", router.fpr)
    assert (fip["dev"], fip["gateway"], str(fip["table"])) == (router.rfp, fpr.split("/")[0], "16")
    rules = node.run_in(router.namespace, "ip rule")
    assert re.search(rf"^{table}:\s+from 10.1.0.1/24 lookup {table}$", rules, re.MULTILINE), rules
    priority = int(re.search(r"^(\d+):\s+from 10.1.0.11 lookup 16", rules, re.MULTILINE).group(1))
    assert 32768 <= priority <= 72767


@pytest.mark.parametrize("source,target,hops", [("red1", "10.1.0.21", 0), ("red1", "10.2.0.21", 1)])
def test_D2_east_west(warm, source, target, hops):
    """Inside a network and between networks of one router, across nodes."""
    sent = send_pings(warm.vms[source].run, target, 3)
    assert sent.complete and sent.ttls == {64 - hops}, sent.output


def test_M8_two_routers_reach_each_other(warm):
    """Every node and VM with a floating IP to every floating IP, also from one router to the other on one node."""
    cells = run_matrix(warm)
    assert not missing(cells), "\n".join(missing(cells))


def test_M8_nodes_talk_directly(warm, taps):
    """M8: what two subnodes have for each other does not pass the primary; the FIP answers from its own node."""
    elsewhere = taps.wire("primary")
    assert ping(warm, "subnode2", "172.24.5.41", 10) is not None
    seen = elsewhere.frames(lambda packet: packet.haslayer("ICMP"), 1, timeout=0.2)
    assert not seen, f"{len(seen)} packets passed the primary"
    neighbour = warm.nodes["subnode2"].run(["ip", "neigh", "show", "to", "172.24.5.41"]).stdout
    assert warm.topology.gateway_port("subnode1", "public").mac in neighbour


def test_M9_out_by_another_nodes_snat_namespace(warm):
    """M9: a VM without a floating IP, on a node without the snat namespace, reaches outside through that of another node."""
    red, gateway = warm.vms["red2"], warm.topology.router_gateway("router1")
    for target in ("subnode1", "primary", "subnode2"):
        address = warm.topology.nodes[target].addresses["public"].split("/")[0]
        assert ping(warm, "red2", address, 2) is not None
        assert tcp_source(red, warm.nodes[target], address) == gateway.fixed_ip
    green = warm.vms["green1"].port
    assert tcp_source(red, warm.vms["green1"], "172.24.5.31", green.fixed_ip) == gateway.fixed_ip


def test_M1_underlay_carries_tunnel_packets_only(warm, taps):
    """M1: nodes ping each other's underlay address; whatever the overlay does, there is UDP 4789 with a known VNI
    between nodes and nothing else but the nodes' own ARP or IPv6 neighbour discovery."""
    for peer in ("subnode1", "subnode2"):
        warm.nodes["primary"].run(["ping", "-n", "-c", "1", "-W", "2", warm.nodes[peer].node.underlay_address])
    wire = taps.wire("primary")
    run_matrix(warm, pings=2, with_ssh=False)
    known = set().union(*(network.tunnel_ids() for network in warm.topology.networks.values()))
    vteps = {node.underlay_address for node in warm.topology.nodes.values()}

    def foreign(packet) -> bool:
        if packet.type == 0x86DD and packet.nh in (0, 58):  # ICMPv6, some of it behind a hop-by-hop option
            return False
        if packet.haslayer("ARP") and not is_tunnelled(packet):
            return {packet["ARP"].psrc, packet["ARP"].pdst} - vteps != set()
        return not is_tunnelled(packet, known) or not set(ends(packet) or ("no IP",)) <= vteps

    assert len(wire.frames(is_tunnelled, 50, timeout=0.2)) == 50
    wire.none(foreign, "packet that is no tunnel packet of a known network", timeout=0.1)


def test_M10_second_run_changes_nothing(warm):
    """M10: plan finds nothing to do, apply does nothing."""
    for node in warm.nodes.values():
        before = what_stands(node)
        pid = node.agent.pid
        arguments = [warm.topology_file, "--node", node.name, "--state-dir", node.state_dir]
        plan = json.loads(node.fiplane("plan", *arguments, "-o", "json").stdout)
        assert plan["changes"] == [], plan
        with restarted(node):
            node.fiplane("apply", *arguments)
            assert what_stands(node) == before
        assert node.agent.pid != pid and node.status()["statistics"]["changes_applied"] == 0
        assert what_stands(node) == before


def test_D7_same_addresses_after_teardown(warm):
    """D7, the reboot: all objects are gone, the files stay; built again, the same /31 and the same priorities."""
    node = warm.nodes["primary"]
    before = addressing(node)
    with restarted(node):
        node.fiplane("teardown")
        assert node.run(["ls", "/run/netns"]).stdout.split() == []
        left = {row["ifname"] for row in json.loads(node.run(["ip", "-j", "link"]).stdout)}
        taps = {port.device for port in warm.topology.vm_ports() if port.node == node.name}
        assert left == {"lo", "eth0"} | taps
        assert "fiplane" not in node.run(["nft", "list", "ruleset"]).stdout
    warm.wait_until_ready()
    assert addressing(node) == before
    assert ping(warm, "subnode2", "172.24.5.11", 3) is not None


def test_M10_removed_node(warm):
    """M10: a node that leaves the topology is forgotten by the others: no tunnel end, no address of it is left."""
    gone = warm.nodes["subnode2"].node.underlay_address
    others = [warm.nodes[name] for name in ("primary", "subnode1")]
    for node in others:
        assert gone in node.run(["bridge", "fdb"]).stdout

    def without_node(text: str) -> str:
        lines = text.splitlines(keepends=True)
        first = next(i for i, line in enumerate(lines) if "name: subnode2" in line)
        kept = lines[:first] + lines[first + 3 :]
        start = next(i for i, line in enumerate(kept) if "snat-red" in line)
        return "".join(kept[:start] + kept[start + 2 :])

    warm.reload(without_node, ["primary", "subnode1"])
    for node in others:
        assert gone not in node.run(["bridge", "fdb"]).stdout
        assert gone not in node.run(["nft", "list", "ruleset"]).stdout
    assert ping(warm, "subnode1", "172.24.5.11", 3) is not None
