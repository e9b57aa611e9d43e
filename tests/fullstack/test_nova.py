# SPDX-License-Identifier: Apache-2.0
"""nova-network: two overlays that learn, NAT in the nodes' own stacks. Rows M1 to M6 and M10 of its checklist, multi-host and
single-host (FIPLANE_TOPOLOGY), over VXLAN and GRE, and VXLAN over IPv6 (FIPLANE_TUNNEL)."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import random
from typing import Iterator

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from bridges import wait_until_forwarding
from conftest import ROOT
from expect import Handled, carried_in_bpf, handled
from frames import assert_same, assert_tunnelled, is_tunnelled, match_inner, outer, tunnel_of
from lab import wait_for
from maps import wait_until_known
from matrix import missing, ping, run_matrix, ssh
from namespaces import Namespace
from pings import send_pings
from topology import Encapsulation

TOPOLOGY = ROOT / "examples" / f"{os.environ.get('FIPLANE_TOPOLOGY', 'devstack-nova-multi-host')}.yaml"
PUBLIC, FLAT, HUB = "public", "flat", "primary"
WITHOUT = "vm6"  # has no floating IP
TRANSPORTS = {
    "udp": lambda: UDP(sport=40001, dport=7),
    "tcp": lambda: TCP(sport=random.randrange(30000, 60000), dport=7, flags="A", seq=1, ack=1),
    "icmp": lambda: ICMP(type=8, id=random.randrange(1, 65535), seq=1),
}


def address(lab, node: str, network: str = PUBLIC) -> str:
    return lab.topology.nodes[node].addresses[network].split("/")[0]


def encapsulation(lab) -> Encapsulation:
    """The same of both overlays."""
    return lab.topology.networks[PUBLIC].encapsulation


def router_node(lab, vm: str) -> str:
    """The node that routes for a VM."""
    router = next(iter(lab.topology.routers.values()))
    return lab.vms[vm].node if router.distributed else router.node


def bridge_ports(node, bridge: str) -> set[str]:
    return {row["ifname"] for row in json.loads(node.run(["ip", "-j", "link", "show", "master", bridge]).stdout)}


def mac_of(guest: Namespace) -> str:
    return json.loads(guest.run(["ip", "-j", "link", "show", "eth0"]).stdout)[0]["address"]


@contextlib.contextmanager
def guest(lab, node: str, bridge: str) -> Iterator[Namespace]:
    """A VM that no topology lists: its eth0 is plugged into a bridge of a node, and has no address."""
    name = f"guest{random.randrange(1000)}"
    place, holder = lab.nodes[node].namespace, Namespace(lab.state, name)
    holder.wait_until_up()
    try:
        place.run(f"ip link add {name} type veth peer name eth0 netns {holder.pid}; ip link set {name} master {bridge} up")
        mtu = encapsulation(lab).mtu
        holder.run(f"echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; ip link set eth0 mtu {mtu} up")
        wait_until_forwarding(place, name, holder)
        yield holder
    finally:
        place.run(["ip", "link", "del", name], check=False)
        holder.close()


def test_M2_M3_objects(lab):
    """M2, M3: br_pub and br_flat. No Neutron namespace anywhere, one tunnel port for each spoke and network at the hub, one
    at each spoke; floating IPs are addresses of the node that routes, and nothing but the /23 leads to them."""
    prefix = encapsulation(lab).prefix
    for name, node in lab.nodes.items():
        assert node.run(["ls", "/run/netns"]).stdout.split() == []
        for network, base in ((PUBLIC, 1000001), (FLAT, 1000128)):
            tunnels = {port for port in bridge_ports(node, lab.topology.networks[network].bridge) if port.startswith(prefix)}
            first, second = f"{prefix}{base + 1}", f"{prefix}{base + 2}"
            wanted = {HUB: {first, second}, "subnode1": {first}, "subnode2": {second}}
            assert tunnels == wanted[name]
        rows = json.loads(node.run(["ip", "-j", "-4", "address", "show", "br_pub"]).stdout)
        found = {f"{info['local']}/{info['prefixlen']}" for row in rows for info in row["addr_info"]}
        mine = {fip for fip, row in lab.topology.floating_ips.items() if router_node(lab, row.port) == name}
        assert found == {lab.topology.nodes[name].addresses[PUBLIC], *(f"{fip}/32" for fip in mine)}
        routes = json.loads(node.run(["ip", "-j", "route", "show"]).stdout)
        public = ipaddress.ip_network("172.24.4.0/23")
        to_public = [row for row in routes if row["dst"] != "default" and ipaddress.ip_network(row["dst"]).overlaps(public)]
        assert [(row["dst"], row["dev"]) for row in to_public] == [("172.24.4.0/23", "br_pub")]


@pytest.mark.parametrize("source", ["primary", "subnode1", "subnode2"])
def test_M2_every_node_reaches_every_other(warm, source):
    for target in warm.nodes:
        if target != source:
            assert ping(warm, source, address(warm, target), 3) is not None, f"{source} -> {target}"


def test_M1_M5_nothing_but_tunnel_packets(warm, taps):
    """M1: nodes reach each other's underlay address; what the overlays do is nothing but their tunnel packets on the wire.
    M5: that is pings from all nodes and VMs to all floating IPs."""
    underlay = {name: node.node.underlay_address for name, node in warm.nodes.items()}
    for name in warm.nodes:
        for peer in underlay.keys() - {name}:
            assert ping(warm, name, underlay[peer], 1) is not None, f"{name} -> {peer}"
    wires = {name: taps.wire(name) for name in warm.nodes}
    cells = run_matrix(warm, pings=1, with_ssh=False)
    assert all(cell.ping_ms is not None for cell in cells), cells
    assert ssh(warm, "vm1", warm.topology.fips_of("vm3")[0]) == "ok"
    numbers, protocol = {PUBLIC: {1000002, 1000003}, FLAT: {1000129, 1000130}}, encapsulation(warm).protocol

    def foreign(frame) -> bool:
        header = outer(frame)
        if isinstance(header, IPv6):
            carries, discovers = header.nh, header.nh in (0, 58)  # ICMPv6, some of it behind a hop-by-hop option
        else:
            carries, discovers = getattr(header, "proto", None), not isinstance(header, IP)
        return not discovers and not (carries == protocol and is_tunnelled(frame, numbers[PUBLIC] | numbers[FLAT]))

    for name, wire in wires.items():
        assert wire.frames(lambda frame: is_tunnelled(frame, numbers[PUBLIC]), 50, 1.0), f"wire of {name}"
        wire.none(foreign, "IP packet that is no tunnel's", 0.1)


def test_M5_matrix(warm):
    """M5: the same with ssh, and BPF carries it."""
    with carried_in_bpf(warm, packets=300):
        cells = run_matrix(warm)
    assert not missing(cells), "\n".join(missing(cells))
    assert len(cells) == (3 + 5) * 5


def test_M5_without_a_floating_ip(warm):
    """The node's address stands for a VM that has no floating IP, to other nodes and to floating IPs, its neighbour's as
    well."""
    for target in (address(warm, "subnode1"), *warm.topology.floating_ips):
        assert ping(warm, WITHOUT, target, 3) is not None, target
    assert ssh(warm, WITHOUT, warm.topology.fips_of("vm3")[0]) == "ok"
    assert ssh(warm, WITHOUT, warm.topology.fips_of("vm5")[0]) == "ok"


@pytest.mark.parametrize("protocol", TRANSPORTS)
@pytest.mark.parametrize("sender", ["vm1", "vm3", "vm4"])
def test_M5_out_with_the_floating_ip(warm, taps, sender, protocol):
    """A VM's packet to a node: one router, on the node that routes for it; on the wire it has the floating IP, TTL 63, and the
    MAC of that node's br_pub."""
    vm, target = warm.vms[sender], "subnode2"
    here, there = warm.nodes[router_node(warm, sender)], warm.nodes[target]
    (fip,) = warm.topology.fips_of(sender)
    tag, number = random.randbytes(8).hex().encode(), random.randrange(1, 65535)
    transport = TRANSPORTS[protocol]()
    expected = Ether(src=here.node.macs[PUBLIC], dst=there.node.macs[PUBLIC]) / IP(
        src=fip, dst=address(warm, target), ttl=63, id=number) / transport / Raw(tag)
    departure, wire, arrival = taps.vm(sender), taps.wire(here.name), taps.host(target, "br_pub")
    ours = match_inner(lambda frame: tag in bytes(frame) and frame[IP].src == fip, here.node.underlay_address)
    with handled(warm, {here.name: Handled("fip_out"), target: Handled("l2_to_host")}):
        departure.send(Ether(src=vm.port.mac, dst=here.node.macs[FLAT])
                       / IP(src=vm.port.fixed_ip, dst=address(warm, target), ttl=64, id=number) / transport / Raw(tag))
        on_wire = wire.one(ours, "translated packet in the tunnel")
        arrived = arrival.one(lambda frame: tag in bytes(frame) and IP in frame and frame[IP].src == fip, "packet")
    assert_tunnelled("on the wire", on_wire, here, there, PUBLIC, expected)
    assert_same("at the node", arrived, expected)


