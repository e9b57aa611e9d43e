# SPDX-License-Identifier: Apache-2.0
"""Guests that no topology lists, on the external bridges of two nodes. A tunnel of the operator's own joins the bridges:
the bridges learn who is behind it, and the fast path follows them."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Callable

import pytest
from scapy.layers.l2 import ARP, Ether

from bridges import wait_until_forwarding
from conftest import ROOT
from lab import Lab, LabNode, wait_for
from maps import TOLD, fdb_outs, has_way
from measure import counts
from namespaces import Namespace
from pings import send_pings
from timing import scaled

# A star, whose hub is dead: between the subnodes there is no tunnel of fiplane's, which together with the operator's
# would be a loop.
TOPOLOGY = ROOT / "examples" / "devstack-star-vxlan.yaml"
HUB, HERE, THERE = "primary", "subnode1", "subnode2"
BRIDGE, TUNNEL, VNI = "br-ex", "guests0", 77


def mtu_of(node: LabNode) -> int:
    return node.lab.topology.networks["public"].encapsulation.mtu


@dataclass
class Guest:
    name: str
    node: LabNode
    address: str
    mac: str
    namespace: Namespace

    @property
    def port(self) -> str:
        return f"gst-{self.name}"

    def plug(self, node: LabNode) -> None:
        self.node = node
        node.run(
            f"ip link add {self.port} type veth peer name eth0 netns {self.namespace.pid}\n"
            f"echo 1 > /proc/sys/net/ipv6/conf/{self.port}/disable_ipv6; ip link set {self.port} master {BRIDGE} up"
        )
        self.namespace.run(
            f"echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; ip link set eth0 address {self.mac} mtu {mtu_of(self.node)} up\n"
            f"ip address add {self.address}/23 dev eth0"
        )
        wait_until_forwarding(node, self.port, self.namespace)

    def unplug(self) -> None:
        self.node.run(["ip", "link", "del", self.port])

    def announce(self) -> None:
        """As hypervisors do for a guest that has moved: one frame that says where it is now."""
        frame = Ether(src=self.mac, dst="ff:ff:ff:ff:ff:ff") / ARP(op=1, hwsrc=self.mac, psrc=self.address, pdst=self.address)
        with self.namespace.packet_socket("eth0") as wire:
            wire.send(bytes(frame))

    def ping(self, address: str, number: int, interval: float = 0.003, patience: float = 1) -> int:
        """How many of them were answered. `patience`: in seconds, scaled."""
        return len(send_pings(self.namespace.run, address, number, interval=interval, patience=patience).answers)


def port_of(node: LabNode, mac: str) -> str | None:
    """Where the bridge of a node has a MAC."""
    rows = json.loads(node.run(["bridge", "-j", "fdb", "show", "br", BRIDGE]).stdout)
    return next((row["ifname"] for row in rows if row["mac"] == mac and "vlan" not in row), None)


def join(node: LabNode, peer: LabNode) -> None:
    # As fiplane's own devices have it: devices that differ in what they accept cannot share a port.
    checksums = "noudpcsum" if node.lab.topology.underlay_version == 4 else "udp6zerocsumtx udp6zerocsumrx"
    node.run(
        f"ip link add {TUNNEL} type vxlan id {VNI} local {node.node.underlay_address} remote {peer.node.underlay_address}"
        f" dev {node.node.underlay_device} dstport {node.lab.topology.vxlan_port} nolearning {checksums}\n"
        f"echo 1 > /proc/sys/net/ipv6/conf/{TUNNEL}/disable_ipv6; ip link set {TUNNEL} master {BRIDGE} up"
        f" mtu {mtu_of(node)}"
    )


def wait_until_placed(lab: Lab, *guests: Guest, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Until both bridges have these guests where they are, and the fast path sends there what is for them. `meanwhile` comes
    before each look."""
    def is_at(node: LabNode, guest: Guest) -> bool:
        meanwhile()
        port = guest.port if guest.node is node else TUNNEL
        if port_of(node, guest.mac) != port:
            return False
        out = fdb_outs(node).get(guest.mac, {"kind": "FL_OUT_NONE"}) if lab.fast_path else None
        return out is None or (out["kind"] != "FL_OUT_NONE" and out["port"] == node.links()[port]["ifindex"])

    for node in (lab.nodes[HERE], lab.nodes[THERE]):
        for guest in guests:
            what = f"{guest.name} where it is, on {node.name}"
            wait_for(what, lambda node=node, guest=guest: is_at(node, guest), TOLD)


@pytest.fixture(scope="module")
def guests(lab: Lab):
    """a and c on one subnode, b on the other."""
    here, there = lab.nodes[HERE], lab.nodes[THERE]
    lab.nodes[HUB].run(["ip", "link", "set", lab.nodes[HUB].node.underlay_device, "down"])
    join(here, there)
    join(there, here)
    made = {}
    for number, (name, node) in enumerate({"a": here, "b": there, "c": here}.items()):
        namespace = Namespace(lab.state, f"guest-{name}")
        namespace.wait_until_up()
        made[name] = Guest(name, node, f"172.24.4.{77 + number}", f"0a:00:00:00:00:{number + 1:02x}", namespace)
        made[name].plug(node)
    wait_for("the guests to reach each other", lambda: made["a"].ping(made["b"].address, 1) == 1)
    assert made["c"].ping(made["b"].address, 3, patience=5) == 3
    assert made["c"].ping(made["a"].address, 3, patience=5) == 3
    wait_until_placed(lab, *made.values())
    return made


