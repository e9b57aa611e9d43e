# SPDX-License-Identifier: Apache-2.0
"""Tunnels whose far end is not fiplane's: devices made with iproute2 alone, and Open vSwitch with its kernel datapath.

The node `here` has its agent; `there` is somebody else's. Each network has one VM on either. What the programs do not
read (a UDP checksum, an option) the kernel's tunnel device takes off, and the program behind it goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import threading
from dataclasses import dataclass

import pytest
from scapy.contrib.geneve import GENEVE, GeneveOptions
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import GRE, Ether
from scapy.packet import Packet, Raw

from conftest import BUILD, mode
from expect import Handled, carried_in_bpf, handled
from far_ends import OPTION_CLASS, OPTION_TYPE, VARIANTS, OpenVSwitch, Variant, iproute2_end, missing_kind
from frames import OUTER_SOURCE_PORTS, assert_same, assert_tunnelled, match_inner, wrap
from guests import Vm
from lab import Lab, wait_for
from matrix import ping
from namespaces import inside
from open_vswitch import missing_kernel_datapath
from timing import scaled
from topology import Network

TYPES = ("vxlan", "gre", "geneve")
TOPOLOGY = """\
name: interop
nodes:
  - {name: here, underlay: {device: eth0, address: 192.0.2.11}}
  - {name: there, underlay: {device: eth0, address: 192.0.2.12}}
networks:
"""
# What the largest header of a variant takes more than fiplane's own: a GRE sequence number, a Geneve option of four bytes.
MTU = {"vxlan": 1450, "gre": 1458 - 4, "geneve": 1450 - 8}
NETWORK = """\
  - name: net-%(type)s
    network_type: %(type)s
    segmentation_id: %(id)d
    mtu: %(mtu)d
    subnets: [{name: sub-%(type)s, cidr: 10.%(n)d.0.0/24}]
"""
PORTS = """\
  - {name: here-%(type)s, network: net-%(type)s, node: here, fixed_ip: 10.%(n)d.0.11}
  - {name: there-%(type)s, network: net-%(type)s, node: there, fixed_ip: 10.%(n)d.0.12}
"""
TRANSPORTS = {
    "udp": lambda: UDP(sport=40001, dport=7),
    "tcp": lambda: TCP(sport=40002, dport=7, flags="A", seq=1, ack=1),
}
PORT = 20021
TRANSFER = 4 << 20  # bytes, by TCP
SEGMENT, SEGMENTS, SENDS = 1000, 40, 10  # UDP, cut by the kernel (UDP_SEGMENT)
SOL_UDP, UDP_SEGMENT = 17, 103


@pytest.fixture(scope="module")
def kinds() -> list[str]:
    return [type for type in TYPES if not missing_kind(type)]


@pytest.fixture(scope="module")
def lab(kinds, tmp_path_factory):
    """Networks of all types that this kernel has."""
    numbered = [
        {"type": type, "id": 2001 + TYPES.index(type), "n": 21 + TYPES.index(type), "mtu": MTU[type]} for type in kinds
    ]
    file = tmp_path_factory.mktemp("interop") / "interop.yaml"
    networks, ports = ("".join(text % values for values in numbered) for text in (NETWORK, PORTS))
    file.write_text(f"{TOPOLOGY}{networks}ports:\n{ports}")
    options = {**mode(), "fast_path": True, "foreign": ["there"], "all_taps": True, "sshd": False}
    with Lab(file, BUILD, artefacts=BUILD / "fullstack-artefacts", **options) as lab:
        yield lab


@dataclass(frozen=True)
class Pair:
    lab: Lab
    variant: Variant
    network: Network

    @property
    def here(self) -> Vm:
        return self.lab.vms[f"here-{self.variant.type}"]

    @property
    def there(self) -> Vm:
        return self.lab.vms[f"there-{self.variant.type}"]

    def both_ways(self) -> list[tuple[Vm, Vm]]:
        return [(self.here, self.there), (self.there, self.here)]


class OvsKeeper:
    """Open vSwitch runs while its variants do: its tunnel devices take the UDP ports that iproute2's need."""

    def __init__(self, lab: Lab):
        self._lab = lab
        self._stack = contextlib.ExitStack()
        self._running: OpenVSwitch | None = None

    def running(self) -> OpenVSwitch:
        if self._running is None:
            self._running = self._stack.enter_context(OpenVSwitch(self._lab.foreign["there"]))
        return self._running

    def close(self) -> None:
        self._running = None
        self._stack.close()


@pytest.fixture(scope="module")
def ovs_keeper(lab):
    keeper = OvsKeeper(lab)
    yield keeper
    keeper.close()


