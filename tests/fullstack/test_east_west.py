# SPDX-License-Identifier: Apache-2.0
"""Two tenant networks on one distributed router: routed at the sender's node, with and without a floating IP. Row D2 of the
checklist: what goes to the router's other networks takes neither the floating IP's way nor the gateway's."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from conftest import ROOT
from expect import Handled, carried_in_bpf, handled
from frames import assert_same, assert_tunnelled, is_tunnelled, match_inner, tunnel_of
from matrix import missing, ping, run_east_west, run_matrix

TOPOLOGY = ROOT / "examples" / "devstack-dvr-east-west.yaml"
TRANSPORTS = {
    "udp": lambda: UDP(sport=40001, dport=7),
    "tcp": lambda: TCP(sport=random.randrange(30000, 60000), dport=7, flags="A", seq=1, ack=1),
    "icmp": lambda: ICMP(type=8, id=random.randrange(1, 65535), seq=1),
}


def qr_mac(lab, network: str) -> str:
    return lab.topology.router_port("router1", network).mac


def test_everybody_reaches_everybody(warm):
    """Ping and ssh between all VMs by fixed IP, and to the floating IPs from wherever they can be reached; BPF carries it."""
    run_east_west(warm, pings=1, with_ssh=False)
    with carried_in_bpf(warm, packets=500):
        cells = [*run_east_west(warm), *run_matrix(warm)]
    assert not missing(cells), "\n".join(missing(cells))
    assert len(cells) == 6 * 5 + (3 + 2) * 2


@pytest.mark.parametrize("protocol", TRANSPORTS)
@pytest.mark.parametrize("sender,receiver", [("web3", "db2"), ("web1", "db2"), ("db2", "web3"), ("db3", "web1")])
def test_D2_routed_where_it_begins(warm, taps, sender, receiver, protocol):
    """One router: TTL 63, the sender's own address whether it has a floating IP or not, the MAC of the router's leg in the
    receiver's network. On the wire the packet is in that network's tunnel, from node to node directly, and in no other."""
    here, there = warm.vms[sender], warm.vms[receiver]
    tag = random.randbytes(8).hex().encode()
    number = random.randrange(1, 65535)

    def packet(ttl: int):
        return IP(src=here.port.fixed_ip, dst=there.port.fixed_ip, ttl=ttl, id=number) / transport / Raw(tag)

    transport = TRANSPORTS[protocol]()
    departure, wire, arrival = taps.vm(sender), taps.wire(here.node), taps.vm(receiver)
    delivered = Ether(src=qr_mac(warm, there.port.network), dst=there.port.mac) / packet(63)
    ours = match_inner(lambda frame: tag in bytes(frame) and frame[IP].dst == there.port.fixed_ip)
    with handled(warm, {here.node: Handled("routed"), there.node: Handled("l2_forward")}):
        departure.send(Ether(src=here.port.mac, dst=qr_mac(warm, here.port.network)) / packet(64))
        on_wire = wire.frames(ours, 2, 0.5)
        arrived = arrival.one(lambda frame: tag in bytes(frame) and IP in frame and frame[IP].dst == there.port.fixed_ip,
                              "routed packet")
    assert len(on_wire) == 1
    assert_tunnelled("on the wire", on_wire[0], warm.nodes[here.node], warm.nodes[there.node], there.port.network, delivered)
    assert_same("at the VM", arrived, delivered)


@pytest.mark.parametrize("sender,receiver", [("web1", "db1"), ("db1", "web1")])
def test_D2_on_one_node_nothing_leaves_it(warm, taps, sender, receiver):
    here, there = warm.vms[sender], warm.vms[receiver]
    tag = random.randbytes(8).hex().encode()
    body = UDP(sport=40001, dport=7) / Raw(tag)
    departure, wire, arrival = taps.vm(sender), taps.wire(here.node), taps.vm(receiver)
    with handled(warm, {here.node: Handled("routed")}):
        departure.send(Ether(src=here.port.mac, dst=qr_mac(warm, here.port.network))
                       / IP(src=here.port.fixed_ip, dst=there.port.fixed_ip, ttl=64, id=1) / body)
        arrived = arrival.one(lambda frame: tag in bytes(frame) and UDP in frame and ICMP not in frame, "routed packet")
    assert_same("at the VM", arrived, Ether(src=qr_mac(warm, there.port.network), dst=there.port.mac)
                / IP(src=here.port.fixed_ip, dst=there.port.fixed_ip, ttl=63, id=1) / body)
    wire.none(lambda frame: tag in bytes(frame), "packet of two VMs of one node", 0.2)


def test_one_network_is_plain_layer_2(warm, taps):
    """Between VMs of one network no router: TTL and MACs stay."""
    here, there = warm.vms["db1"], warm.vms["db2"]
    tag = random.randbytes(8).hex().encode()
    frame = (Ether(src=here.port.mac, dst=there.port.mac)
             / IP(src=here.port.fixed_ip, dst=there.port.fixed_ip, ttl=64, id=7) / UDP(sport=40001, dport=7) / Raw(tag))
    departure, wire, arrival = taps.vm("db1"), taps.wire(here.node), taps.vm("db2")
    with handled(warm, {here.node: Handled("l2_forward"), there.node: Handled("l2_forward")}):
        departure.send(frame)
        on_wire = wire.one(match_inner(lambda seen: tag in bytes(seen)), "frame in the tunnel")
        arrived = arrival.one(lambda seen: tag in bytes(seen), "frame")
    assert_tunnelled("on the wire", on_wire, warm.nodes[here.node], warm.nodes[there.node], "db", frame)
    assert_same("at the VM", arrived, frame)


def test_the_routers_arp_stays_on_its_node(warm, taps):
    """Every VM asks anew for its gateway and talks to all others: no tunnel carries ARP of or for the router, nor a frame to
    its MAC; and no node takes the router's MAC for one that is elsewhere."""
    gateways = {"10.1.0.1", "10.2.0.1"}
    routers = {qr_mac(warm, "web"), qr_mac(warm, "db")}
    wires = {name: taps.wire(name) for name in warm.nodes}
    for vm in warm.vms.values():
        vm.run(["ip", "neigh", "flush", "dev", "eth0"])
    assert all(cell.ping_ms is not None for cell in run_east_west(warm, pings=2, with_ssh=False))

    def leaks(frame) -> bool:
        tunnel = tunnel_of(frame)
        if tunnel is None:
            return False
        inside = tunnel[1]
        if ARP in inside:
            return bool({inside[ARP].psrc, inside[ARP].pdst} & gateways) or inside[ARP].hwsrc in routers
        return inside.dst in routers

    for name, wire in wires.items():
        assert wire.frames(is_tunnelled, 10, 1.0), f"nothing was seen on the wire of {name}"
        wire.none(leaks, "frame that belongs to the router", 0.1)
    for node in warm.nodes.values():
        for network in ("web", "db"):
            leg = warm.topology.router_port("router1", network)
            rows = json.loads(node.run(["bridge", "-j", "fdb", "show", "br", warm.topology.networks[network].bridge]).stdout)
            at = {row["ifname"] for row in rows if row["mac"] == leg.mac}
            assert at == {f"tap{leg.id}"[:14]}, f"{node.name}: {leg.mac} is at {at}"


