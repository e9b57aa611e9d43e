# SPDX-License-Identifier: Apache-2.0
"""Frames on the wire, compared whole. The same frames are expected from Linux and from the fast path."""

from __future__ import annotations

import ipaddress
import json
import random
from dataclasses import dataclass

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from expect import Handled, handled
from frames import assert_same, assert_tunnelled, inner, is_arp_answer, is_tunnelled, match_inner, outer_header, wrap
from lab import Lab
from pings import send_pings
from topology import Port

SHARES_LAB = True
EXTERNAL, TENANT = "public", "private"
BROADCAST = "ff:ff:ff:ff:ff:ff"
PROTOCOLS = ["udp", "tcp", "icmp", "other"]


def payload(protocol: str, tag: bytes) -> Packet:
    """A transport packet that carries `tag`, by which it is found again."""
    data = Raw(tag + bytes(range(40)))
    return {
        "udp": lambda: UDP(sport=40001, dport=7) / data,
        "tcp": lambda: TCP(sport=random.randrange(30000, 60000), dport=7, flags="S", seq=1) / data,
        "icmp": lambda: ICMP(type=8, id=random.randrange(1, 65535), seq=1) / data,
        "other": lambda: data,
    }[protocol]()


def fresh_tag() -> bytes:
    return b"fiplane-" + random.randbytes(8).hex().encode()


def carries(tag: bytes, **ip_fields):
    """Matches IPv4 packets with this tag (not errors that quote it) and these fields."""

    def check(packet: Packet) -> bool:
        if IP not in packet or tag not in bytes(packet):
            return False
        if packet[IP].proto == 1 and ICMP in packet and packet[ICMP].type not in (0, 8):
            return False
        return all(getattr(packet[IP], key) == value for key, value in ip_fields.items())

    return check


@dataclass(frozen=True)
class Place:
    """A VM, its node and the MACs that its packets meet."""

    lab: Lab
    vm: str

    @property
    def port(self) -> Port:
        return self.lab.vms[self.vm].port

    @property
    def node(self) -> str:
        return self.lab.vms[self.vm].node

    @property
    def fip(self) -> str:
        return self.lab.topology.fips_of(self.vm)[0]

    @property
    def qr_mac(self) -> str:
        return self.lab.topology.router_port(self.lab.topology.router_of(self.fip).name, TENANT).mac

    @property
    def fg_mac(self) -> str:
        return self.lab.topology.gateway_port(self.node, EXTERNAL).mac


def host_address(lab: Lab, node: str) -> str:
    return lab.topology.nodes[node].addresses[EXTERNAL].split("/")[0]


def host_mac(lab: Lab, node: str) -> str:
    return lab.topology.nodes[node].macs[EXTERNAL]


def ipv4(source: str, destination: str, ttl: int, transport: Packet, protocol: str, identification: int) -> Packet:
    packet = IP(src=source, dst=destination, ttl=ttl, id=identification) / transport.copy()
    if protocol == "other":
        packet[IP].proto = 253  # RFC 3692: for experiments
    return packet


