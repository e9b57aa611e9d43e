# SPDX-License-Identifier: Apache-2.0
"""What users of an overlay rely on, in whole: path MTU discovery, traceroute, fragments, checksums that are absent or
present, broadcast and multicast, addresses that move, tags and IPv6 inside a segment. The same from Linux alone."""

from __future__ import annotations

import contextlib
import json
import random
import re
import subprocess
import time

import pytest
from scapy.layers.inet import ICMP, IP, UDP, fragment
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from equivalence.sockets import Capture, Injector
from frames import assert_same, inner, is_tunnelled, match_inner, outer_header
from lab import wait_for
from maps import TOLD, mtus_to
from pings import send_pings
from test_wire import BROADCAST, EXTERNAL, TENANT, Place, carries, fresh_tag, host_address, host_mac, ipv4

VETH_AND_TAP = [pytest.param("vm1", "vm3", id="veth"), pytest.param("vm2", "vm4", id="tap")]
SMALL_MTU = 1280

UDP_RECEIVER = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", int(sys.argv[1])))
s.settimeout(4)
print("ready", flush=True)
data, (address, port) = s.recvfrom(70000)
print(address, port, data.hex())
"""
# One UDP datagram for each TTL; who answers with which ICMP type and code.
TRACEROUTE = """
import socket, struct, sys
target, base = sys.argv[1], int(sys.argv[2])
for ttl in range(1, 8):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(0, 2, ttl)
    s.setsockopt(0, 11, 1)
    s.settimeout(2)
    s.sendto(b"traceroute through a floating IP", (target, base + ttl))
    try:
        s.recv(1)
    except OSError:
        pass
    s.settimeout(1)
    try:
        _, control, _, _ = s.recvmsg(100, 500, socket.MSG_ERRQUEUE)
    except OSError:
        print(ttl, "silence")
        continue
    data = control[0][2]
    _, origin, kind, code, _, info, _ = struct.unpack("=IBBBBII", data[:16])
    print(ttl, socket.inet_ntoa(data[20:24]), kind, code)
    if kind == 3:
        break