@pytest.fixture(scope="module", params=VARIANTS, ids=str)
def pair(request, kinds, lab, ovs_keeper):
    variant: Variant = request.param
    if variant.type not in kinds:
        pytest.skip(missing_kind(variant.type))
    if variant.maker == "ovs" and missing_kernel_datapath():
        pytest.skip(missing_kernel_datapath())
    made = Pair(lab, variant, lab.topology.networks[f"net-{variant.type}"])
    node, peer = lab.foreign["there"], lab.topology.nodes["here"].underlay_address
    ports = [made.there.port.device]
    if variant.maker == "iproute2":
        ovs_keeper.close()
        end = iproute2_end(node, peer, made.network, variant, ports)
    else:
        end = ovs_keeper.running().end(peer, made.network, variant, ports)
    # Tenant networks have no ARP in their tunnels: whoever is outside of fiplane knows its VMs beforehand.
    made.there.run(f"ip neigh replace {made.here.port.fixed_ip} lladdr {made.here.port.mac} dev eth0")
    with end:
        yield made


@pytest.fixture(scope="module", params=["Linux", "fast path"])
def path(request, pair):
    """Both paths carry packets once neighbours are resolved and the far end has learned who is where."""
    lab = pair.lab
    lab.set_fast_path(request.param == "fast path")

    def is_settled() -> bool:
        with contextlib.suppress(AssertionError):
            with handled(lab, {"here": Handled("l2_forward", hook="tc_port")}):
                return all(ping(lab, sender.name, receiver.port.fixed_ip, 1) is not None
                           for sender, receiver in pair.both_ways())  # fmt: skip
        return False

    wait_for(f"the tunnel of {pair.variant}", is_settled)
    return request.param


def expected_outer(pair: Pair, seen: bytes, payload: Packet) -> Packet:
    """The far end's tunnel packet; source port and IPv4 ID are its own choice."""
    got, variant, lab = Ether(seen), pair.variant, pair.lab
    sender, receiver = lab.foreign["there"], lab.nodes["here"]
    port = got[UDP].sport if UDP in got else 0
    if variant.type != "gre":
        assert port in OUTER_SOURCE_PORTS[variant.type] or variant.maker == "ovs"
    outer = wrap(pair.network, pair.network.segmentation_id, port)
    if variant.checksum:
        del outer[UDP].chksum  # scapy computes it
    if variant.sequence:
        outer.seqnum_present, outer.sequence_number = 1, got[GRE].sequence_number
    if variant.option:
        outer[GENEVE].options = [GeneveOptions(classid=OPTION_CLASS, type=OPTION_TYPE, data=variant.option)]
    return (
        Ether(src=sender.mac("eth0"), dst=receiver.mac("eth0"))
        / IP(src=sender.node.underlay_address, dst=receiver.node.underlay_address, id=got[IP].id,
             flags="DF" if variant.df else 0, ttl=payload[IP].ttl if variant.inner_ttl else 64)
        / outer
        / payload
    )  # fmt: skip


def fresh_tag() -> bytes:
    return b"interop-" + random.randbytes(8).hex().encode()


def tagged(sender: Vm, receiver: Vm, transport: Packet, tag: bytes) -> Packet:
    return (
        Ether(src=sender.port.mac, dst=receiver.port.mac)
        / IP(src=sender.port.fixed_ip, dst=receiver.port.fixed_ip, ttl=61, id=random.randrange(1, 65535))
        / transport
        / Raw(tag + bytes(range(60)))
    )


def test_gre_with_a_checksum_goes_nowhere(kinds, lab, taps):
    """A gretap device that was not told to expect checksums drops packets that have one (net/ipv4/ip_tunnel.c,
    ip_tunnel_rcv). The programs leave them to it. Stands first: it has a far end of its own."""
    if "gre" not in kinds:
        pytest.skip(missing_kind("gre"))
    variant = Variant("iproute2", "gre", "ocsum")
    pair = Pair(lab, variant, lab.topology.networks["net-gre"])
    peer = lab.topology.nodes["here"].underlay_address
    with iproute2_end(lab.foreign["there"], peer, pair.network, variant, [pair.there.port.device]):
        for on in (False, True):
            lab.set_fast_path(on)
            tag = fresh_tag()
            departure, wire, arrival = taps.vm(pair.there.name), taps.wire("here"), taps.vm(pair.here.name)
            with handled(lab, {"here": Handled("tunnel_header", hook="tc_underlay")}):
                departure.send(tagged(pair.there, pair.here, TRANSPORTS["udp"](), tag))
                on_wire = wire.one(match_inner(lambda packet: tag in bytes(packet)), "tunnel packet of the far end")
            assert Ether(on_wire)[GRE].chksum_present == 1
            arrival.none(lambda packet: tag in bytes(packet), "frame at the VM", timeout=0.3)


