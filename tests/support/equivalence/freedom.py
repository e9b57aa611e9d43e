# SPDX-License-Identifier: Apache-2.0
"""What may differ between two runs of Linux itself, and nothing else.

1. The outer header of a tunnel packet that the node sends: UDP source port within 32768..60999; over IPv4 also the ID,
   and the checksum as it follows.
2. A packet that the node's own stack or router makes: the IPv4 ID and the checksum as it follows. Linux takes IDs from
   counters that other packets move. Such a packet comes from an own address; or it is an ICMP error from a floating
   IP (translated, or of a legacy router) with precedence "internetwork control", which no case's own errors have.

3. What a clock causes is left out: the agent's announcements of floating IPs by gratuitous ARP, and "reassembly time
   exceeded" from the node's own stack, a second after a fragment whose datagram never became whole.

4. What a legacy router sends with its gateway's address in place of a VM's (fully-random): source port, or identifier of
   an ICMP query, and the checksum as it follows.

Such fields become the same before frames are compared: the lowest port, ID zero, and its checksum. A port that is out
of range, or a header whose checksum is wrong, stays, and so differs.
"""

from __future__ import annotations

from equivalence.build import ICMP, SCTP, TCP, UDP, UDPLITE, checksum, ones_sum
from equivalence.case import inner_frame, ip_offset, ipv6_offset
from equivalence.site import WIRE, Site

OUTER_PORTS = range(32768, 61000)
ICMPV6 = 58
LOWEST_PORT = b"\x80\0"
ZERO = b"\0\0"
# Where the port or identifier that source NAT chooses is, and the checksum over it: offsets in the transport header.
CHOSEN = {ICMP: (4, 2), TCP: (0, 16), UDP: (0, 6), UDPLITE: (0, 6), SCTP: (0, 8)}
ICMP_QUERIES = (0, 8, 13, 14, 15, 16, 17, 18)


def is_from_a_clock(name: str, frame: bytes, site: Site) -> bool:
    return is_announcement(frame, site) or _is_reassembly_timeout(name, frame, site)


def _is_reassembly_timeout(name: str, frame: bytes, site: Site) -> bool:
    inner = inner_frame(frame, site.topology.vxlan_port) if name == WIRE else None
    ip6 = ipv6_offset(frame) if name == WIRE else None
    if ip6 is not None and inner is None:
        return frame[ip6 + 8 : ip6 + 24] == site.vtep and frame[ip6 + 6] == ICMPV6 and frame[ip6 + 40 : ip6 + 42] == b"\3\1"
    ip = ip_offset(frame, inner or 0)
    if ip is None or frame[ip + 9] != 1 or not _is_made_here(frame, ip, site):
        return False
    icmp = ip + (frame[ip] & 15) * 4
    return frame[icmp : icmp + 2] == b"\x0b\1"


def is_announcement(frame: bytes, site: Site) -> bool:
    """Gratuitous ARP for a floating IP of the node under test, from the MAC that owns it there."""
    at = frame.find(b"\x08\x06\0\1\x08\0\6\4\0")
    if at < 0:
        return False
    sender = frame[at + 10 : at + 20]
    return frame[at + 26 : at + 30] == sender[6:] and sender in site.announced


def normalised(name: str, frame: bytes, site: Site) -> bytes:
    """`frame`, as captured at the capture `name`."""
    inner = inner_frame(frame, site.topology.vxlan_port) if name == WIRE else None
    if inner == 50 and frame[26:30] == site.vtep:
        frame = _without_ident(_without_outer_port(frame, 34), 14)
    if inner == 70 and frame[22:38] == site.vtep:
        frame = _without_outer_port(frame, 54)
    ip = ip_offset(frame, inner or 0)
    if ip is not None and _is_made_here(frame, ip, site):
        frame = _without_ident(frame, ip)
    if ip is not None and frame[ip + 12 : ip + 16] in site.snat_addresses:
        frame = _without_chosen_port(frame, ip)
    return frame


def _without_outer_port(frame: bytes, at: int) -> bytes:
    if int.from_bytes(frame[at : at + 2], "big") not in OUTER_PORTS:
        return frame
    return frame[:at] + LOWEST_PORT + frame[at + 2 :]


def _without_chosen_port(frame: bytes, ip: int) -> bytes:
    l4 = ip + (frame[ip] & 15) * 4
    port, check = CHOSEN.get(frame[ip + 9], (0, 0))
    is_later_fragment = int.from_bytes(frame[ip + 6 : ip + 8], "big") & 0x1FFF
    if not check or is_later_fragment or len(frame) < l4 + check + (4 if frame[ip + 9] == SCTP else 2):
        return frame
    if frame[ip + 9] == ICMP and frame[l4] not in ICMP_QUERIES:
        return frame
    chosen, sum_ = frame[l4 + port : l4 + port + 2], frame[l4 + check : l4 + check + 2]
    out = bytearray(frame)
    out[l4 + port : l4 + port + 2] = ZERO
    if frame[ip + 9] == SCTP:
        out[l4 + check : l4 + check + 4] = ZERO + ZERO  # a CRC, which tells nothing without the port
    elif sum_ != ZERO:
        # What the checksum would be with port zero, whether it is right or not.
        out[l4 + check : l4 + check + 2] = (ones_sum(chosen + sum_) % 0xFFFF).to_bytes(2, "big")
    return bytes(out)


def _is_made_here(frame: bytes, ip: int, site: Site) -> bool:
    icmp = ip + (frame[ip] & 15) * 4
    return frame[ip + 12 : ip + 16] in site.own_addresses or (
        frame[ip + 1] & 0xE0 == 0xC0
        and frame[ip + 9] == 1
        and frame[ip + 12 : ip + 16] in site.own_fips
        and frame[icmp : icmp + 1] in (b"\3", b"\x0b", b"\x0c")
    )


def _without_ident(frame: bytes, ip: int) -> bytes:
    end = ip + (frame[ip] & 15) * 4
    if ones_sum(frame[ip:end]) != 0xFFFF:
        return frame
    header = frame[ip : ip + 4] + ZERO + frame[ip + 6 : ip + 10] + ZERO + frame[ip + 12 : end]
    return frame[:ip] + header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + frame[end:]
