# SPDX-License-Identifier: Apache-2.0
"""Cases below IP: ARP in all its forms, tags, IPv6, broadcast, multicast and unknown MACs."""

from __future__ import annotations

import struct
from random import Random

from equivalence import transports
from equivalence.build import (
    ETH_ARP, ETH_IPV4, ETH_IPV6, ETH_QINQ, UDP, arp, checksum, eth, ipv4, ipv6, udp, vlan,
)  # fmt: skip
from equivalence.case import Case, Shot, arp_mark, ident, outer_port, source_port
from equivalence.site import Entry, Site, Station, ip_bytes, mac_bytes

BROADCAST = b"\xff" * 6
ICMPV6 = 58


def entries(site: Site) -> list[tuple[Entry, Station | None]]:
    """Each place where frames come in, with who sends there."""
    return [(site.entry(station), station) for station in site.stations]


def _targets(site: Site, network: str) -> list[tuple[bytes, bytes]]:
    """(IP, MAC) of everybody on a segment, floating IPs and routers included."""
    out = [(station.ip, station.mac) for station in site.stations if station.network == network]
    out += [(ip_bytes(fip), mac_bytes(site.fip_mac(fip))) for fip, row in site.topology.floating_ips.items()
            if row.network == network]  # fmt: skip
    out += [(ip_bytes(port.fixed_ip), mac_bytes(port.mac)) for port in site.topology.ports.values()
            if port.network == network]  # fmt: skip
    return out


def arp_case(site: Site, rng: Random, number: int) -> Case:
    entry, station = rng.choice(entries(site))
    assert station is not None
    target_ip, target_mac = rng.choice(_targets(site, entry.network))
    what = rng.choice(("request", "request", "request", "unicast_request", "probe", "announcement", "gratuitous_reply",
                       "reply", "wrong_sender_mac", "wrong_sender_ip", "unknown_target", "hardware", "lengths",
                       "operation", "padded", "truncated", "known_target_mac", "own_target"))  # fmt: skip
    sender_mac, sender_ip, dst, asked, operation, extra = station.mac, station.ip, BROADCAST, bytes(6), 1, {}
    match what:
        case "unicast_request":
            dst = target_mac
        case "probe":
            sender_ip = bytes(4)
        case "announcement":
            target_ip = sender_ip
        case "gratuitous_reply":
            operation, target_ip, asked = 2, sender_ip, rng.choice((BROADCAST, sender_mac))
        case "reply":
            operation, dst, asked = 2, target_mac, target_mac
        case "wrong_sender_mac":
            # An address that nobody else uses: Linux would learn the wrong MAC for it.
            if entry.device not in site.vm_names:  # a VM port's guard lets no such frame in
                sender_ip = struct.pack("!I", struct.unpack("!I", sender_ip)[0] ^ 0x80)
            sender_mac = b"\x02\x66" + rng.randbytes(4)
        case "wrong_sender_ip":
            sender_ip = struct.pack("!I", struct.unpack("!I", sender_ip)[0] ^ 0x80)
        case "unknown_target":
            target_ip = target_ip[:3] + bytes([77])
        case "hardware":
            extra = rng.choice(({"hardware": 6}, {"protocol": ETH_IPV6}))
        case "lengths":
            extra = {"lengths": rng.choice(((6, 16), (8, 4), (0, 0)))}
        case "operation":
            operation = rng.choice((0, 3, 4, 8, 9, 0xFFFF))
        case "known_target_mac":
            asked = target_mac
        case "own_target":
            target_ip = sender_ip
    if operation == 1 and asked == bytes(6):
        asked = arp_mark(number)  # what a request says of its target's MAC nobody looks at
    message = arp(operation, sender_mac, sender_ip, asked, target_ip, **extra)
    if what == "padded":
        message += rng.choice((bytes(18), transports.filler(rng, number, 18)))
    if what == "truncated":
        message = message[: rng.randrange(0, 28)]
    frame = eth(dst, station.mac, ETH_ARP, message)
    shot = Shot(entry.device, entry.wrap(frame, outer_port(number)))
    return Case(number, [shot], traits=[what, f"at {entry.device}", f"from {station.name}"])


