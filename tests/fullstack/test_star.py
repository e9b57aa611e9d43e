# SPDX-License-Identifier: Apache-2.0
"""A star: subnodes have one tunnel, to the hub, which forwards from one to another. Rows M1, M2, M10 of its checklist, over
VXLAN, and over GRE or IPv6 with FIPLANE_TUNNEL."""

from __future__ import annotations

import ipaddress
import json
import random

import pytest
import yaml
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from conftest import ROOT
from expect import Handled, handled
from frames import assert_tunnelled, ends, is_tunnelled, match_inner, outer
from lab import wait_for
from matrix import ping

TOPOLOGY = ROOT / "examples" / "devstack-star-vxlan.yaml"
NETWORK, HUB, SPOKES = "public", "primary", ("subnode1", "subnode2")
TRANSPORTS = {
    "udp": lambda: UDP(sport=40001, dport=7),
    "tcp": lambda: TCP(sport=random.randrange(30000, 60000), dport=7, flags="A", seq=1, ack=1),
    "icmp": lambda: ICMP(type=8, id=random.randrange(1, 65535), seq=1),
}


def bridge_ports(node, bridge: str = "br-ex") -> set[str]:
    return {row["ifname"] for row in json.loads(node.run(["ip", "-j", "link", "show", "master", bridge]).stdout)}


def address(lab, node: str) -> str:
    return lab.topology.nodes[node].addresses[NETWORK].split("/")[0]


def tunnel_device(lab, spoke: str) -> str:
    return lab.topology.networks[NETWORK].encapsulation.prefix + {"subnode1": "1000002", "subnode2": "1000003"}[spoke]


def numbers(node, device: str) -> set[int]:
    """The VNI of a tunnel device, or its keys, there and back."""
    data = node.links()[device]["linkinfo"]["info_data"]
    return {data["id"]} if "id" in data else {int(ipaddress.IPv4Address(data[key])) for key in ("ikey", "okey")}


def test_M1_M2_one_port_for_each_spoke(lab):
    """One tunnel for each subnode, with a number of its own that both ends are named after; at the subnodes no other."""
    devices = {spoke: tunnel_device(lab, spoke) for spoke in SPOKES}
    fg = {node: f"tap{lab.topology.gateway_port(node, NETWORK).id}"[:14] for node in lab.nodes}
    assert bridge_ports(lab.nodes[HUB]) == {*devices.values(), fg[HUB]}
    for spoke in SPOKES:
        assert bridge_ports(lab.nodes[spoke]) == {devices[spoke], fg[spoke]}
        for end in (spoke, HUB):
            assert numbers(lab.nodes[end], devices[spoke]) == {int(devices[spoke].split("-")[1])}


@pytest.mark.parametrize("source", [HUB, *SPOKES])
def test_M2_every_node_reaches_every_other(warm, source):
    for target in warm.nodes:
        if target != source:
            assert ping(warm, source, address(warm, target), 3) is not None, f"{source} -> {target}"


@pytest.mark.parametrize("protocol", TRANSPORTS)
def test_M2_from_spoke_to_spoke_by_the_hub(warm, taps, protocol):
    """The same frame in both tunnels, sent on by the hub; the subnodes exchange nothing directly."""
    here, there = (warm.nodes[name] for name in SPOKES)
    tag = random.randbytes(8).hex().encode()
    frame = (
        Ether(src=here.node.macs[NETWORK], dst=there.node.macs[NETWORK])
        / IP(src=address(warm, SPOKES[0]), dst=address(warm, SPOKES[1]), id=random.randrange(1, 65535))
        / TRANSPORTS[protocol]()
        / Raw(tag)
    )
    host, first, second = taps.host(here.name, "br-ex"), taps.wire(here.name), taps.wire(there.name)
    ours = match_inner(lambda packet: tag in bytes(packet) and packet[IP].dst == address(warm, SPOKES[1]))
    with handled(warm, {here.name: Handled("l2_forward"), HUB: Handled("l2_forward"), there.name: Handled("l2_to_host")}):
        host.send(frame)
        legs = [first.one(ours, "frame to the hub"), second.one(ours, "frame from the hub")]
    assert [outer(Ether(leg)).src for leg in legs] == [here.node.underlay_address, warm.nodes[HUB].node.underlay_address]
    for leg in legs:
        assert_tunnelled("in the star", leg, here, there, NETWORK, frame)
    vteps = {here.node.underlay_address, there.node.underlay_address}
    for wire in (first, second):
        wire.none(lambda packet: set(ends(packet) or ()) == vteps, "packet past the hub", 0.1)


def test_no_loop(warm, taps):
    """What a spoke floods reaches the other one once, and never comes back."""
    tag = "172.24.5.199"  # nobody's
    here, there = (warm.nodes[name] for name in SPOKES)
    mac = here.node.macs[NETWORK]
    host, wires = taps.host(here.name, "br-ex"), {name: taps.wire(name) for name in SPOKES}
    host.send(Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / ARP(op=1, hwsrc=mac, psrc=address(warm, here.name), pdst=tag))
    ours = match_inner(lambda packet: ARP in packet and packet[ARP].pdst == tag)
    senders = {name: [outer(Ether(raw)).src for raw in wire.frames(ours, 5, 0.5)] for name, wire in wires.items()}
    assert senders == {here.name: [here.node.underlay_address], there.name: [warm.nodes[HUB].node.underlay_address]}


def test_the_hub_relays_in_xdp(warm):
    """Wire to wire: on the hub a spoke's packets for the other one never become an skb. With `auto`, too: that is the
    place for XDP."""
    if not warm.fast_path:
        return
    modes = {row["hook"]: row["mode"] for row in warm.nodes[HUB].status()["devices"] if row["device"] == "eth0"}
    assert modes["xdp_underlay"] == "xdp native", modes

    def relayed() -> int:
        rows = warm.nodes[HUB].status()["counters"]
        return sum(row["packets"] for row in rows if (row["hook"], row["reason"]) == ("xdp_underlay", "l2_forward"))

    before = relayed()
    assert ping(warm, SPOKES[0], address(warm, SPOKES[1]), 10) is not None
    assert relayed() - before >= 20


def test_M10_a_node_that_goes_takes_its_tunnel_along(warm, taps):
    """The hub's port for a node that left the topology goes; the others' traffic does not notice."""
    original = warm.topology_file.read_text()

    def without_subnode2(text: str) -> str:
        cloud = yaml.safe_load(text)
        cloud["nodes"] = [node for node in cloud["nodes"] if node["name"] != "subnode2"]
        gone = {port["name"] for port in cloud["ports"] if port["node"] == "subnode2"}
        cloud["ports"] = [port for port in cloud["ports"] if port["name"] not in gone]
        cloud["floating_ips"] = [fip for fip in cloud["floating_ips"] if fip["port"] not in gone]
        return yaml.safe_dump(cloud)

    wire, (stays, goes) = taps.wire("subnode1"), (tunnel_device(warm, spoke) for spoke in SPOKES)
    assert {stays, goes} <= bridge_ports(warm.nodes[HUB])
    try:
        warm.reload(without_subnode2, [HUB, "subnode1"])
        wait_for("the hub's port to go", lambda: goes not in bridge_ports(warm.nodes[HUB]))
        assert stays in bridge_ports(warm.nodes[HUB])
        assert ping(warm, HUB, "172.24.4.2", 3) is not None
        assert wire.frames(is_tunnelled, 6, 1.0)
    finally:
        warm.reload(lambda _: original)
        warm.wait_until_ready()
    wait_for("the way to subnode2", lambda: ping(warm, "subnode1", address(warm, "subnode2"), 1) is not None)