"""


@contextlib.contextmanager
def udp_receiver(vm, port: int):
    process = vm.start(["python3", "-c", UDP_RECEIVER, port], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip() == "ready"
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def received(process) -> tuple[str, int, bytes]:
    """(sender, its port, data) of the one datagram."""
    out, error = process.communicate(timeout=10)
    assert out.strip(), f"no datagram arrived: {error.strip().splitlines()[-1:]}"
    address, port, data = out.split()
    return address, int(port), bytes.fromhex(data)


# Path MTU


@pytest.fixture
def narrow(warm):
    """The underlay from vm1's node to vm3's has a smaller MTU than elsewhere: a path with a narrow hop."""
    here, there = warm.nodes[warm.vms["vm1"].node], warm.nodes[warm.vms["vm3"].node]
    ip = f"ip -{warm.topology.underlay_version}"
    route = f"{there.node.underlay_address} dev {here.node.underlay_device} src {here.node.underlay_address}"
    peer = there.node.underlay_address

    def wait_for_mtu(mtu: int) -> None:
        if warm.fast_path:
            wait_for(f"MTU {mtu} in the tables", lambda: all(found == {mtu} for found in mtus_to(here, peer).values()), TOLD)

    here.run(f"{ip} route add {route} mtu {SMALL_MTU + warm.topology.networks[EXTERNAL].encapsulation.overhead}")
    try:
        wait_for_mtu(SMALL_MTU)
        yield Place(warm, "vm3")
    finally:
        here.run(f"{ip} route del {route}")
    wait_for_mtu(warm.topology.networks[EXTERNAL].mtu)
    for place in (here, *warm.vms.values()):
        place.run(["ip", "route", "flush", "cache"])
    warm.wait_until_ready()


@pytest.mark.parametrize("way", ["floating ip", "same network"])
@pytest.mark.parametrize("source", ["vm1", "vm2"])
def test_pmtu_error_comes_from_the_tunnel_with_its_mtu(narrow, warm, source, way):
    """RFC 1191: a packet with DF over the MTU of the way is answered with that MTU, in the receiver's name, because a
    tunnel has no address of its own (skb_tunnel_check_pmtu). The sender believes it: next time its stack refuses."""
    target = narrow.fip if way == "floating ip" else narrow.port.fixed_ip
    place = warm.vms[source]
    command = ["ping", "-n", "-M", "do", "-c", 1, "-W", 2, "-s", 1400 - 28, target]
    first = place.run(command, check=False).stdout
    assert f"From {target} icmp_seq=1 Frag needed and DF set (mtu = {SMALL_MTU})" in first, first
    second = place.run(command, check=False)
    assert "message too long" in (second.stdout + second.stderr).lower(), second.stdout + second.stderr
    fits = place.run(["ping", "-n", "-M", "do", "-c", 1, "-W", 2, "-s", SMALL_MTU - 28, target], check=False)
    assert " 1 received" in fits.stdout, fits.stdout
    place.run(["ip", "route", "flush", "cache"])


@pytest.mark.parametrize("source", ["primary", "vm1", "vm2"])
def test_tcp_works_over_a_narrow_way(narrow, warm, source):
    """A megabyte with full-sized segments: the sender learns the MTU in mid-flow and goes on."""
    place = warm.nodes.get(source) or warm.vms[source]
    place.run(["ip", "route", "flush", "cache"])
    command = " ".join(warm.keys.ssh_command(narrow.fip, "wc", "-c"))
    result = place.run(["sh", "-ec", f"head -c 1000000 /dev/zero | {command}"], check=False, timeout=30)
    assert result.stdout.strip() == "1000000", result.stdout + result.stderr


# Traceroute


def trace(place, target: str) -> list[str]:
    script = ["python3", "-c", TRACEROUTE, target, random.randrange(33434, 50000)]
    return place.run(script, timeout=40).stdout.strip().splitlines()


@pytest.mark.parametrize("source,target", [("subnode2", "vm3"), ("vm1", "vm3"), ("vm2", "vm4"), ("vm1", "vm2")])
def test_traceroute_shows_the_hops_of_linux(warm, source, target):
    """Every router says its own name; the last answer is the floating IP's. The fast path hides none of them. (Linux
    itself hides one: the far router's answer comes from 169.254.64.0, which is an address of the near router, too.)"""
    there = Place(warm, target)
    place = warm.nodes.get(source) or warm.vms[source]
    hops = trace(place, there.fip)
    assert hops[-1].split()[1:] == [there.fip, "3", "3"], hops
    assert all(line.split()[1:] == ["silence"] or line.split()[2:] == ["11", "0"] for line in hops[:-1]), hops
    if source in warm.vms:
        assert hops[0].split()[1] == warm.vms[source].port.gateway, hops
    else:
        assert hops[0].split()[1] == warm.topology.gateway_port(there.node, EXTERNAL).fixed_ip, hops
    # fip and qrouter namespace of each node that is passed; a hairpin turns round in its own fip namespace.
    assert len(hops) == {"subnode2": 2, "vm1": 4 if target == "vm3" else 3, "vm2": 4}[source] + 1, hops
    if warm.fast_path:
        warm.set_fast_path(False)
        try:
            linux = trace(place, there.fip)
        finally:
            warm.set_fast_path(True)
            warm.wait_until_ready()
        shown = [seen if wanted.split()[1] == "silence" and "169.254." in seen else wanted
                 for wanted, seen in zip(linux, hops)]  # fmt: skip
        assert hops == shown and len(hops) == len(linux), f"Linux: {linux}"


# Fragments