@pytest.mark.parametrize("protocol", TRANSPORTS)
@pytest.mark.parametrize("receiver", ["vm3", "vm4"])
def test_M5_in_to_the_fixed_ip(warm, taps, receiver, protocol):
    """A node's packet to a floating IP: the VM sees the real sender and TTL 63, from the router's MAC."""
    vm, source = warm.vms[receiver], "subnode2"
    here, there = warm.nodes[source], warm.nodes[router_node(warm, receiver)]
    (fip,) = warm.topology.fips_of(receiver)
    tag, number = random.randbytes(8).hex().encode(), random.randrange(1, 65535)
    transport = TRANSPORTS[protocol]()
    host, arrival = taps.host(source, "br_pub"), taps.vm(receiver)
    with handled(warm, {source: Handled("l2_forward"), there.name: Handled("fip_in")}):
        host.send(Ether(src=here.node.macs[PUBLIC], dst=there.node.macs[PUBLIC])
                  / IP(src=address(warm, source), dst=fip, ttl=64, id=number) / transport / Raw(tag))
        arrived = arrival.one(lambda frame: tag in bytes(frame) and IP in frame and frame[IP].dst == vm.port.fixed_ip,
                              "translated packet")
    assert_same("at the VM", arrived, Ether(src=there.node.macs[FLAT], dst=vm.port.mac)
                / IP(src=address(warm, source), dst=vm.port.fixed_ip, ttl=63, id=number) / transport / Raw(tag))