def test_without_a_floating_ip_nothing_lies_beyond_the_router(warm, taps):
    """A database's packets to a floating IP or a node go nowhere: nobody translates them, and none leaves untranslated."""
    wire = taps.wire("primary")
    for target in ("172.24.5.21", "172.24.4.2"):
        result = warm.vms["db1"].run(["ping", "-n", "-c", "1", "-W", "1", target], check=False)
        assert result.returncode != 0, result.stdout
    wire.none(match_inner(lambda frame: IP in frame and frame[IP].src == "10.2.0.11"), "untranslated packet", 0.2)


def test_a_floating_ip_comes_and_goes(warm, original):
    """With one, a database is reached and reaches out; east-west goes on with its own address before, meanwhile and after."""
    fresh = "172.24.5.99"
    assert ping(warm, "db1", "10.1.0.21", 3) is not None
    warm.reload(lambda text: text + f"  - {{floating_ip_address: {fresh}, port: db1}}\n")
    warm.wait_until_ready()
    assert ping(warm, "subnode2", fresh, 3) is not None
    assert ping(warm, "db1", "172.24.4.2", 3) is not None
    assert ping(warm, "db1", "10.1.0.21", 3) is not None


def test_status_counts_what_is_routed(warm):
    """East-west traffic of VMs without a floating IP is counted as routed; no floating IP's row moves."""
    if not warm.fast_path:
        return
    node = warm.nodes["subnode2"]

    def routed() -> Counter:
        return Counter({row["reason"]: row["packets"] for row in node.status()["counters"] if row["hook"] == "tc_port"})

    before = routed()
    assert ping(warm, "web3", "10.2.0.21", 10) is not None
    spent = routed() - before
    assert spent["routed"] >= 10 and spent["fip_out"] == 0, spent