@pytest.mark.parametrize("order", ["in order", "reversed", "shuffled"])
@pytest.mark.parametrize("way", ["fip to fip, veth", "fip to fip, tap", "node to fip", "hairpin", "same network"])
def test_fragments_arrive_as_one_datagram(warm, taps, way, order):
    """A UDP datagram in four fragments, with a checksum over all of it, by raw frames in any order."""
    sender, receiver = {"fip to fip, tap": ("vm2", "vm4"), "hairpin": ("vm1", "vm2")}.get(way, ("vm1", "vm3"))
    here, there = Place(warm, sender), Place(warm, receiver)
    if way == "node to fip":
        tap, source, mac = taps.host("subnode2", "br-ex"), host_address(warm, "subnode2"), host_mac(warm, "subnode2")
        target, router, seen = there.fip, there.fg_mac, source
    elif way == "same network":
        tap, source, mac = taps.vm(sender), here.port.fixed_ip, here.port.mac
        target, router, seen = there.port.fixed_ip, there.port.mac, source
    else:
        tap, source, mac = taps.vm(sender), here.port.fixed_ip, here.port.mac
        target, router, seen = there.fip, here.qr_mac, here.fip
    data, port, ident = random.randbytes(4000), random.randrange(20000, 30000), random.randrange(1, 65535)
    whole = IP(src=source, dst=target, id=ident) / UDP(sport=4001, dport=port) / Raw(data)
    pieces = fragment(IP(bytes(whole)), 1200)
    assert len(pieces) == 4
    if order == "reversed":
        pieces.reverse()
    if order == "shuffled":
        pieces = [pieces[2], pieces[0], pieces[3], pieces[1]]
    with udp_receiver(warm.vms[receiver], port) as process:
        for piece in pieces:
            tap.send(Ether(src=mac, dst=router) / piece)
        assert received(process) == (seen, 4001, data)


def test_first_fragment_with_options_does_not_lose_its_company(warm, taps):
    """RFC 791: not every option is copied into later fragments. Wherever the first one goes, the others must follow."""
    here, there = Place(warm, "vm1"), Place(warm, "vm3")
    data, port = random.randbytes(1600), random.randrange(20000, 30000)
    whole = bytes(UDP(bytes(IP(src=here.port.fixed_ip, dst=there.fip) / UDP(sport=4001, dport=port) / Raw(data))[20:]))
    common = {"src": here.port.fixed_ip, "dst": there.fip, "id": random.randrange(1, 65535), "proto": 17}
    first = IP(**common, flags="MF", options=b"\1\1\1\1") / Raw(whole[:800])
    second = IP(**common, frag=100) / Raw(whole[800:])
    vm = taps.vm("vm1")
    with udp_receiver(warm.vms["vm3"], port) as process:
        for piece in (first, second):
            vm.send(Ether(src=here.port.mac, dst=here.qr_mac) / piece)
        assert received(process) == (here.fip, 4001, data)


# Checksums


@pytest.mark.parametrize("sender,receiver", VETH_AND_TAP)
def test_udp_without_checksum_keeps_none(warm, taps, sender, receiver):
    """RFC 768: zero means that there is none; it stays zero on the wire and at the receiver, who takes the datagram."""
    here, there = Place(warm, sender), Place(warm, receiver)
    tag, port = fresh_tag(), random.randrange(20000, 30000)
    vm, wire, arrival = taps.vm(sender), taps.wire(here.node), taps.vm(receiver)
    with udp_receiver(warm.vms[receiver], port) as process:
        vm.send(
            Ether(src=here.port.mac, dst=here.qr_mac)
            / IP(src=here.port.fixed_ip, dst=there.fip) / UDP(sport=4002, dport=port, chksum=0) / Raw(tag)
        )  # fmt: skip
        on_wire = Ether(inner(wire.one(match_inner(carries(tag, src=here.fip)), "datagram in the tunnel")))
        arrived = Ether(arrival.one(carries(tag, dst=there.port.fixed_ip), "datagram at the VM"))
        assert received(process) == (here.fip, 4002, tag)
    assert (on_wire[UDP].chksum, arrived[UDP].chksum) == (0, 0)


def test_vxlan_with_outer_checksum(warm, taps):
    """RFC 7348: a receiver must accept a right outer UDP checksum, and drop a packet with a wrong one."""
    there = Place(warm, "vm3")
    node, peer = warm.nodes[there.node], warm.nodes["subnode2"]
    wire, arrival = taps.wire(there.node), taps.vm("vm3")
    good, bad = fresh_tag(), fresh_tag()
    for tag, checksum in ((bad, 0x1234), (good, None)):
        frame = Ether(src=host_mac(warm, "subnode2"), dst=there.fg_mac) / ipv4(
            host_address(warm, "subnode2"), there.fip, 64, UDP(sport=4003, dport=9) / Raw(tag), "udp", 55
        )
        outer = UDP(sport=40000, dport=warm.topology.vxlan_port)
        if checksum is not None:
            outer.chksum = checksum
        wire.send(
            Ether(src=peer.mac("eth0"), dst=node.mac("eth0"))
            / outer_header(peer.node.underlay_address, node.node.underlay_address)
            / outer / VXLAN(flags=8, vni=warm.topology.networks[EXTERNAL].segmentation_id) / frame
        )  # fmt: skip
    arrived = arrival.one(carries(good), "packet with a right outer checksum")
    expected = Ether(src=there.qr_mac, dst=there.port.mac) / ipv4(
        host_address(warm, "subnode2"), there.port.fixed_ip, 62, UDP(sport=4003, dport=9) / Raw(good), "udp", 55
    )
    assert_same("at the VM", arrived, expected)
    arrival.none(carries(bad), "packet with a wrong outer checksum", timeout=0.3)


