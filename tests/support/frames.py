# SPDX-License-Identifier: Apache-2.0
"""Frames on the wire: captured as they are, compared whole with frames that scapy builds."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import time
from typing import Callable, Container, Iterator

logging.getLogger("scapy").setLevel(logging.ERROR)
from scapy.contrib.geneve import GENEVE  # noqa: E402
from scapy.layers.inet import IP, UDP  # noqa: E402
from scapy.layers.inet6 import IPv6  # noqa: E402
from scapy.layers.l2 import ARP, GRE, Ether  # noqa: E402
from scapy.layers.vxlan import VXLAN  # noqa: E402
from scapy.packet import Packet  # noqa: E402

from lab import Lab, LabNode  # noqa: E402
from namespaces import packet_socket, receive_frame  # noqa: E402
from timing import scaled  # noqa: E402
from topology import Network  # noqa: E402

# What Linux's devices choose from: net.ipv4.ip_local_port_range, and all there are.
OUTER_SOURCE_PORTS = {"vxlan": range(32768, 61000), "geneve": range(1, 65536)}

Match = Callable[[Packet], bool]


class Tap:
    """Every frame that passes a device from now on, in both directions."""

    def __init__(self, what: str, packet: socket.socket):
        self.what = what
        self._socket = packet
        self._seen: list[bytes] = []

    def send(self, frame: Packet | bytes) -> None:
        """Sends out of the device. What this tap sees includes it."""
        self._socket.send(bytes(frame))

    def close(self) -> None:
        self._socket.close()

    def frames(self, match: Match, count: int = 1, timeout: float = 2.0) -> list[bytes]:
        """The first `count` frames that match, or fewer if no more come within `timeout` seconds (scaled)."""
        deadline = time.monotonic() + scaled(timeout)
        checked, found = 0, []
        while True:
            for raw in self._seen[checked:]:
                checked += 1
                if match(Ether(raw)):
                    found.append(raw)
                    if len(found) == count:
                        return found
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._socket], [], [], left)[0]:
                return found
            self._drain()

    def one(self, match: Match, what: str, timeout: float = 2.0) -> bytes:
        """The one frame that must come."""
        found = self.frames(match, 1, timeout)
        if not found:
            raise AssertionError(f"at {self.what}: no {what} within {scaled(timeout):g} s; seen were:\n{self.dissected()}")
        return found[0]

    def none(self, match: Match, what: str, timeout: float = 0.5) -> None:
        found = self.frames(match, 1, timeout)
        if found:
            raise AssertionError(f"at {self.what}: there must be no {what}, but there was:\n{dissect(found[0])}")

    def dissected(self) -> str:
        return "\n".join(Ether(raw).summary() for raw in self._seen[-40:]) or "nothing"

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                self._seen.append(receive_frame(self._socket))


class Taps:
    """Opens taps and closes them all at the end of a test."""

    def __init__(self, lab: Lab):
        self.lab = lab
        self._open: list[Tap] = []

    def wire(self, node: str, physical_network: str | None = None) -> Tap:
        """Between a node and the wire: frames that the node sends and receives on the underlay or a physical network."""
        what = f"the wire of {node}" + (f" to {physical_network}" if physical_network else "")
        tap = Tap(what, self.lab.wire.packet_socket(self.lab.wire_port(node, physical_network)))
        return self._keep(tap)

    def outside(self, name: str) -> Tap:
        """Untagged: what the host itself sends and receives on its network."""
        host = self.lab.outside[name]
        return self._keep(Tap(f"{host.device} of {name}", host.namespace.packet_socket(host.device)))

    def vm(self, name: str) -> Tap:
        return self._keep(Tap(f"eth0 of {name}", self.lab.vms[name].namespace.packet_socket("eth0")))

    def host(self, node: str, device: str) -> Tap:
        return self._keep(Tap(f"{device} of {node}", self.lab.nodes[node].namespace.packet_socket(device)))

    def router(self, node: str, netns: str, device: str) -> Tap:
        path = self.lab.nodes[node].netns_path(netns)
        return self._keep(Tap(f"{device} in {netns} of {node}", packet_socket(path, device)))

    def close(self) -> None:
        for tap in self._open:
            tap.close()

    def _keep(self, tap: Tap) -> Tap:
        self._open.append(tap)
        return tap


@contextlib.contextmanager
def taps(lab: Lab) -> Iterator[Taps]:
    opened = Taps(lab)
    try:
        yield opened
    finally:
        opened.close()


def dissect(raw: bytes | Packet) -> str:
    packet = raw if isinstance(raw, Packet) else Ether(raw)
    return packet.show2(dump=True) + f"\n{len(bytes(packet))} bytes: {bytes(packet).hex()}\nscapy: {packet!r}"


def assert_same(what: str, seen: bytes, expected: Packet) -> None:
    """Byte for byte. A difference is shown with both frames dissected."""
    wanted = bytes(expected)
    if seen == wanted:
        return
    first = next((i for i, (a, b) in enumerate(zip(seen, wanted)) if a != b), min(len(seen), len(wanted)))
    raise AssertionError(
        f"{what}: first difference at byte {first} ({field_at(Ether(wanted), first)}); lengths: seen {len(seen)}, "
        f"expected {len(wanted)}\n--- seen\n{dissect(seen)}\n--- expected\n{dissect(wanted)}"
    )


def field_at(packet: Packet, offset: int) -> str:
    """Which layer's field a byte belongs to, as far as scapy can say."""
    start, layer = 0, packet
    while layer.payload and start + len(layer) - len(layer.payload) <= offset:
        start += len(layer) - len(layer.payload)
        layer = layer.payload
    inside = offset - start
    for field in layer.fields_desc:
        size = field.sz if isinstance(field.sz, (int, float)) else 0
        if inside < size:
            return f"{layer.name}.{field.name}"
        inside -= size
    return layer.name