class Carried:
    """At least 99 % of what the nodes' programs see meanwhile is handled in BPF; with the fast path off, they see
    nothing."""

    def __init__(self, lab: Lab, nodes: tuple[str, ...], packets: int):
        self.lab, self.nodes, self.packets = lab, nodes, packets

    def __enter__(self) -> None:
        self.before = {name: counts(self.lab.nodes[name].status()) for name in self.nodes}

    def __exit__(self, kind, value, traceback) -> None:
        if kind is not None:
            return
        for name in self.nodes:
            spent = counts(self.lab.nodes[name].status()) - self.before[name]
            print(f"{name}: {spent}")
            if self.lab.fast_path:
                assert spent.packets >= self.packets and spent.share >= 0.99, f"{name}: {spent}"
            else:
                assert spent.packets == 0, f"{name}: the fast path is off, but {spent}"


def test_guests_of_two_nodes_talk_in_bpf(lab, guests):
    a, b = guests["a"], guests["b"]
    with Carried(lab, (HERE, THERE), 1200):
        assert a.ping(b.address, 600) == 600
    assert port_of(a.node, a.mac) == a.port and port_of(a.node, b.mac) == TUNNEL
    assert port_of(b.node, b.mac) == b.port and port_of(b.node, a.mac) == TUNNEL


def test_guests_of_one_node_talk_in_bpf(lab, guests):
    with Carried(lab, (HERE,), 1200):
        assert guests["a"].ping(guests["c"].address, 600) == 600


def test_a_guest_reaches_a_floating_ip_in_bpf(lab, guests):
    """The way back ends at an address that the bridge has learned."""
    fip = next(fip for fip in lab.topology.floating_ips if lab.topology.node_of_fip(fip) == HERE)
    assert guests["a"].ping(fip, 5, interval=0.2, patience=5) == 5  # neighbours become known
    if lab.fast_path:
        wait_for("the way back", lambda: has_way(lab.nodes[HERE], fip, guests["a"].address), TOLD)
    with Carried(lab, (HERE,), 1200):
        assert guests["a"].ping(fip, 600) == 600


def test_entries_that_are_used_outlive_the_bridges_ageing(lab, guests, taps):
    """Neither table forgets who goes on sending, so nothing is flooded: a guest that is not meant sees none of it."""
    a, b, c = guests["a"], guests["b"], guests["c"]
    ageing = round(scaled(3))
    try:
        for guest in (a, b):
            guest.node.run(["ip", "link", "set", BRIDGE, "type", "bridge", "ageing_time", str(ageing * 100)])
        # What the bridges had not seen for longer than that is forgotten at once, and a moment later in BPF.
        time.sleep(scaled(1))
        assert a.ping(b.address, 3, patience=5) == 3
        wait_until_placed(lab, a, b, meanwhile=lambda: a.ping(b.address, 1))  # or they would be forgotten
        with c.namespace.packet_socket("eth0") as bystander:
            number = 4 * ageing * 20
            assert a.ping(b.address, number, interval=0.05) == number
            bystander.setblocking(False)
            seen = 0
            while True:
                try:
                    frame = bystander.recv(2000)
                except BlockingIOError:
                    break
                seen += frame[12:14] == b"\x08\x00"
        assert seen == 0
        # c has been silent for longer than that.
        assert port_of(c.node, c.mac) is None
        if lab.fast_path:
            assert c.mac not in fdb_outs(c.node)
            assert {a.mac, b.mac} <= fdb_outs(a.node).keys() & fdb_outs(b.node).keys()
            assert all(guest.node.status()["statistics"]["learned_refreshed"] > 0 for guest in (a, b))
    finally:
        for guest in (a, b):
            guest.node.run(["ip", "link", "set", BRIDGE, "type", "bridge", "ageing_time", "30000"])
    assert c.ping(a.address, 1, patience=5) == 1


def test_a_guest_moves_to_the_other_node(lab, guests):
    """Its first frame there is seen by both bridges; then it is reached in BPF, and stays where it is."""
    a, c = guests["a"], guests["c"]
    assert c.ping(a.address, 20) == 20
    here, there = lab.nodes[HERE], lab.nodes[THERE]
    a.unplug()
    a.plug(there)
    a.announce()
    wait_until_placed(lab, a)
    assert c.ping(a.address, 3, patience=5) == 3  # c is new there
    wait_until_placed(lab, a, c)
    with Carried(lab, (HERE, THERE), 1200):
        assert c.ping(a.address, 600) == 600
    assert port_of(here, a.mac) == TUNNEL and port_of(there, a.mac) == a.port
    a.unplug()
    a.plug(here)
    a.announce()
    wait_until_placed(lab, a)
    assert c.ping(a.address, 20) == 20
    assert port_of(here, a.mac) == a.port