# Inside a segment


def payload_frame(place: Place, kind: str, tag: bytes, target: Place | None = None) -> Packet:
    """A frame of a VM for everybody, for a group, or for one other VM."""
    mac, fixed = place.port.mac, place.port.fixed_ip
    body = UDP(sport=4004, dport=9) / Raw(tag)
    match kind:
        case "broadcast":
            return Ether(src=mac, dst=BROADCAST) / IP(src=fixed, dst="255.255.255.255") / body
        case "subnet broadcast":
            return Ether(src=mac, dst=BROADCAST) / IP(src=fixed, dst="10.1.15.255") / body
        case "multicast":
            return Ether(src=mac, dst="01:00:5e:01:02:03") / IP(src=fixed, dst="239.1.2.3", ttl=8) / body
        case "IPv6 multicast":
            group = IPv6(src="fe80::1", dst="ff02::1", hlim=255) / ICMPv6EchoRequest(data=tag)
            return Ether(src=mac, dst="33:33:00:00:00:01") / group
        case "IPv6":
            assert target is not None
            echo = IPv6(src="fe80::1", dst="fe80::2") / ICMPv6EchoRequest(data=tag)
            return Ether(src=mac, dst=target.port.mac) / echo
        case "tagged":
            assert target is not None
            tagged = Dot1Q(vlan=100, prio=5) / IP(src=fixed, dst=target.port.fixed_ip) / body
            return Ether(src=mac, dst=target.port.mac) / tagged
        case _:
            raise ValueError(kind)


@contextlib.contextmanager
def captures(lab, names):
    """Every VM's NIC and every node's bridges: name -> capture, VLAN tags in place."""
    opened = {name: Capture(name, lab.vms[name].namespace.netns_path, "eth0") for name in names if name in lab.vms}
    for name in names:
        if name in lab.nodes:
            opened[name] = Capture(name, lab.nodes[name].namespace.netns_path, "br-ex")
    try:
        yield opened
    finally:
        for item in opened.values():
            item.close()


def arrivals(opened, tag: bytes, expected: set[str]) -> dict[str, list[bytes]]:
    """Frames with the tag by place; waits until each of `expected` has one, then a moment for those that should not."""
    seen: dict[str, list[bytes]] = {name: [] for name in opened}

    def collect() -> bool:
        for name, capture in opened.items():
            seen[name] += [frame for frame in capture.read() if tag in frame]
        return all(seen[name] for name in expected)

    with contextlib.suppress(Exception):
        wait_for("the frames", collect, timeout=3, interval=0.02)
    time.sleep(0.2)
    collect()
    return {name: frames for name, frames in seen.items() if frames}


@pytest.mark.parametrize("kind", ["broadcast", "subnet broadcast", "multicast", "IPv6 multicast"])
@pytest.mark.parametrize("sender", [pytest.param("vm1", id="veth"), pytest.param("vm2", id="tap")])
def test_flooding_in_a_tenant_network(warm, sender, kind):
    """Everybody on the network hears it once, as it was sent; the external network does not."""
    tag = fresh_tag()
    frame = bytes(payload_frame(Place(warm, sender), kind, tag))
    others = {name for name in warm.vms if name != sender}
    with captures(warm, [*others, *warm.nodes]) as opened:
        nic = Injector(warm.vms[sender].namespace.netns_path, "eth0")
        nic.send(frame)
        nic.close()
        assert arrivals(opened, tag, others) == {name: [frame] for name in others}