def test_M3_dhcp_and_ping_for_an_unlisted_guest(warm):
    """A VM that nobody listed gets its address from a dnsmasq on the primary, and talks to VMs of all nodes."""
    lab, server, mtu = warm, warm.nodes[HUB].namespace, str(encapsulation(warm).mtu)
    dnsmasq = server.start([
        "/usr/sbin/dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=br_flat",
        "--bind-interfaces", "--dhcp-range=10.1.1.10,10.1.1.200,255.255.240.0,1h", "--dhcp-option=3,10.1.0.1",
        f"--dhcp-option=26,{mtu}", f"--dhcp-leasefile={lab.state.path / 'leases'}", "--dhcp-authoritative", "--no-ping",
        f"--pid-file={lab.state.path / 'dnsmasq.pid'}", "--user=root",
    ])  # fmt: skip
    script = lab.state.path / "udhcpc.sh"
    script.write_text('#!/bin/sh\n[ "$1" = bound ] && ip address replace $ip/$mask dev $interface && echo "$ip $mtu"\nexit 0\n')
    script.chmod(0o755)
    try:
        with guest(lab, "subnode2", "br_flat") as vm:
            result = vm.run(["udhcpc", "-i", "eth0", "-O", "mtu", "-n", "-q", "-f", "-t", "10", "-T", "1", "-s", script], timeout=30)
            lease = result.stdout.split()
            assert ipaddress.ip_address(lease[0]) in ipaddress.ip_network("10.1.1.0/24") and lease[1] == mtu
            for target in ("vm1", "vm3", "vm5"):
                assert (sent := send_pings(vm.run, lab.vms[target].port.fixed_ip, 3)).complete, sent.output
            if lab.fast_path:
                wait_until_known(lab.nodes.values(), [mac_of(vm)])
            with carried_in_bpf(lab, packets=-1) if lab.fast_path else contextlib.nullcontext():
                sent = send_pings(vm.run, lab.vms["vm3"].port.fixed_ip, 100 if lab.fast_path else 20, interval=0.02)
            assert sent.complete, sent.output
    finally:
        dnsmasq.terminate()
        dnsmasq.wait()


