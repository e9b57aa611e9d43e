# SPDX-License-Identifier: Apache-2.0
"""Transport packets of every protocol that the programs or conntrack tell apart."""

from __future__ import annotations

import struct
from random import Random

from equivalence import build
from equivalence.case import ident, source_port, token

DESTINATION_PORTS = (7, 22, 53, 80, 443, 4789, 9999)
TCP_FLAGS = (0x02, 0x02, 0x12, 0x10, 0x18, 0x11, 0x04, 0x14, 0x00, 0x29, 0xC2, 0x30, 0x3F)
# kind -> weight
KINDS = {
    "tcp": 22, "udp": 22, "udp0": 8, "echo": 12, "echo_reply": 3, "icmp_other": 3, "sctp": 5, "gre": 4, "esp": 4,
    "ah": 2, "unknown": 5, "udplite": 2, "dccp": 2, "ipip": 2,
}  # fmt: skip
PORTS = {"tcp", "udp", "udp0", "udplite", "dccp", "sctp"}


def filler(rng: Random, number: int, length: int) -> bytes:
    """`length` bytes, with the case's token in front if there is room."""
    mark = token(number)
    if length < len(mark):
        return rng.randbytes(length)
    return mark + rng.randbytes(length - len(mark))


def choose(rng: Random) -> str:
    return rng.choices(list(KINDS), KINDS.values())[0]


def header_length(kind: str) -> int:
    return {"tcp": 20, "udp": 8, "udp0": 8, "sctp": 28, "gre": 4, "esp": 8, "ah": 24, "udplite": 8, "dccp": 16,
            "ipip": 28}.get(kind, 0 if kind == "unknown" else 8)  # fmt: skip


def make(rng: Random, kind: str, number: int, src: bytes, dst: bytes, length: int, *, bad: bool = False,
         sport: int | None = None, dport: int | None = None, opening: bool = False) -> tuple[int, bytes]:  # fmt: skip
    """(IP protocol, transport packet with `length` bytes of payload). `bad`: the checksum is wrong. `opening`:
    conntrack takes it for the first packet of a flow."""
    payload = filler(rng, number, length)
    sport = source_port(number) if sport is None else sport
    dport = rng.choice(DESTINATION_PORTS) if dport is None else dport
    wrong = rng.randrange(1, 0xFFFF) if bad else None
    match kind:
        case "tcp":
            return build.TCP, build.tcp(src, dst, sport, dport, payload, seq=number,
                                        flags=0x02 if opening else rng.choice(TCP_FLAGS),
                                        ack=rng.getrandbits(32), check=wrong)  # fmt: skip
        case "udp":
            return build.UDP, build.udp(src, dst, sport, dport, payload, check=wrong)
        case "udp0":
            return build.UDP, build.udp(src, dst, sport, dport, payload, check=0)
        case "echo" | "echo_reply":
            rest = struct.pack("!HH", ident(number), rng.getrandbits(16))
            return build.ICMP, build.icmp(8 if kind == "echo" else 0, 0, rest, payload, check=wrong)
        case "icmp_other":
            what = rng.choice((9, 10, 14, 15, 17, 30, 40, 42))  # 13 asks for the time
            return build.ICMP, build.icmp(what, 0, struct.pack("!HH", ident(number), 1), payload, check=wrong)
        case "sctp":
            return build.SCTP, _sctp(rng, sport, dport, payload, wrong, opening)
        case "gre":
            return build.GRE, struct.pack("!HH", 0, 0x6558) + payload
        case "esp":
            return build.ESP, struct.pack("!II", number, 1) + payload
        case "ah":
            return build.AH, struct.pack("!BBHII", build.UDP, 4, 0, number, 1) + bytes(12) + payload
        case "udplite":
            return build.UDPLITE, struct.pack("!HHHH", sport, dport, 8, rng.getrandbits(16)) + payload
        case "dccp":
            return build.DCCP, struct.pack("!HHBBHBBHI", sport, dport, 4, 0, rng.getrandbits(16), 0, 0, 0, 1) + payload
        case "ipip":
            inner = build.udp(src, dst, sport, dport, payload)
            return build.IPIP, build.ipv4(src, dst, build.UDP, inner, ident=ident(number))
        case _:
            return build.UNKNOWN, payload


def _sctp(rng: Random, sport: int, dport: int, payload: bytes, wrong: int | None, opening: bool) -> bytes:
    payload += bytes(-len(payload) % 4)
    if opening or rng.random() < 0.5:
        # INIT: no tag in the header; initiate tag, window, streams, initial TSN; padding parameter.
        body = struct.pack("!IIHHI", rng.randrange(1, 1 << 32), 65536, 1, 1, 1)
        parameter = struct.pack("!HH", 0x8005, 4 + len(payload)) + payload
        chunk = struct.pack("!BBH", 1, 0, 4 + len(body) + len(parameter)) + body + parameter
        return build.sctp(sport, dport, 0, chunk, check=wrong)
    chunk = struct.pack("!BBHIHHI", 0, 3, 16 + len(payload), 1, 0, 0, 0) + payload
    return build.sctp(sport, dport, rng.getrandbits(32), chunk, check=wrong)
