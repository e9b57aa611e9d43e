# SPDX-License-Identifier: Apache-2.0
"""One test case: a packet, or a few that belong together, and how its outputs are recognised."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from equivalence.sockets import VnetHeader

TOKEN = b"\xf1EQ\x9a"
ARP_MARK = b"\x02\xa7"
SENTINEL = b"\xf1EQ\x9b"


@dataclass(frozen=True)
class Shot:
    device: str  # name of an injector
    frame: bytes
    header: VnetHeader | None = None


@dataclass
class Case:
    """`prime`: packets whose outputs must be out before `shots` are sent: the flow that an ICMP error is about."""

    number: int
    shots: list[Shot]
    prime: list[Shot] = field(default_factory=list)
    traits: list[str] = field(default_factory=list)

    def describe(self) -> str:
        return f"packet {self.number}: {', '.join(self.traits)}"


def token(number: int) -> bytes:
    return TOKEN + struct.pack("!I", number)


def ident(number: int) -> int:
    """IPv4 ID of a case's packets: different within any batch."""
    return number % 65521 + 1


def outer_port(number: int) -> int:
    """Of the tunnel packets that peers send: in the range of Linux's vxlan devices."""
    return 32768 + number % 28000


def source_port(number: int) -> int:
    return 10000 + number % 50000


def arp_mark(number: int) -> bytes:
    """A MAC address that carries the number."""
    return ARP_MARK + struct.pack("!I", number)


def number_in(frame: bytes) -> int | None:
    """The case that a frame carries or quotes, if its payload is long enough to say so."""
    at = frame.find(TOKEN)
    if 0 <= at <= len(frame) - 8:
        return struct.unpack_from("!I", frame, at + 4)[0]
    at = frame.find(b"\x08\x06\0\1\x08\0\6\4") + 20  # the target's MAC in ARP for IPv4 over Ethernet
    if at >= 20 and frame[at : at + 2] == ARP_MARK and len(frame) >= at + 6:
        return struct.unpack_from("!I", frame, at + 2)[0]
    return None


def _behind_tags(frame: bytes, at: int) -> int:
    """Where what the Ethernet frame at `at` carries begins, behind any VLAN tags; its type is the two bytes before."""
    at += 12
    while frame[at : at + 2] in (b"\x81\x00", b"\x88\xa8"):
        at += 4
    return at + 2


def ip_offset(frame: bytes, at: int = 0) -> int | None:
    """Where the IPv4 header of the Ethernet frame at `at` begins, behind any VLAN tags."""
    at = _behind_tags(frame, at)
    return at if frame[at - 2 : at] == b"\x08\x00" and len(frame) >= at + 20 and frame[at] >> 4 == 4 else None


def ipv6_offset(frame: bytes) -> int | None:
    """Where the IPv6 header of a frame begins, behind any VLAN tags."""
    at = _behind_tags(frame, 0)
    return at if frame[at - 2 : at] == b"\x86\xdd" and len(frame) >= at + 40 and frame[at] >> 4 == 6 else None


def inner_frame(frame: bytes, tunnel_port: int) -> int | None:
    """Where the inner frame of a VXLAN packet, over IPv4 or IPv6, begins, if this is one."""
    ip, ip6 = ip_offset(frame), ipv6_offset(frame)
    if ip6 is not None and frame[ip6 + 6] == 17:
        udp = ip6 + 40
    elif ip is not None and frame[ip + 9] == 17 and not int.from_bytes(frame[ip + 6 : ip + 8], "big") & 0x1FFF:
        udp = ip + (frame[ip] & 15) * 4
    else:
        return None
    return udp + 16 if frame[udp + 2 : udp + 4] == tunnel_port.to_bytes(2, "big") else None


def idents_in(frame: bytes, tunnel_port: int) -> list[int]:
    """IPv4 IDs of the headers of a frame (of the inner one, if there is one), quoted headers last."""
    found = []
    ip = ip_offset(frame, inner_frame(frame, tunnel_port) or 0)
    while ip is not None and len(frame) >= ip + 20 and frame[ip] >> 4 == 4:
        found.append(struct.unpack_from("!H", frame, ip + 4)[0])
        transport = ip + (frame[ip] & 15) * 4
        if frame[ip + 9] != 1 or len(frame) < transport + 28 or frame[transport] not in (3, 4, 5, 11, 12):
            break
        ip = transport + 8
    return found