@pytest.mark.parametrize("sent_on,other", [(PUBLIC, FLAT), (FLAT, PUBLIC)])
def test_M4_nothing_crosses_between_the_overlays(warm, taps, sent_on, other):
    """A broadcast, and a frame to a MAC of the other overlay: seen in all tunnels of its own, in none of the other's, on no
    bridge of it."""
    lab, tag = warm, random.randbytes(8).hex().encode()
    bridges = {name: network.bridge for name, network in lab.topology.networks.items()}
    wires = {name: taps.wire(name) for name in lab.nodes}
    others = [taps.host(name, bridges[other]) for name in lab.nodes]
    ours = match_inner(lambda frame: tag in bytes(frame))
    with guest(lab, "subnode1", bridges[sent_on]) as vm:
        tap = vm.packet_socket("eth0")
        source = mac_of(vm)
        elsewhere = next(node.macs[other] for node in lab.topology.nodes.values() if other in node.macs)
        for destination in ("ff:ff:ff:ff:ff:ff", elsewhere):
            tap.send(bytes(Ether(src=source, dst=destination, type=0x88B5) / Raw(tag + bytes(40))))
        numbers = lab.topology.networks[sent_on].tunnel_ids()
        for name, wire in wires.items():
            seen = wire.frames(ours, 2, 2.0)
            assert len(seen) == 2, f"{name}: {len(seen)}"
            assert {tunnel_of(Ether(raw))[0] for raw in seen} <= numbers
        tap.close()
    for bridge in others:
        bridge.none(lambda frame: tag in bytes(frame), "frame of the other overlay", 0.2)
    for wire in wires.values():
        wire.none(lambda frame: tag in bytes(frame) and tunnel_of(frame)[0] not in numbers, "frame in a wrong tunnel", 0.1)


def test_M6_mtu(warm):
    """1450 everywhere, 1458 over GRE; a packet of that size passes with DF, one byte more is refused at home."""
    mtu = encapsulation(warm).mtu
    for node in warm.nodes.values():
        for bridge in ("br_pub", "br_flat"):
            assert json.loads(node.run(["ip", "-j", "link", "show", bridge]).stdout)[0]["mtu"] == mtu
    fits = send_pings(warm.nodes["subnode1"].run, address(warm, "subnode2"), 2, options=["-M", "do", "-s", mtu - 28])
    assert fits.complete, fits.output
    over = warm.nodes["subnode1"].run(["ping", "-n", "-c", "1", "-W", "1", "-M", "do", "-s", mtu + 1 - 28,
                                       address(warm, "subnode2")], check=False)
    assert over.returncode != 0 and "message too long" in over.stderr + over.stdout


def test_M10_a_second_run_changes_nothing(warm):
    for name, node in warm.nodes.items():
        plan = json.loads(node.fiplane("plan", str(warm.topology_file), "--node", name, "-o", "json").stdout)
        assert plan["changes"] == [], plan


def test_a_floating_ip_moves(warm, original):
    """From one VM to another on another node: the old node forgets it at once, the new one answers."""
    (fip,) = warm.topology.fips_of("vm4")
    warm.reload(lambda text: text.replace("172.24.5.22, port: vm4", "172.24.5.22, port: vm6"))
    wait_for("the moved floating IP", lambda: ping(warm, "primary", fip, 1) is not None)
    assert ssh(warm, "primary", fip) == "ok"
    assert ping(warm, "vm4", address(warm, "subnode2"), 2) is not None  # by its node's address now


def test_teardown_leaves_the_node_as_it_was(lab):
    """What the node's own namespace was given goes with `fiplane teardown`: bridges, tunnels, floating IPs, NAT."""
    node = lab.nodes["subnode2"]
    node.stop_agent()
    node.fiplane("teardown")
    assert "fiplane" not in node.run(["nft", "list", "tables"]).stdout
    assert not {name for name in node.links() if name.startswith(("br_", encapsulation(lab).prefix))}
    assert "172.24" not in node.run(["ip", "-4", "address"]).stdout