VETH_AND_TAP = [pytest.param("vm1", "vm3", id="veth"), pytest.param("vm2", "vm4", id="tap")]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("sender,receiver", VETH_AND_TAP)
def test_D3_D4_from_floating_ip_to_floating_ip(warm, taps, sender, receiver, protocol):
    """D3, D4: a VM sends with its own address; on the wire it is its floating IP's with TTL - 2; it arrives translated
    back, with TTL - 4 in all."""
    here, there = Place(warm, sender), Place(warm, receiver)
    tag, number = fresh_tag(), random.randrange(1, 65535)
    transport = payload(protocol, tag)
    wire, arrival, departure = taps.wire(here.node), taps.vm(receiver), taps.vm(sender)
    with handled(warm, {here.node: Handled("fip_out"), there.node: Handled("fip_in")}):
        departure.send(
            Ether(src=here.port.mac, dst=here.qr_mac)
            / ipv4(here.port.fixed_ip, there.fip, 64, transport, protocol, number)
        )
        on_wire = wire.one(match_inner(carries(tag, src=here.fip)), "translated packet in the tunnel")
        arrived = arrival.one(carries(tag, dst=there.port.fixed_ip), "delivered packet")
    assert_tunnelled(
        "on the wire",
        on_wire,
        warm.nodes[here.node],
        warm.nodes[there.node],
        EXTERNAL,
        Ether(src=here.fg_mac, dst=there.fg_mac) / ipv4(here.fip, there.fip, 62, transport, protocol, number),
    )
    assert_same(
        "at the VM",
        arrived,
        Ether(src=there.qr_mac, dst=there.port.mac)
        / ipv4(here.fip, there.port.fixed_ip, 60, transport, protocol, number),
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("receiver", [pytest.param("vm3", id="veth"), pytest.param("vm4", id="tap")])
def test_D4_M8_from_another_node_to_floating_ip(warm, taps, receiver, protocol):
    """D4, M8: a node's own stack sends to a floating IP of another node; the VM sees the real sender."""
    there, node = Place(warm, receiver), "subnode2"
    tag, number = fresh_tag(), random.randrange(1, 65535)
    transport = payload(protocol, tag)
    host, wire, arrival = taps.host(node, "br-ex"), taps.wire(node), taps.vm(receiver)
    frame = Ether(src=host_mac(warm, node), dst=there.fg_mac) / ipv4(
        host_address(warm, node), there.fip, 64, transport, protocol, number
    )
    with handled(warm, {node: Handled("l2_forward"), there.node: Handled("fip_in")}):
        host.send(frame)
        on_wire = wire.one(match_inner(carries(tag)), "packet in the tunnel")
        arrived = arrival.one(carries(tag, dst=there.port.fixed_ip), "delivered packet")
    assert_tunnelled("on the wire", on_wire, warm.nodes[node], warm.nodes[there.node], EXTERNAL, frame)
    assert_same(
        "at the VM",
        arrived,
        Ether(src=there.qr_mac, dst=there.port.mac)
        / ipv4(host_address(warm, node), there.port.fixed_ip, 62, transport, protocol, number),
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("sender", [pytest.param("vm1", id="veth"), pytest.param("vm2", id="tap")])
def test_D3_from_floating_ip_to_another_node(warm, taps, sender, protocol):
    """D3: a node outside sees the floating IP and TTL - 2, from the sender's own node."""
    here, node = Place(warm, sender), "subnode2"
    tag, number = fresh_tag(), random.randrange(1, 65535)
    transport = payload(protocol, tag)
    departure, wire, host = taps.vm(sender), taps.wire(here.node), taps.host(node, "br-ex")
    expected = Ether(src=here.fg_mac, dst=host_mac(warm, node)) / ipv4(
        here.fip, host_address(warm, node), 62, transport, protocol, number
    )
    with handled(warm, {here.node: Handled("fip_out"), node: Handled("l2_to_host")}):
        departure.send(
            Ether(src=here.port.mac, dst=here.qr_mac)
            / ipv4(here.port.fixed_ip, host_address(warm, node), 64, transport, protocol, number)
        )
        on_wire = wire.one(match_inner(carries(tag, src=here.fip)), "translated packet in the tunnel")
        arrived = host.one(carries(tag, src=here.fip), "packet at the node")
    assert_tunnelled("on the wire", on_wire, warm.nodes[here.node], warm.nodes[node], EXTERNAL, expected)
    assert_same("at the node's br-ex", arrived, expected)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "sender,receiver",
    [
        pytest.param("vm1", "vm2", id="veth-to-tap"),
        pytest.param("vm2", "vm1", id="tap-to-veth"),
        pytest.param("vm1", "vm1", id="own-veth"),
        pytest.param("vm2", "vm2", id="own-tap"),
    ],
)
def test_D9_hairpin(warm, taps, sender, receiver, protocol):
    """D9: from one floating IP's owner to another's, or its own, on one node: TTL 61, the sender's floating IP as
    source, nothing on the wire."""
    here, there = Place(warm, sender), Place(warm, receiver)
    tag, number = fresh_tag(), random.randrange(1, 65535)
    transport = payload(protocol, tag)
    departure, arrival, wire = taps.vm(sender), taps.vm(receiver), taps.wire(here.node)
    with handled(warm, {here.node: Handled("fip_hairpin")}):
        departure.send(
            Ether(src=here.port.mac, dst=here.qr_mac)
            / ipv4(here.port.fixed_ip, there.fip, 64, transport, protocol, number)
        )
        arrived = arrival.one(carries(tag, src=here.fip), "packet that turned round on the node")
    assert_same(
        "at the VM",
        arrived,
        Ether(src=there.qr_mac, dst=there.port.mac)
        / ipv4(here.fip, there.port.fixed_ip, 61, transport, protocol, number),
    )
    wire.none(match_inner(carries(tag)), "hairpin packet on the wire", timeout=0.1)


def quoting(tag: bytes):
    """Matches ICMP destination unreachable about a packet with this tag."""
    return lambda packet: ICMP in packet and packet[ICMP].type == 3 and tag in bytes(packet)


def translated_error(error: Packet, *, hops: int, source=None, destination=None, quoted: dict) -> Packet:
    """An ICMP error as the translation must leave it: outer addresses, TTL, and the quoted packet's addresses."""
    packet = IP(bytes(error[IP]))
    packet.src, packet.dst, packet.ttl = source or packet.src, destination or packet.dst, packet.ttl - hops
    original = IP(bytes(packet[ICMP].payload))
    for field, value in quoted.items():
        setattr(original, field, value)
    transport = original.payload
    for layer in (original, transport):
        del layer.chksum
    packet[ICMP].remove_payload()
    icmp = packet[ICMP]
    icmp.add_payload(original)
    del packet.chksum, icmp.chksum
    return packet


@pytest.mark.parametrize("receiver", [pytest.param("vm3", id="veth"), pytest.param("vm4", id="tap")])
def test_icmp_error_from_behind_floating_ip(warm, taps, receiver):
    """A VM refuses a UDP datagram that came for its floating IP: the error leaves with the floating IP, outside and in
    the packet that it quotes."""
    there, node = Place(warm, receiver), "subnode2"
    tag = fresh_tag()
    host, vm, wire = taps.host(node, "br-ex"), taps.vm(receiver), taps.wire(there.node)
    with handled(warm, {there.node: Handled("fip_in", "fip_out")}):
        host.send(
            Ether(src=host_mac(warm, node), dst=there.fg_mac)
            / ipv4(host_address(warm, node), there.fip, 64, UDP(sport=40002, dport=9) / Raw(tag), "udp", 4711)
        )
        made = Ether(vm.one(quoting(tag), "ICMP error from the VM"))
        on_wire = wire.one(
            match_inner(quoting(tag), warm.nodes[there.node].node.underlay_address), "ICMP error in the tunnel"
        )
    assert made[IP].src == there.port.fixed_ip
    expected = Ether(src=there.fg_mac, dst=host_mac(warm, node)) / translated_error(
        made, hops=2, source=there.fip, quoted={"dst": there.fip}
    )
    assert_tunnelled("on the wire", on_wire, warm.nodes[there.node], warm.nodes[node], EXTERNAL, expected)


@pytest.mark.parametrize("sender", [pytest.param("vm1", id="veth"), pytest.param("vm2", id="tap")])
def test_icmp_error_to_floating_ip(warm, taps, sender):
    """A node refuses a UDP datagram from a floating IP: the VM gets the error about the packet that it had sent."""
    here, node = Place(warm, sender), "subnode2"
    tag = fresh_tag()
    vm, wire = taps.vm(sender), taps.wire(here.node)
    with handled(warm, {here.node: Handled("fip_out", "fip_in")}):
        vm.send(
            Ether(src=here.port.mac, dst=here.qr_mac)
            / ipv4(here.port.fixed_ip, host_address(warm, node), 64, UDP(sport=40003, dport=9) / Raw(tag), "udp", 815)
        )
        made = Ether(inner(wire.one(match_inner(quoting(tag)), "ICMP error in the tunnel")))
        arrived = vm.one(quoting(tag), "ICMP error at the VM")
    assert made[IP].dst == here.fip
    assert_same(
        "at the VM",
        arrived,
        Ether(src=here.qr_mac, dst=here.port.mac)
        / translated_error(made, hops=2, destination=here.port.fixed_ip, quoted={"src": here.port.fixed_ip}),
    )


def arp_request(mac: str, address: str, target: str) -> Packet:
    return Ether(src=mac, dst=BROADCAST) / ARP(op=1, hwsrc=mac, psrc=address, pdst=target)


def test_D5_proxy_arp_through_the_tunnel(warm, taps):
    """D5: who-has for a floating IP of another node is answered, whole frame, with that node's fg- MAC."""
    there, node = Place(warm, "vm3"), "subnode2"
    mac, address = host_mac(warm, node), host_address(warm, node)
    host, wire = taps.host(node, "br-ex"), taps.wire(there.node)
    with handled(warm, {there.node: Handled("arp_reply")}):
        host.send(arp_request(mac, address, there.fip))
        on_wire = wire.one(match_inner(is_arp_answer(there.fip)), "ARP reply in the tunnel")
        arrived = host.one(is_arp_answer(there.fip), "ARP reply at the node")
    expected = Ether(src=there.fg_mac, dst=mac) / ARP(
        op=2, hwsrc=there.fg_mac, psrc=there.fip, hwdst=mac, pdst=address
    )
    assert_tunnelled("on the wire", on_wire, warm.nodes[there.node], warm.nodes[node], EXTERNAL, expected)
    assert_same("at the node", arrived, expected)


def test_D5_proxy_arp_on_the_own_node(warm, taps):
    there = Place(warm, "vm3")
    mac, address = host_mac(warm, there.node), host_address(warm, there.node)
    host = taps.host(there.node, "br-ex")
    with handled(warm, {there.node: Handled("arp_reply")}):
        host.send(arp_request(mac, address, there.fip))
        arrived = host.one(is_arp_answer(there.fip), "ARP reply")
    assert_same(
        "at the node",
        arrived,
        Ether(src=there.fg_mac, dst=mac) / ARP(op=2, hwsrc=there.fg_mac, psrc=there.fip, hwdst=mac, pdst=address),
    )


def test_D5_unassigned_addresses_are_not_answered(warm, taps):
    """D5: neither a free address of the external subnet nor a tenant address; a positive control stands beside."""
    node = "subnode2"
    host = taps.host(node, "br-ex")
    mac, address = host_mac(warm, node), host_address(warm, node)
    silent = ["172.24.5.200", warm.vms["vm3"].port.fixed_ip]
    for target in (*silent, Place(warm, "vm3").fip):
        host.send(arp_request(mac, address, target))
    host.one(is_arp_answer(Place(warm, "vm3").fip), "ARP reply for the assigned address")
    for target in silent:
        host.none(is_arp_answer(target), f"answer for {target}", timeout=1.0)


def test_no_tenant_arp_leaves_through_the_tunnel(warm, taps):
    """A distributed router's MAC exists on every node: neither its ARP nor one for it may cross the tunnel."""
    here = Place(warm, "vm1")
    vm, wire = taps.vm("vm1"), taps.wire(here.node)
    vm.send(arp_request(here.port.mac, here.port.fixed_ip, here.port.gateway))
    reply = vm.one(is_arp_answer(here.port.gateway), "the router's answer")
    expected = ARP(
        op=2, hwsrc=here.qr_mac, psrc=here.port.gateway, hwdst=here.port.mac, pdst=here.port.fixed_ip
    )
    assert_same("at the VM", reply, Ether(src=here.qr_mac, dst=here.port.mac) / expected)
    ids = warm.topology.networks[TENANT].tunnel_ids()
    wire.none(lambda packet: is_tunnelled(packet, ids) and ARP in packet, "tenant ARP on the wire")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("sender,receiver", VETH_AND_TAP)
def test_inside_a_network_across_nodes(warm, taps, sender, receiver, protocol):
    """L2 unicast between VMs of one network: the frame arrives as it was sent."""
    here, there = Place(warm, sender), Place(warm, receiver)
    tag = fresh_tag()
    departure, wire, arrival = taps.vm(sender), taps.wire(here.node), taps.vm(receiver)
    frame = Ether(src=here.port.mac, dst=there.port.mac) / ipv4(
        here.port.fixed_ip, there.port.fixed_ip, 64, payload(protocol, tag), protocol, 99
    )
    with handled(warm, {here.node: Handled("l2_forward"), there.node: Handled("l2_forward")}):
        departure.send(frame)
        on_wire = wire.one(match_inner(carries(tag)), "frame in the tunnel")
        arrived = arrival.one(carries(tag), "frame at the VM")
    assert_tunnelled("on the wire", on_wire, warm.nodes[here.node], warm.nodes[there.node], TENANT, frame)
    assert_same("at the VM", arrived, frame)


def test_inside_a_network_on_one_node(warm, taps):
    here, there = Place(warm, "vm1"), Place(warm, "vm2")
    tag = fresh_tag()
    departure, wire, arrival = taps.vm("vm1"), taps.wire(here.node), taps.vm("vm2")
    frame = Ether(src=here.port.mac, dst=there.port.mac) / ipv4(
        here.port.fixed_ip, there.port.fixed_ip, 64, payload("udp", tag), "udp", 98
    )
    with handled(warm, {here.node: Handled("l2_forward")}):
        departure.send(frame)
        arrived = arrival.one(carries(tag), "frame at the VM")
    assert_same("at the VM", arrived, frame)
    wire.none(match_inner(carries(tag)), "local frame on the wire", timeout=0.1)


def test_expiring_ttl_is_answered_by_the_router(warm, taps):
    """The first router of the path says so, with its own address, and nothing leaves."""
    here, there = Place(warm, "vm1"), Place(warm, "vm3")
    tag = fresh_tag()
    vm, wire = taps.vm("vm1"), taps.wire(here.node)
    vm.send(
        Ether(src=here.port.mac, dst=here.qr_mac)
        / ipv4(here.port.fixed_ip, there.fip, 1, payload("udp", tag), "udp", 97)
    )
    answer = vm.one(
        lambda packet: ICMP in packet and packet[ICMP].type == 11 and tag in bytes(packet), "time exceeded"
    )
    assert Ether(answer)[IP].src == here.port.gateway
    quoted = bytes(Ether(answer)[ICMP].payload)
    sent = bytes(ipv4(here.port.fixed_ip, there.fip, 1, payload("udp", tag), "udp", 97))
    assert quoted == sent, f"quotes {quoted.hex()}, sent was {sent.hex()}"
    wire.none(match_inner(carries(tag)), "packet whose TTL was used up", timeout=0.3)


def test_M1_forged_tunnel_packets_are_dropped(warm, taps):
    """M1: only known peers may send tunnel packets; a right one is the control."""
    there = Place(warm, "vm3")
    node = warm.nodes[there.node]
    # In a star a subnode knows the hub only.
    peer = warm.nodes[warm.topology.networks[EXTERNAL].route("subnode2", there.node)[-1][0]]
    wire, arrival = taps.wire(there.node), taps.vm("vm3")
    network = warm.topology.networks[EXTERNAL]

    def packet(source: str, number: int, tag: bytes) -> Packet:
        return (
            Ether(src=peer.mac("eth0"), dst=node.mac("eth0"))
            / outer_header(source, node.node.underlay_address)
            / wrap(network, number, 40000)
            / Ether(src=host_mac(warm, "subnode2"), dst=there.fg_mac)
            / ipv4(host_address(warm, "subnode2"), there.fip, 64, payload("udp", tag), "udp", 96)
        )

    good, stranger, wrong_network = fresh_tag(), fresh_tag(), fresh_tag()
    number = network.tunnel_id(there.node, peer.name)
    nobody = str(ipaddress.ip_address(peer.node.underlay_address) + 87)
    wire.send(packet(nobody, number, stranger))
    wire.send(packet(peer.node.underlay_address, number + 77, wrong_network))
    wire.send(packet(peer.node.underlay_address, number, good))
    arrival.one(carries(good), "packet of a known peer")
    arrival.none(carries(stranger), "packet of an unknown peer", timeout=0.3)
    arrival.none(carries(wrong_network), "packet with an unknown VNI or key", timeout=0.1)


@pytest.mark.parametrize("sender", [pytest.param("vm1", id="veth"), pytest.param("vm2", id="tap")])
def test_vm_may_use_only_its_own_addresses(warm, taps, sender):
    """What a VM sends from somebody else's MAC or IP, ARP included, goes nowhere; its own traffic is the control."""
    here, there = Place(warm, sender), Place(warm, "vm3")
    vm, wire = taps.vm(sender), taps.wire(here.node)
    own_mac, own_ip, stolen_ip, stolen_mac = here.port.mac, here.port.fixed_ip, "10.1.0.77", "fa:16:3e:00:00:77"
    wrong_ip, wrong_mac, good = fresh_tag(), fresh_tag(), fresh_tag()
    for mac, address, tag in ((own_mac, stolen_ip, wrong_ip), (stolen_mac, own_ip, wrong_mac), (own_mac, own_ip, good)):
        packet = ipv4(address, there.port.fixed_ip, 64, payload("udp", tag), "udp", 95)
        vm.send(Ether(src=mac, dst=there.port.mac) / packet)
    vm.send(Ether(src=own_mac, dst=BROADCAST) / ARP(op=1, hwsrc=own_mac, psrc=stolen_ip, pdst="10.1.0.78"))
    wire.one(match_inner(carries(good)), "the VM's own packet")
    for tag in (wrong_ip, wrong_mac):
        wire.none(match_inner(carries(tag)), "packet with a stolen address", timeout=0.2)
    stolen_arp = match_inner(lambda packet: ARP in packet and packet[ARP].psrc == stolen_ip)
    wire.none(stolen_arp, "ARP with a stolen address", 0.1)


@pytest.mark.parametrize("sender,receiver", VETH_AND_TAP)
def test_fragments(warm, sender, receiver):
    """Datagrams larger than the MTU pass both ways."""
    sent = send_pings(warm.vms[sender].run, Place(warm, receiver).fip, 3, options=["-s", 4000])
    assert sent.complete, sent.output


def test_M6_mtu(warm):
    """M6: as many bytes with DF as the tunnel leaves room for pass, one more fails at the sender with a message, on the
    bridge and between VMs."""
    mtu = warm.topology.networks[EXTERNAL].encapsulation.mtu
    target = Place(warm, "vm3")
    for run, destination in ((warm.vms["vm1"].run, target.fip), (warm.nodes["primary"].run, target.fip),
                             (warm.vms["vm1"].run, target.port.fixed_ip), (warm.nodes["primary"].run, "172.24.4.2")):
        command = ["ping", "-n", "-M", "do", "-c", 1, "-W", 2]
        fits = run([*command, "-s", mtu - 28, destination], check=False)
        assert " 1 received" in fits.stdout, f"{mtu} bytes to {destination}:\n{fits.stdout}{fits.stderr}"
        too_long = run([*command, "-s", mtu + 1 - 28, destination], check=False)
        text = too_long.stdout + too_long.stderr
        assert too_long.returncode != 0 and "message too long" in text.lower(), f"{mtu + 1} bytes to {destination}:\n{text}"
    for node in warm.nodes.values():
        mtus = {row["ifname"]: row["mtu"] for row in json.loads(node.run(["ip", "-j", "link"]).stdout)}
        assert mtus["br-ex"] == mtu and mtus["eth0"] == 1500


@pytest.mark.parametrize("options", [[("MSS", 1460)], [("NOP", None), ("NOP", None), ("MSS", 1460)], "fits"],
                         ids=["too large", "behind another option", "fits"])  # fmt: skip
def test_M6_mss(warm, taps, options):
    """M6: the first router lowers the segment size that a TCP SYN offers to what the overlay's MTU leaves, in Linux; one that
    fits stays as it is, and in BPF. The packet is not changed otherwise."""
    here, there = Place(warm, "vm1"), Place(warm, "vm3")
    limit = warm.topology.networks[EXTERNAL].encapsulation.mtu - 40
    offers = [("MSS", limit)] if options == "fits" else options
    lowered = [(name, limit if name == "MSS" else value) for name, value in offers]
    tag, number, port = fresh_tag(), random.randrange(1, 65535), random.randrange(30000, 60000)

    def syn(ethernet: Packet, source: str, destination: str, ttl: int, tcp_options: list) -> Packet:
        transport = TCP(sport=port, dport=7, flags="S", seq=1, options=tcp_options) / Raw(tag)
        return ethernet / IP(src=source, dst=destination, ttl=ttl, id=number) / transport

    departure, arrival = taps.vm("vm1"), taps.vm("vm3")
    # Behind another option only Linux finds it, on each of the two routers.
    left, arriving = options != "fits", "mss" if offers[0][0] == "NOP" else "fip_in"
    with handled(warm, {here.node: Handled("mss" if left else "fip_out"), there.node: Handled(arriving)}):
        departure.send(syn(Ether(src=here.port.mac, dst=here.qr_mac), here.port.fixed_ip, there.fip, 64, offers))
        arrived = arrival.one(carries(tag, dst=there.port.fixed_ip), "delivered SYN")
    expected = syn(Ether(src=there.qr_mac, dst=there.port.mac), here.fip, there.port.fixed_ip, 60, lowered)
    assert_same("at the VM", arrived, expected)