def flooded_case(site: Site, rng: Random, number: int) -> Case:
    entry, station = rng.choice(entries(site))
    assert station is not None
    target_ip, target_mac = rng.choice(_targets(site, entry.network))
    what = rng.choice(("vlan", "vlan0", "qinq", "ipv6", "ipv6_multicast", "broadcast", "subnet_broadcast", "multicast",
                       "unknown_mac", "ethertype", "own_mac", "pause", "lldp", "llc"))  # fmt: skip
    payload = transports.filler(rng, number, rng.randrange(8, 400))
    sport = source_port(number)

    def ip_frame(dst_mac: bytes, dst: bytes, ttl: int = 64) -> bytes:
        packet = ipv4(station.ip, dst, UDP, udp(station.ip, dst, sport, 7, payload), ident=ident(number), ttl=ttl)
        return eth(dst_mac, station.mac, ETH_IPV4, packet)

    match what:
        case "vlan":
            frame = vlan(ip_frame(target_mac, target_ip), rng.choice((1, 100, 4094)), priority=rng.randrange(8))
        case "vlan0":
            frame = vlan(ip_frame(target_mac, target_ip), 0, priority=rng.randrange(8))
        case "qinq":
            frame = vlan(vlan(ip_frame(target_mac, target_ip), 100), 7, ETH_QINQ)
        case "ipv6":
            target = b"\xfe\x80" + bytes(10) + target_ip
            frame = eth(target_mac, station.mac, ETH_IPV6, _ipv6(rng, station, target, payload))
        case "ipv6_multicast":
            group = b"\xff\2" + bytes(13) + b"\1"
            frame = eth(b"\x33\x33\0\0\0\1", station.mac, ETH_IPV6, _ipv6(rng, station, group, payload))
        case "broadcast":
            frame = ip_frame(BROADCAST, b"\xff" * 4)
        case "subnet_broadcast":
            frame = ip_frame(rng.choice((BROADCAST, target_mac)), target_ip[:3] + b"\xff")
        case "multicast":
            frame = ip_frame(b"\1\0\x5e\1\1\1", b"\xef\1\1\1", rng.choice((1, 2, 64)))
        case "unknown_mac":
            frame = ip_frame(b"\x02\x55" + rng.randbytes(4), target_ip)
        case "ethertype":
            frame = eth(target_mac, station.mac, rng.choice((0x88B5, 0x0600, 0x8847, 0x9000)), payload)
        case "own_mac":
            frame = ip_frame(station.mac, target_ip)
        case "pause":
            frame = eth(b"\1\x80\xc2\0\0\1", station.mac, 0x8808, payload)
        case "lldp":
            frame = eth(b"\1\x80\xc2\0\0\x0e", station.mac, 0x88CC, payload)
        case _:
            frame = eth(target_mac, station.mac, len(payload), payload)
    shot = Shot(entry.device, entry.wrap(frame, outer_port(number)))
    return Case(number, [shot], traits=[what, f"at {entry.device}", f"from {station.name}"])


def _ipv6(rng: Random, station: Station, dst: bytes, payload: bytes) -> bytes:
    src = b"\xfe\x80" + bytes(10) + station.ip
    traffic_class = rng.choice((0, 1, 2, 3, 0xB8))
    if rng.random() < 0.5:
        length = struct.pack("!I", len(payload) + 8)
        body = struct.pack("!BBHI", 128, 0, 0, 1) + payload
        body = body[:2] + struct.pack("!H", checksum(src + dst + length + struct.pack("!I", ICMPV6) + body)) + body[4:]
        return ipv6(src, dst, ICMPV6, body, traffic_class=traffic_class, hops=rng.choice((1, 64, 255)))
    return ipv6(src, dst, UDP, udp(bytes(4), bytes(4), 5000, 7, payload), traffic_class=traffic_class)
