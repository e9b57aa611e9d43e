# SPDX-License-Identifier: Apache-2.0
"""Frames as bytes, every field of which a caller may set wrong. Addresses are bytes in wire order, numbers in host
order.

Written with struct and not with scapy: a run makes hundreds of thousands of frames.
"""

from __future__ import annotations

import struct

ETH_IPV4, ETH_ARP, ETH_IPV6, ETH_VLAN, ETH_QINQ = 0x0800, 0x0806, 0x86DD, 0x8100, 0x88A8
ICMP, IPIP, TCP, UDP, DCCP, GRE, ESP, AH, SCTP, UDPLITE, UNKNOWN = 1, 4, 6, 17, 33, 47, 50, 51, 132, 136, 253
DF, MF = 0x4000, 0x2000


def ones_sum(data: bytes) -> int:
    """Folded ones' complement sum (RFC 1071); zero only if all bytes are."""
    if len(data) & 1:
        data += b"\0"
    number = int.from_bytes(data, "big")
    return number % 0xFFFF or (0xFFFF if number else 0)


def checksum(data: bytes) -> int:
    return 0xFFFF ^ ones_sum(data)


def pseudo_header(src: bytes, dst: bytes, protocol: int, length: int) -> bytes:
    """Of IPv4, or of IPv6 if that is what the addresses are."""
    if len(src) == 16:
        return src + dst + struct.pack("!II", length, protocol)
    return src + dst + struct.pack("!BBH", 0, protocol, length & 0xFFFF)


def eth(dst: bytes, src: bytes, kind: int, payload: bytes) -> bytes:
    return dst + src + struct.pack("!H", kind) + payload


def vlan(frame: bytes, vid: int, kind: int = ETH_VLAN, priority: int = 0) -> bytes:
    """The frame with a tag behind its addresses."""
    return frame[:12] + struct.pack("!HH", kind, priority << 13 | vid) + frame[12:]


def ipv4(
    src: bytes,
    dst: bytes,
    protocol: int,
    payload: bytes,
    *,
    ttl: int = 64,
    tos: int = 0,
    ident: int = 0,
    fragment: int = 0,
    options: bytes = b"",
    version: int = 4,
    words: int | None = None,
    total: int | None = None,
    check: int | None = None,
) -> bytes:
    """`fragment`: flags and offset as one 16-bit number. `options` are padded to whole words."""
    options += b"\0" * (-len(options) % 4)
    length = 20 + len(options)
    header = struct.pack(
        "!BBHHHBBH",
        version << 4 | (length // 4 if words is None else words),
        tos,
        (length + len(payload) if total is None else total) & 0xFFFF,
        ident & 0xFFFF,
        fragment,
        ttl,
        protocol,
        0,
    )
    header += src + dst + options
    right = checksum(header)
    return header[:10] + struct.pack("!H", right if check is None else check) + header[12:] + payload


def udp(src: bytes, dst: bytes, sport: int, dport: int, payload: bytes, *, check: int | None = None,
        length: int | None = None) -> bytes:  # fmt: skip
    size = 8 + len(payload)
    header = struct.pack("!HHHH", sport, dport, (size if length is None else length) & 0xFFFF, 0)
    if check is None:
        check = checksum(pseudo_header(src, dst, UDP, size) + header + payload) or 0xFFFF
    return header[:6] + struct.pack("!H", check) + payload


def tcp(src: bytes, dst: bytes, sport: int, dport: int, payload: bytes, *, flags: int = 0x02, seq: int = 0,
        ack: int = 0, offset: int | None = None, options: bytes = b"", check: int | None = None) -> bytes:  # fmt: skip
    options += b"\1" * (-len(options) % 4)
    words = 5 + len(options) // 4 if offset is None else offset
    header = struct.pack("!HHIIBBHHH", sport, dport, seq, ack, words << 4, flags, 64240, 0, 0) + options
    if check is None:
        size = len(header) + len(payload)
        check = checksum(pseudo_header(src, dst, TCP, size) + header + payload)
    return header[:16] + struct.pack("!H", check) + header[18:] + payload


def icmp(kind: int, code: int, rest: bytes, payload: bytes, *, check: int | None = None) -> bytes:
    """`rest`: the four bytes behind the checksum."""
    body = struct.pack("!BBH", kind, code, 0) + rest + payload
    right = checksum(body)
    return body[:2] + struct.pack("!H", right if check is None else check) + body[4:]


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC = _crc_table()


def crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _CRC[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def sctp(sport: int, dport: int, tag: int, chunks: bytes, *, check: int | None = None) -> bytes:
    """RFC 9260: the checksum is little-endian in the header and covers no address."""
    header = struct.pack("!HHI", sport, dport, tag)
    right = crc32c(header + b"\0\0\0\0" + chunks)
    return header + struct.pack("<I", right if check is None else check) + chunks


def arp(operation: int, sender_mac: bytes, sender_ip: bytes, target_mac: bytes, target_ip: bytes, *,
        hardware: int = 1, protocol: int = ETH_IPV4, lengths: tuple[int, int] = (6, 4)) -> bytes:  # fmt: skip
    return (
        struct.pack("!HHBBH", hardware, protocol, *lengths, operation)
        + sender_mac + sender_ip + target_mac + target_ip
    )  # fmt: skip


def ipv6(src: bytes, dst: bytes, next_header: int, payload: bytes, *, traffic_class: int = 0, flow: int = 0, hops: int = 64,
         length: int | None = None) -> bytes:  # fmt: skip
    size = (len(payload) if length is None else length) & 0xFFFF
    return struct.pack("!IHBB", 6 << 28 | traffic_class << 20 | flow, size, next_header, hops) + src + dst + payload


def vxlan(vni: int, frame: bytes, *, flags: int = 0x08000000, reserved: int = 0) -> bytes:
    return struct.pack("!II", flags, vni << 8 | reserved) + frame