@pytest.mark.parametrize("protocol", TRANSPORTS)
def test_frames_from_there(pair, path, taps, protocol):
    """The far end's frame on the wire, whole, as this variant writes it; and at the VM, as it was sent."""
    tag = fresh_tag()
    frame = tagged(pair.there, pair.here, TRANSPORTS[protocol](), tag)
    sender = pair.lab.foreign["there"]
    has_tag = lambda packet: tag in bytes(packet)  # noqa: E731
    departure, wire, arrival = taps.vm(pair.there.name), taps.wire("here"), taps.vm(pair.here.name)
    # TCP is left to the tunnel device for GRO's sake.
    at = "tc_tunnel" if pair.variant.left or protocol == "tcp" else "tc_underlay"
    reasons = [Handled("l2_forward", hook=at)]
    if pair.variant.left:
        reasons.append(Handled(pair.variant.left, hook="tc_underlay"))
    if pair.variant.checksum:
        sender.run(["ethtool", "-K", "eth0", "tx", "off"])  # a wire carries checksums that are computed
    try:
        with contextlib.ExitStack() as counted:
            for reason in reasons:
                counted.enter_context(handled(pair.lab, {"here": reason}))
            departure.send(frame)
            on_wire = wire.one(match_inner(has_tag), "tunnel packet of the far end")
            arrived = arrival.one(has_tag, "frame at the VM")
    finally:
        if pair.variant.checksum:
            sender.run(["ethtool", "-K", "eth0", "tx", "on"])
    assert_same("on the wire", on_wire, expected_outer(pair, on_wire, frame))
    assert_same("at the VM", arrived, frame)


@pytest.mark.parametrize("protocol", TRANSPORTS)
def test_frames_from_here(pair, path, taps, protocol):
    """What fiplane writes, whole, is taken by the far end and delivered as it was sent."""
    tag = fresh_tag()
    frame = tagged(pair.here, pair.there, TRANSPORTS[protocol](), tag)
    has_tag = lambda packet: tag in bytes(packet)  # noqa: E731
    departure, wire, arrival = taps.vm(pair.here.name), taps.wire("here"), taps.vm(pair.there.name)
    with handled(pair.lab, {"here": Handled("l2_forward", hook="tc_port")}):
        departure.send(frame)
        on_wire = wire.one(match_inner(has_tag), "tunnel packet of fiplane")
        arrived = arrival.one(has_tag, "frame at the far end's VM")
    lab = pair.lab
    assert_tunnelled("on the wire", on_wire, lab.nodes["here"], lab.foreign["there"], pair.network.name, frame)
    assert_same("at the far end's VM", arrived, frame)


def test_ping_both_ways(pair, path):
    with handled(pair.lab, {"here": Handled("l2_forward")}):
        for sender, receiver in pair.both_ways():
            answered = ping(pair.lab, sender.name, receiver.port.fixed_ip, 1) is not None
            assert answered, f"{sender.name} -> {receiver.name}"


def opened(vm: Vm, kind: socket.SocketKind) -> socket.socket:
    """In the VM's namespace."""
    with inside(vm.namespace.netns_path):
        made = socket.socket(socket.AF_INET, kind)
    made.settimeout(scaled(10))
    return made


def tcp_transfer(sender: Vm, receiver: Vm, data: bytes) -> str:
    """SHA-256 of what arrived."""
    digest = hashlib.sha256()
    with opened(receiver, socket.SOCK_STREAM) as listener, opened(sender, socket.SOCK_STREAM) as client:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((receiver.port.fixed_ip, PORT))
        listener.listen()

        def receive() -> None:
            with listener.accept()[0] as connection:
                connection.settimeout(scaled(10))
                while chunk := connection.recv(1 << 20):
                    digest.update(chunk)

        thread = threading.Thread(target=receive)
        thread.start()
        try:
            client.connect((receiver.port.fixed_ip, PORT))
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        finally:
            thread.join()
    return digest.hexdigest()


def udp_transfer(sender: Vm, receiver: Vm) -> list[bytes]:
    """What arrived of SENDS buffers that the kernel cuts into SEGMENTS datagrams each."""
    with opened(receiver, socket.SOCK_DGRAM) as sink, opened(sender, socket.SOCK_DGRAM) as source:
        sink.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
        sink.bind((receiver.port.fixed_ip, PORT))
        source.setsockopt(SOL_UDP, UDP_SEGMENT, SEGMENT)
        got = []
        for send in range(SENDS):
            source.sendto(b"".join(datagrams(send)), (receiver.port.fixed_ip, PORT))
            with contextlib.suppress(TimeoutError):
                while len(got) < (send + 1) * SEGMENTS:
                    got.append(sink.recv(65536))
    return got


def datagrams(send: int) -> list[bytes]:
    return [(send * SEGMENTS + i).to_bytes(4, "big") * (SEGMENT // 4) for i in range(SEGMENTS)]


def test_large_transfers_both_ways(pair, path):
    """TCP with segmentation offload, and UDP datagrams that are cut late; all of it carried by BPF where it is on."""
    data = random.randbytes(TRANSFER)
    counted = contextlib.nullcontext() if pair.variant.left else carried_in_bpf(pair.lab, 20)
    with counted, handled(pair.lab, {"here": Handled("l2_forward")}):
        for sender, receiver in pair.both_ways():
            assert tcp_transfer(sender, receiver, data) == hashlib.sha256(data).hexdigest()
            assert sorted(udp_transfer(sender, receiver)) == [item for send in range(SENDS) for item in datagrams(send)]
