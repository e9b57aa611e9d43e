# SPDX-License-Identifier: Apache-2.0
"""What may differ between two runs of Linux itself, and nothing else.

1. The outer header of a tunnel packet that the node sends: UDP source port within 32768..60999, IPv4 ID, and the IPv4
   checksum as it follows.
2. A packet that the node's own stack or router makes (an ICMP error, an echo reply): the IPv4 ID and the checksum as
   it follows. Linux takes IDs from counters that other packets move.

Such fields become zero before frames are compared. A port that is out of range, or a checksum that is wrong, stays, and
so differs.
"""

from __future__ import annotations

from equivalence.build import ones_sum
from equivalence.case import inner_frame, ip_offset
from equivalence.site import WIRE, Site

OUTER_PORTS = range(32768, 61000)
ZERO = b"\0\0"


def normalised(name: str, frame: bytes, site: Site) -> bytes:
    """`frame`, as captured at the capture `name`."""
    inner = inner_frame(frame, site.topology.vxlan_port) if name == WIRE else None
    if inner == 50 and frame[26:30] == site.vtep:
        if int.from_bytes(frame[34:36], "big") in OUTER_PORTS:
            frame = frame[:34] + ZERO + frame[36:]
        frame = _without_ident(frame, 14)
    ip = ip_offset(frame, inner or 0)
    if ip is not None and frame[ip + 12 : ip + 16] in site.own_addresses:
        frame = _without_ident(frame, ip)
    return frame


def _without_ident(frame: bytes, ip: int) -> bytes:
    end = ip + (frame[ip] & 15) * 4
    if ones_sum(frame[ip:end]) != 0xFFFF:
        return frame
    return frame[: ip + 4] + ZERO + frame[ip + 6 : ip + 10] + ZERO + frame[ip + 12 :]
