# SPDX-License-Identifier: Apache-2.0
"""Two tenant networks on one distributed router: routed at the sender's node, with and without a floating IP. Row D2 of the
checklist: what goes to the router's other networks takes neither the floating IP's way nor the gateway's. Row M9: what VMs
without a floating IP send elsewhere."""

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
from frames import assert_same, assert_tunnelled, inner, is_tunnelled, match_inner, tunnel_of
from matrix import missing, ping, run_east_west, run_matrix
from outbound import Echo, tcp_source

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
        arrived = arrival.one(lambda frame: tag in bytes(frame) and IP in frame and frame[IP].dst == there.port.fixed_ip,
                              "routed packet")
        on_wire = wire.frames(ours, 2, 0.5)
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


@pytest.mark.parametrize("sender", ["db3", "db2", "db1"])
def test_M9_without_a_floating_ip_by_the_central_part(warm, taps, sender):
    """M9: from any node a database's packets go to the SNAT port on the primary, and out with the router's own address: two
    hops. Answers come from the SNAT port directly: one hop. Whole frames on both wires; none leaves untranslated."""
    vm, address = warm.vms[sender], "172.24.4.2"
    central, host = warm.nodes["primary"], warm.nodes["subnode1"]
    qg, sg = warm.topology.router_gateway("router1"), warm.topology.snat_port("router1", "db")
    host_mac, here = host.node.macs["public"], warm.nodes[vm.node]
    echo, start, wire, outside = Echo(), taps.vm(sender), taps.wire(vm.node), taps.wire(host.name)
    local = here is central
    with handled(warm, {} if local else {here.name: Handled("routed", "l2_forward")}):
        start.send(Ether(src=vm.port.mac, dst=qr_mac(warm, "db")) / echo.request(vm.port.fixed_ip, address))
        out = outside.one(match_inner(lambda frame: echo.is_request(frame, src=qg.fixed_ip)), "translated echo request")
        answer = outside.one(match_inner(lambda frame: echo.is_reply(frame, dst=qg.fixed_ip)), "echo reply")
        back = start.one(lambda frame: echo.is_reply(frame), "echo reply")
    chosen, number = Ether(inner(out))[ICMP].id, Ether(inner(answer))[IP].id
    translated = Ether(src=qg.mac, dst=host_mac) / echo.request(qg.fixed_ip, address, 62, chosen)
    assert_tunnelled("to the host outside", out, central, host, "public", translated)
    reply = Ether(src=host_mac, dst=qg.mac) / echo.reply(address, qg.fixed_ip, 64, number, chosen)
    assert_tunnelled("from the host outside", answer, host, central, "public", reply)
    delivered = Ether(src=sg.mac, dst=vm.port.mac) / echo.reply(address, vm.port.fixed_ip, 63, number)
    assert_same("back", back, delivered)
    if not local:
        own = vm.port.fixed_ip
        there = wire.one(match_inner(lambda frame: echo.is_request(frame, src=own)), "echo request to the SNAT port")
        routed = Ether(src=qr_mac(warm, "db"), dst=sg.mac) / echo.request(own, address, 63)
        assert_tunnelled("to the SNAT port", there, here, central, "db", routed)
        direct = wire.one(match_inner(lambda frame: echo.is_reply(frame, dst=own)), "echo reply from the SNAT port")
        assert_tunnelled("from the SNAT port", direct, central, here, "db", delivered)
    public = warm.topology.networks["public"].tunnel_ids()
    outside.none(lambda frame: is_tunnelled(frame, public) and echo.is_request(tunnel_of(frame)[1], src=vm.port.fixed_ip),
                 "untranslated packet", 0.2)


@pytest.mark.parametrize("sender", ["db3", "db1"])
def test_M9_connections_without_a_floating_ip(warm, sender):
    """TCP: a node and the owner of a floating IP see the router's address; within the router's networks the VM's own is seen."""
    vm, qg, web = warm.vms[sender], warm.topology.router_gateway("router1"), warm.vms["web2"]
    assert ping(warm, sender, "172.24.5.21", 2) is not None
    assert tcp_source(vm, warm.nodes["subnode1"], "172.24.4.2") == qg.fixed_ip
    assert tcp_source(vm, web, "172.24.5.21", web.port.fixed_ip) == qg.fixed_ip
    assert tcp_source(vm, web, web.port.fixed_ip) == vm.port.fixed_ip
    assert tcp_source(warm.vms["web1"], warm.nodes["subnode1"], "172.24.4.2") == "172.24.5.11"


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