@pytest.mark.parametrize("kind", ["broadcast", "multicast"])
def test_flooding_in_the_external_network(warm, taps, kind):
    """What a node broadcasts on br-ex, every other node hears once; no VM does."""
    tag, source = fresh_tag(), "subnode2"
    destination = {"broadcast": (BROADCAST, "172.24.5.255"), "multicast": ("01:00:5e:01:02:03", "239.1.2.3")}[kind]
    body = UDP(sport=4005, dport=9) / Raw(tag)
    frame = Ether(src=host_mac(warm, source), dst=destination[0]) / IP(
        src=host_address(warm, source), dst=destination[1], ttl=8
    ) / body  # fmt: skip
    others = {name for name in warm.nodes if name != source}
    with captures(warm, [*others, *warm.vms]) as opened:
        taps.host(source, "br-ex").send(frame)
        assert arrivals(opened, tag, others) == {name: [bytes(frame)] for name in others}


@pytest.mark.parametrize("kind", ["IPv6", "tagged"])
@pytest.mark.parametrize("sender,receiver", [*VETH_AND_TAP, pytest.param("vm1", "vm2", id="one-node"),
                                             pytest.param("vm2", "vm1", id="one-node-tap")])
def test_any_frame_crosses_its_segment(warm, taps, sender, receiver, kind):
    """A segment is Ethernet: IPv6 and tagged frames go by MAC, to the one receiver, unchanged."""
    tag, here, there = fresh_tag(), Place(warm, sender), Place(warm, receiver)
    frame = bytes(payload_frame(here, kind, tag, there))
    wire = taps.wire(here.node)
    with captures(warm, [name for name in warm.vms if name != sender]) as opened:
        nic = Injector(warm.vms[sender].namespace.netns_path, "eth0")
        nic.send(frame)
        nic.close()
        assert arrivals(opened, tag, {receiver}) == {receiver: [frame]}
    if here.node != there.node:
        ids = warm.topology.networks[TENANT].tunnel_ids()
        on_wire = wire.one(lambda packet: is_tunnelled(packet, ids) and tag in bytes(packet), "frame in the tunnel")
        assert inner(on_wire) == frame


# Addresses that move


class Watch:
    """A ping at 50 packets a second; when was it answered?"""

    def __init__(self, place, address: str):
        self._process = place.start(["ping", "-n", "-D", "-i", "0.02", "-W", "1", address], stdout=subprocess.PIPE,
                                    stderr=subprocess.STDOUT, text=True)  # fmt: skip

    def answers(self) -> list[float]:
        self._process.terminate()
        out = self._process.communicate(timeout=10)[0]
        return [float(stamp) for stamp in re.findall(r"^\[([0-9.]+)\] \d+ bytes from", out, re.M)]


def first_answer(watch: Watch, since: float) -> float:
    """Seconds from `since` to the first answer; infinite without one."""
    return min((stamp - since for stamp in watch.answers() if stamp > since), default=float("inf"))


def test_floating_ip_that_changes_nodes_is_reachable_within_a_second(warm, taps, original):
    """The new node announces the address by gratuitous ARP (request and reply, RFC 5227 4.3) from its fg- MAC; whoever
    had the old MAC in mind talks to the new owner at once."""
    (old,) = warm.topology.fips_of("vm1")
    (other,) = warm.topology.fips_of("vm3")
    wire = taps.wire("subnode1")
    nodes = [warm.nodes["subnode2"], warm.vms["vm5"]]
    for place in nodes:
        place.run(["ping", "-n", "-c", 1, "-W", 2, old])
    arrival = taps.vm("vm3")
    watches = [Watch(place, old) for place in nodes]
    time.sleep(0.3)

    def swap(text: str) -> str:
        text = text.replace(f"floating_ip_address: {old}, port: vm1", "floating_ip_address: OLD, port: vm3")
        text = text.replace(f"floating_ip_address: {other}, port: vm3", f"floating_ip_address: {other}, port: vm1")
        return text.replace("OLD", old)

    warm.reload(swap)
    moved = time.time()
    time.sleep(2)
    delays = [first_answer(watch, moved) for watch in watches]
    assert max(delays) < 1.0, f"seconds until the first answer from the new owner: {delays}"
    mac = warm.topology.gateway_port("subnode1", EXTERNAL).mac
    for operation in (1, 2):
        wire.one(
            match_inner(lambda p, op=operation: ARP in p and p[ARP].op == op and p[ARP].psrc == p[ARP].pdst == old
                        and p[ARP].hwsrc == mac),
            f"gratuitous ARP, operation {operation}",
        )  # fmt: skip
    fixed = warm.vms["vm3"].port.fixed_ip
    arrival.one(lambda p: ICMP in p and p[IP].dst == fixed and p[ICMP].type == 8, "echo request at the new owner")


