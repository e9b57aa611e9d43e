# SPDX-License-Identifier: Apache-2.0
"""Tunnel packets whose outer headers are rare, wrong or forged."""

from __future__ import annotations

import struct
from random import Random
from typing import Callable

from equivalence.build import DF, ETH_IPV4, ETH_IPV6, MF, UDP, eth, ipv4, ipv6, udp, vlan, vxlan
from equivalence.case import Case, Shot, ident, outer_port
from equivalence.site import Entry, Journey, Site, ip_bytes

KINDS = (
    "checksum", "bad_checksum", "ecn", "tos", "ttl", "df", "wrong_vni", "other_vni", "unknown_peer", "peer_network",
    "reserved_byte", "flags", "fragments", "one_fragment", "options", "ip_checksum", "udp_length", "padding",
    "other_destination", "other_mac", "broadcast_mac", "vlan", "source_port", "other_port", "truncated", "nested",
    "total_long",
)  # fmt: skip
IPV4_ONLY = ("df", "ip_checksum")
KINDS6 = (*(kind for kind in KINDS if kind not in IPV4_ONLY), "flow_label")
NEAR6 = bytes.fromhex("20010db800ac") + bytes(9)  # and one byte: like the nodes' addresses
HOP_BY_HOP, DESTINATION_OPTIONS, FRAGMENT = 0, 60, 44
# By length of an address: nobody's that a packet may come from, and others' that it may go to.
STRANGERS = {4: (b"\xc0\0\2\x63", b"\xc6\x33\x64\1"), 16: (NEAR6 + b"\x63", b"\x20\1\x0d\xb8" + bytes(11) + b"\1")}
OTHER_DESTINATIONS = {
    4: (b"\xc0\0\2\x64", b"\xff\xff\xff\xff", b"\xe0\0\0\1", b"\x7f\0\0\1"),
    16: (NEAR6 + b"\x64", b"\xff\2" + bytes(13) + b"\1", bytes(15) + b"\1"),
}
# Of IPv6: which header has them, and padding (PadN) that Linux takes, or that is too long for it.
OPTIONS = {
    4: (b"\1\1\1\1", b"\x94\4\0\0", b"\7\7\4" + bytes(4)),
    16: tuple((header, bytes([1, length, *bytes(length)])) for header in (HOP_BY_HOP, DESTINATION_OPTIONS) for length in (4, 12)),
}


def odd_tunnel_case(
    site: Site, rng: Random, number: int, packet: Callable[[Random, int, Journey], tuple[bytes, list[str]]]
) -> Case:
    journey = rng.choice([journey for journey in site.journeys if journey.entry.tunnelled])
    inner, traits = packet(rng, number, journey)
    what = rng.choice(KINDS if len(site.vtep) == 4 else KINDS6)
    if what == "nested":
        inner = journey.entry.wrap(inner, outer_port(number))
    frames = _outer(site, rng, number, journey.entry, inner, what)
    return Case(number, [Shot(journey.entry.device, frame) for frame in frames], traits=[f"outer {what}", *traits])


