# SPDX-License-Identifier: Apache-2.0
"""What may differ between two runs of Linux itself, and nothing else.

1. The outer header of a tunnel packet that the node sends: UDP source port within 32768..60999, IPv4 ID, and the IPv4
   checksum as it follows.
2. A packet that the node's own stack or router makes (an ICMP error, an echo reply): the IPv4 ID and the checksum as
   it follows. Linux takes IDs from counters that other packets move.

3. The agent announces floating IPs by gratuitous ARP when it likes: those frames are left out.

Such fields become the same before frames are compared: the lowest port, ID zero, and its checksum. A port that is out of
range, or a header whose checksum is wrong, stays, and so differs.
"""

from __future__ import annotations

from equivalence.build import checksum, ones_sum
from equivalence.case import inner_frame, ip_offset
from equivalence.site import WIRE, Site

OUTER_PORTS = range(32768, 61000)
LOWEST_PORT = b"\x80\0"
ZERO = b"\0\0"


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
        if int.from_bytes(frame[34:36], "big") in OUTER_PORTS:
            frame = frame[:34] + LOWEST_PORT + frame[36:]
        frame = _without_ident(frame, 14)
    ip = ip_offset(frame, inner or 0)
    if ip is not None and frame[ip + 12 : ip + 16] in site.own_addresses:
        frame = _without_ident(frame, ip)
    return frame


def _without_ident(frame: bytes, ip: int) -> bytes:
    end = ip + (frame[ip] & 15) * 4
    if ones_sum(frame[ip:end]) != 0xFFFF:
        return frame
    header = frame[ip : ip + 4] + ZERO + frame[ip + 6 : ip + 10] + ZERO + frame[ip + 12 : end]
    return frame[:ip] + header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + frame[end:]