def test_vm_that_changes_nodes_is_reachable_within_a_second(warm, original):
    """A live migration: the same MAC, fixed IP and floating IP, plugged in on another node."""
    vm, target = warm.vms["vm5"], "subnode1"
    (fip,) = warm.topology.fips_of("vm5")
    source = vm.node
    watched = [(warm.vms["vm1"], vm.port.fixed_ip), (warm.vms["vm3"], vm.port.fixed_ip), (warm.nodes["primary"], fip),
               (warm.vms["vm6"], vm.port.fixed_ip), (warm.vms["vm1"], fip)]  # fmt: skip
    for place, address in watched:
        place.run(["ping", "-n", "-c", 1, "-W", 2, address])
    watches = [Watch(place, address) for place, address in watched]

    def move(to: str) -> float:
        old_node = warm.nodes[vm.node].namespace
        vm.unplug(old_node)
        warm.reload(lambda text: re.sub(r"(name: vm5, network: \w+, node: )\w+", rf"\g<1>{to}", text))
        vm.port = warm.topology.ports["vm5"]
        vm.plug(warm.nodes[to].namespace, warm.tools / "tap_relay")
        return time.time()

    try:
        moved = move(target)
        time.sleep(2)
        delays = [first_answer(watch, moved) for watch in watches]
    finally:
        move(source)
    assert max(delays) < 1.0, f"seconds until the first answer from the new place: {delays}"


@pytest.mark.parametrize("vm", ["vm1", "vm2"])
def test_vm_reaches_itself_by_its_own_floating_ip(warm, vm):
    """Hairpin with a real stack at both ends: ping and a login."""
    (fip,) = warm.topology.fips_of(vm)
    assert (sent := send_pings(warm.vms[vm].run, fip, 3)).complete, sent.output
    login = warm.vms[vm].run(warm.keys.ssh_command(fip, "hostname"), check=False, timeout=20)
    assert login.stdout.strip() == vm, login.stderr


def test_gratuitous_arp_of_a_node_moves_its_address(warm, taps):
    """A node's address on the external network that comes with another MAC: routers there follow the announcement."""
    node, fresh = "subnode2", "02:00:5e:10:20:30"
    address, netns = host_address(warm, node), f"fip-{warm.topology.networks[EXTERNAL].id}"
    device = warm.topology.gateway_port("primary", EXTERNAL).device
    known = json.loads(warm.nodes["primary"].run_in(netns, f"ip -j neigh show {address} dev {device}"))
    assert known and known[0]["lladdr"] == host_mac(warm, node)
    host = taps.host(node, "br-ex")
    try:
        time.sleep(1.1)  # locktime: an entry that is younger is not overridden
        for operation in (1, 2):
            host.send(Ether(src=fresh, dst=BROADCAST) / ARP(op=operation, hwsrc=fresh, psrc=address, hwdst=BROADCAST,
                                                            pdst=address))  # fmt: skip
        wire, here, tag = taps.wire("primary"), Place(warm, "vm1"), fresh_tag()
        vm = taps.vm("vm1")

        def next_packet_goes_there() -> bool:
            mark = tag + random.randbytes(4).hex().encode()
            vm.send(Ether(src=here.port.mac, dst=here.qr_mac)
                    / ipv4(here.port.fixed_ip, address, 64, UDP(sport=4006, dport=9) / Raw(mark), "udp", 3))
            return Ether(inner(wire.one(match_inner(carries(mark, src=here.fip)), "packet in the tunnel"))).dst == fresh

        wait_for("packets for the new MAC", next_packet_goes_there, timeout=10)
    finally:
        time.sleep(1.1)
        mac = host_mac(warm, node)
        host.send(Ether(src=mac, dst=BROADCAST) / ARP(op=1, hwsrc=mac, psrc=address, pdst=address))
        for name in warm.nodes:
            warm.nodes[node].run(["ping", "-n", "-c", 1, "-W", 2, host_address(warm, name)], check=False)