def _outer(site: Site, rng: Random, number: int, entry: Entry, inner: bytes, what: str) -> list[bytes]:
    vni, src, dst, dst_mac = entry.vni, entry.outer_src, entry.outer_dst, entry.outer_dst_mac
    header: dict = {"ident": ident(number)}
    tunnel: dict = {}
    datagram: dict = {"check": 0}
    sport, port, tail = outer_port(number), entry.port, b""
    match what:
        case "checksum":
            datagram = {}
        case "bad_checksum":
            datagram = {"check": rng.randrange(1, 0xFFFF)}
        case "ecn":
            header["tos"] = rng.choice((1, 2, 3))
        case "tos":
            header["tos"] = rng.randrange(256)
        case "ttl":
            header["ttl"] = rng.choice((0, 1, 2, 255))
        case "df":
            header["fragment"] = DF
        case "wrong_vni":
            vni = rng.choice((0, 1, vni + 77, 0xFFFFFF))
        case "other_vni":
            vni = rng.choice([network.segmentation_id for network in site.topology.networks.values()])
        case "unknown_peer":
            src = rng.choice(STRANGERS[len(site.vtep)] + (site.vtep,))
        case "peer_network":
            src = rng.choice([ip_bytes(node.underlay_address) for node in site.topology.nodes.values()])
        case "reserved_byte":
            tunnel["reserved"] = rng.randrange(1, 256)
        case "flags":
            tunnel["flags"] = rng.choice((0, 0x88000000, 0x0C000000, 0x08000001, 0x08FFFF00, 0x18000000, 0x28000000))
        case "options":
            header["options"] = rng.choice(OPTIONS[len(site.vtep)])
        case "ip_checksum":
            header["check"] = rng.getrandbits(16)
        case "udp_length":
            size = 16 + len(inner)
            datagram["length"] = rng.choice((0, 7, 8, 15, 16, size - 1, size + 1))
        case "padding":
            tail = rng.randbytes(rng.randrange(1, 30))
        case "total_long":
            header["total"] = 36 + len(inner) + rng.randrange(1, 100)
        case "other_destination":
            dst = rng.choice(OTHER_DESTINATIONS[len(site.vtep)])
        case "other_mac":
            dst_mac = b"\x02\x44" + rng.randbytes(4)
        case "broadcast_mac":
            dst_mac = rng.choice((b"\xff" * 6, b"\1\0\x5e\0\0\1" if len(site.vtep) == 4 else b"\x33\x33\0\0\0\1"))
        case "flow_label":
            header["flow"] = rng.randrange(1, 1 << 20)
        case "source_port":
            sport = rng.choice((0, 1, 53, 4789, 32768, 60999, 65535))
        case "other_port":
            port = rng.choice((4788, 4790, 8472, 6081))
    payload = udp(src, dst, sport, port, vxlan(vni, inner, **tunnel), **datagram)
    if what == "truncated":
        payload = payload[: rng.randrange(0, len(payload))]
        header["total"] = rng.choice((20 + len(payload), 36 + len(inner)))
    if what in ("fragments", "one_fragment"):
        cut = rng.randrange(1, max(2, len(payload) // 8)) * 8
        parts = [(payload[:cut], MF), (payload[cut:], cut // 8)]
        if what == "one_fragment":
            parts = [rng.choice(parts)]
        elif rng.random() < 0.5:
            parts.reverse()
        packets = [_ip(src, dst, part, fragment=flags, **header) for part, flags in parts]
    else:
        packets = [_ip(src, dst, payload, **header) + tail]
    kind = ETH_IPV4 if len(src) == 4 else ETH_IPV6
    frames = [eth(dst_mac, entry.outer_src_mac, kind, packet) for packet in packets]
    return [vlan(frame, rng.choice((0, 5))) for frame in frames] if what == "vlan" else frames


def _ip(src: bytes, dst: bytes, payload: bytes, *, fragment: int = 0, **header) -> bytes:
    """UDP over IPv4, or over IPv6 with what of `header` means something there. `header`: of ipv4(), and `flow`."""
    if len(src) == 4:
        return ipv4(src, dst, UDP, payload, fragment=fragment, **header)
    fields = {ours: header[theirs] for theirs, ours in (("tos", "traffic_class"), ("ttl", "hops"), ("flow", "flow"))
              if theirs in header}  # fmt: skip
    if "total" in header:
        fields["length"] = header["total"] - 20  # IPv4's counts its own header
    following = UDP
    if "options" in header:
        kind, options = header["options"]
        payload = bytes([following, len(options) // 8]) + options + payload
        following = kind
    if fragment:
        place = (fragment & 0x1FFF) << 3 | bool(fragment & MF)
        payload = struct.pack("!BBHI", following, 0, place, header["ident"]) + payload
        following = FRAGMENT
    return ipv6(src, dst, following, payload, **fields)