def tunnel_of(packet: Packet) -> tuple[int, Packet] | None:
    """VNI or key and the frame inside, if this is a tunnel packet."""
    if UDP in packet and VXLAN in packet:
        return packet[VXLAN].vni, packet[VXLAN].payload
    if UDP in packet and GENEVE in packet:
        return packet[GENEVE].vni, packet[GENEVE].payload
    if GRE in packet and packet[GRE].proto == 0x6558 and packet[GRE].key_present:
        return packet[GRE].key, packet[GRE].payload
    return None


def is_tunnelled(packet: Packet, ids: Container[int] | None = None) -> bool:
    tunnel = tunnel_of(packet)
    return tunnel is not None and (ids is None or tunnel[0] in ids)


def inner(raw: bytes) -> bytes:
    """The frame inside a tunnel packet without options, byte for byte."""
    if raw[12:14] == b"\x86\xdd":
        return raw[70:]
    return raw[42 if raw[23] == 47 else 50 :]


def outer(packet: Packet) -> Packet:
    """The IP header, of either version, next to the Ethernet header."""
    return packet[Ether].payload


def ends(packet: Packet) -> tuple[str, str] | None:
    """Source and destination of the outer IP header; None: there is none."""
    header = outer(packet)
    return (header.src, header.dst) if isinstance(header, (IP, IPv6)) else None


def is_arp_answer(address: str) -> Match:
    """An answer to who-has `address`. An announcement (arping -A) of it has the same opcode and asks about itself."""

    def matches(packet: Packet) -> bool:
        return ARP in packet and packet[ARP].op == 2 and packet[ARP].psrc == address != packet[ARP].pdst

    return matches


def match_inner(match: Match, sender: str | None = None) -> Match:
    """Matches tunnel packets whose inner frame matches. `sender`: only from this outer source address."""

    def check(packet: Packet) -> bool:
        tunnel = tunnel_of(packet)
        if tunnel is None or (sender is not None and outer(packet).src != sender):
            return False
        return match(tunnel[1])

    return check


def wrap(network: Network, number: int, port: int) -> Packet:
    """What stands between the outer IP header and the frame: as Linux's vxlan device (RFC 7348, no checksum), its
    gretap device (RFC 2890, a key and nothing else) or its geneve device (RFC 8926, neither checksum nor options) makes it."""
    if network.type == "gre":
        return GRE(key_present=1, key=number, proto=0x6558)
    shim = GENEVE(proto=0x6558, vni=number) if network.type == "geneve" else VXLAN(flags=8, vni=number)
    return UDP(sport=port, dport=network.port, chksum=0) / shim


def outer_header(source: str, destination: str, **fields) -> Packet:
    """As Linux's tunnel devices make it; `fields` are those of IP or of IPv6."""
    return IPv6(src=source, dst=destination, **fields) if ":" in source else IP(src=source, dst=destination, **fields)


def assert_tunnelled(
    what: str, seen: bytes, source: LabNode, destination: LabNode, network: str, payload: Packet
) -> None:
    """`seen` must be `payload` in a tunnel of a network on the way from one node to another, with outer TTL 64 and no DF,
    or hop limit 64 and no flow label. The outer source port and IPv4 ID are the sender's choice; so is, in a star, which of the
    two tunnels it was seen in."""
    got, lab = Ether(seen), source.lab
    port = got[UDP].sport if UDP in got else 0
    carrier = lab.topology.networks[network]
    legs = [tuple(lab.site(end) for end in leg) for leg in carrier.route(source.name, destination.name)]
    sender, receiver = next((leg for leg in legs if leg[0].node.underlay_address == outer(got).src), legs[0])
    if carrier.type != "gre":
        assert port in OUTER_SOURCE_PORTS[carrier.type], f"{what}: outer source port {port}"
    fields = {"tc": 0, "fl": 0, "hlim": 64}
    if lab.topology.underlay_version == 4:
        fields = {"ttl": 64, "id": outer(got).id}
    expected = (
        Ether(src=sender.mac(sender.node.underlay_device), dst=receiver.mac(receiver.node.underlay_device))
        / outer_header(sender.node.underlay_address, receiver.node.underlay_address, **fields)
        / wrap(carrier, carrier.tunnel_id(sender.name, receiver.name), port)
        / payload
    )
    assert_same(what, seen, expected)
