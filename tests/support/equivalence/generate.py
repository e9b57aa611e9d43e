# SPDX-License-Identifier: Apache-2.0
"""Cases by number: the same seed, site and number make the same packets."""

from __future__ import annotations

import struct
from dataclasses import replace
from random import Random

from equivalence import transports
from equivalence.build import DF, ETH_IPV4, ICMP, MF, TCP, UDP, eth, icmp, ipv4, ones_sum, tcp, udp
from equivalence.case import Case, Shot, ident, outer_port, source_port
from equivalence.l2_cases import arp_case, flooded_case
from equivalence.site import Entry, Journey, Site
from equivalence.sockets import GSO_TCPV4, GSO_UDP_L4, VnetHeader
from equivalence.tunnel_cases import odd_tunnel_case

FAMILIES = {"plain": 45, "odd": 15, "error": 12, "fragments": 8, "offload": 5, "arp": 7, "flooded": 7, "tunnel": 8}
TTLS = (64, 64, 64, 64, 64, 1, 2, 3, 4, 5, 128, 255)
TOS = (0, 0, 0, 0, 1, 2, 3, 0xB8, 0x10, 0xFF)
# Option bytes as they stand in a header; routers must know some of them (RFC 791, RFC 2113, RFC 1108).
OPTIONS = {
    "nop": b"\1\1\1\1",
    "end": b"\0\0\0\0",
    "record_route": b"\7\x0b\4" + bytes(8),
    # Full, so that routers count the overflow and write no time.
    "timestamp": b"\x44\x0c\x0d\0" + bytes(8),
    "timestamp_address": b"\x44\x14\x15\1" + bytes(16),
    "router_alert": b"\x94\4\0\0",
    "loose_route": b"\x83\7\4\xcb\0\x71\7",
    "strict_route": b"\x89\7\4\xcb\0\x71\7",
    "security": b"\x82\x0b" + bytes(9),
    "bad_length": b"\7\x40\4\0",
    "unknown": b"\xde\4\0\0",
}


# What a router's ports bring that are no segment of ours: nothing of ARP among others, and no tunnel.
ROUTED_FAMILIES = {name: weight for name, weight in FAMILIES.items() if name not in ("arp", "flooded", "tunnel")}


ODDITIES = (
    "options", "ip_checksum", "l4_checksum", "total_long", "total_short", "total_tiny", "padding", "words", "version",
    "truncated", "udp_length", "tcp_offset", "reserved_flag", "l4_short", "source_ip", "source_mac", "destination_ip",
    "vxlan_port",
)  # fmt: skip
FRAGMENTATIONS = (
    "complete", "complete", "reversed", "shuffled", "no_first", "no_middle", "no_last", "overlap", "duplicate",
    "options", "ttl",
)  # fmt: skip


class Generator:
    """`families`: kinds of cases, with weights."""

    def __init__(self, site: Site, seed: int, families: dict[str, int] = FAMILIES):
        self.site = site
        self.families = families
        self.seed = seed
        self.by_kind: dict[str, list[Journey]] = {}
        for journey in site.journeys:
            self.by_kind.setdefault(journey.kind, []).append(journey)
        self.kinds = sorted(self.by_kind)
        # Nobody but the node's own stack answers a prime, and its answer would end the flow.
        self.answered = [journey for journey in site.journeys
                         if journey.answer and not journey.answer.exit.startswith("host:")]  # fmt: skip

    def case(self, number: int) -> Case:
        rng = Random(f"{self.seed}:{number}")
        family = rng.choices(list(self.families), self.families.values())[0]
        match family:
            case "odd":
                made = self._odd(rng, number)
            case "error" if self.answered:
                made = self._icmp_error(rng, number)
            case "fragments":
                made = self._fragments(rng, number)
            case "offload":
                made = self._offload(rng, number)
            case "arp":
                made = arp_case(self.site, rng, number)
            case "flooded":
                made = flooded_case(self.site, rng, number)
            case "tunnel":
                made = odd_tunnel_case(self.site, rng, number, self._packet)
            case _:
                made = self._plain(rng, number)
        made.traits.insert(0, family)
        return made

    def journey(self, rng: Random) -> Journey:
        return rng.choice(self.by_kind[rng.choice(self.kinds)])

    def mtu(self, journey: Journey) -> int:
        return self.site.network(journey.entry.network).mtu

    def _length(self, rng: Random, journey: Journey, kind: str) -> tuple[int, str]:
        """Payload bytes behind the transport header, and what kind of size that is."""
        room = self.mtu(journey) - 20 - transports.header_length(kind)
        which = rng.choices(("minimum", "small", "odd", "mtu", "over"), (10, 40, 25, 15, 10))[0]
        length = {
            "minimum": 4 if kind == "gre" else 0,  # Linux drops less, where it translates at all
            "small": rng.randrange(8, 64),
            "odd": rng.randrange(65, room, 2),
            "mtu": room,
            "over": room + 1,
        }[which]
        return length, which

    def _packet(self, rng: Random, number: int, journey: Journey) -> tuple[bytes, list[str]]:
        """An Ethernet frame of a packet that is right in itself."""
        kind = transports.choose(rng)
        length, size = self._length(rng, journey, kind)
        protocol, transport = transports.make(rng, kind, number, journey.src, journey.dst, length)
        ttl, tos, fragment = rng.choice(TTLS), rng.choice(TOS), rng.choice((0, DF))
        packet = ipv4(journey.src, journey.dst, protocol, transport, ttl=ttl, tos=tos, ident=ident(number),
                      fragment=fragment)  # fmt: skip
        traits = [*_kind_of(journey), kind, f"size {size}", f"ttl {ttl}", f"tos {tos:#x}"]
        traits.append("DF" if fragment else "no DF")
        return eth(journey.eth_dst, journey.eth_src, ETH_IPV4, packet), traits

    def _shot(self, entry: Entry, frame: bytes, number: int, header: VnetHeader | None = None) -> Shot:
        return Shot(entry.device, entry.wrap(frame, outer_port(number)), header)

    def _plain(self, rng: Random, number: int) -> Case:
        journey = self.journey(rng)
        frame, traits = self._packet(rng, number, journey)
        return Case(number, [self._shot(journey.entry, frame, number)], traits=traits)

    def _odd(self, rng: Random, number: int) -> Case:
        """One thing is wrong or rare."""
        journey = self.journey(rng)
        kind = transports.choose(rng)
        length = rng.randrange(8, 200)
        what = rng.choice(ODDITIES)
        traits = [*_kind_of(journey), what, kind]
        fields: dict = {"ttl": rng.choice((64, 64, 2, 255)), "ident": ident(number)}
        src, dst = journey.src, journey.dst
        if what == "source_ip":
            src, name = rng.choice(self._spoofed_sources(journey))
            traits.append(f"source {name}")
            if kind not in transports.PORTS:  # without ports it would be of one connection with others of its addresses
                kind = "udp"
        if what == "destination_ip":
            dst, name = rng.choice(self._strange_destinations(journey))
            traits.append(f"destination {name}")
        bad = what == "l4_checksum"
        protocol, transport = transports.make(rng, kind, number, src, dst, length, bad=bad,
                                              dport=4789 if what == "vxlan_port" else None)  # fmt: skip
        tail = b""
        match what:
            case "options":
                name = rng.choice(list(OPTIONS))
                traits.append(f"option {name}")
                fields["options"] = OPTIONS[name]
            case "ip_checksum":
                fields["check"] = rng.getrandbits(16)
            case "total_long":
                fields["total"] = 20 + len(transport) + rng.randrange(1, 2000)
            case "total_short":
                fields["total"] = 20 + len(transport) - rng.randrange(1, len(transport))
            case "total_tiny":
                fields["total"] = rng.randrange(0, 20)
            case "padding":
                tail = rng.choice((bytes(rng.randrange(1, 40)), rng.randbytes(rng.randrange(1, 40))))
            case "words":
                fields["words"] = rng.choice((0, 4, 6, 15))
            case "version":
                fields["version"] = rng.choice((0, 5, 6, 15))
            case "udp_length":
                protocol = UDP
                transport = udp(src, dst, source_port(number), 7, transport[8:],
                                length=rng.choice((0, 7, 8, len(transport) - 1, len(transport) + 1)))  # fmt: skip
            case "tcp_offset":
                protocol = TCP
                transport = tcp(src, dst, source_port(number), 7, transport[8:], flags=0x10,
                                offset=rng.choice((0, 4, 6, 15)))  # fmt: skip
            case "l4_short":
                fields["ttl"], transport = 64, transport[: rng.randrange(0, 20)]
            case "reserved_flag":
                fields["fragment"] = 0x8000 | rng.choice((0, DF))
        packet = ipv4(src, dst, protocol, transport, **fields) + tail
        frame = eth(journey.eth_dst, journey.eth_src, ETH_IPV4, packet)
        if what == "source_mac":
            strange = b"\x02\x77" + rng.randbytes(4)
            macs = [strange, bytes(6), b"\1\0\x5e\0\0\1", b"\xff" * 6]
            if journey.entry.device not in self.site.guests:  # there the bridge would believe it
                macs.append(journey.eth_dst)
            mac = rng.choice(macs)
            frame = frame[:6] + mac + frame[12:]
        if what == "truncated":
            frame = frame[: rng.randrange(14, len(frame))]
        return Case(number, [self._shot(journey.entry, frame, number)], traits=traits)

    def _spoofed_sources(self, journey: Journey) -> list[tuple[bytes, str]]:
        choices = [
            (b"\0\0\0\0", "zero"),
            (b"\0\1\2\3", "0/8"),
            (b"\x7f\0\0\1", "loopback"),
            (b"\xe0\0\0\5", "multicast"),
            (b"\xf0\0\0\1", "reserved"),
            (b"\xff\xff\xff\xff", "broadcast"),
            (b"\xcb\0\x71\x09", "elsewhere"),
            (journey.dst, "its destination"),
        ]
        choices += [(address, "a router's own") for address in sorted(self.site.own_addresses)]
        choices += [(station.ip, "another station's") for station in self.site.stations]
        return choices

    def _strange_destinations(self, journey: Journey) -> list[tuple[bytes, str]]:
        return [
            (b"\0\0\0\0", "zero"),
            (b"\x7f\0\0\1", "loopback"),
            (b"\xe0\0\0\5", "link-local multicast"),
            (b"\xef\1\1\1", "multicast"),
            (b"\xf0\0\0\1", "reserved"),
            (b"\xff\xff\xff\xff", "broadcast"),
            (b"\xcb\0\x71\x09", "elsewhere"),
            (b"\xa9\xfe\1\1", "link-local"),
            *((address, "a router's own") for address in sorted(self.site.own_addresses)),
        ]

    def _icmp_error(self, rng: Random, number: int) -> Case:
        """An error about a flow that was there before (or, sometimes, was not)."""
        journey = rng.choice(self.answered)
        answer = journey.answer
        assert answer is not None
        kind = rng.choice(("udp", "udp", "tcp", "tcp", "udp0", "echo", "sctp", "unknown", "esp"))
        sport, dport = source_port(number), 33434 + number % 100
        state = rng.getstate()
        protocol, sent = transports.make(rng, kind, number, answer.src, answer.dst, 40, sport=sport, dport=dport,
                                         opening=True)  # fmt: skip
        rng.setstate(state)
        # The same packet as it arrived at whoever complains: translated.
        _, quoted_l4 = transports.make(rng, kind, number, journey.dst, journey.src, 40, sport=sport, dport=dport,
                                       opening=True)  # fmt: skip
        prime = eth(answer.eth_dst, answer.eth_src, ETH_IPV4,
                    ipv4(answer.src, answer.dst, protocol, sent, ident=ident(number)))  # fmt: skip
        what = rng.choice((3, 3, 3, 4, 11, 12))
        code = rng.randrange(0, 14) if what == 3 else rng.randrange(0, 2)
        mtu = rng.choice((0, 576, 1200, 1400)) if (what, code) == (3, 4) else 0
        oddity = rng.choices(("none", "untracked", "checksum", "redirect", "nested", "short", "foreign", "options",
                              "quoted_fragment"), (60, 6, 5, 3, 4, 8, 5, 4, 5))[0]  # fmt: skip
        quoted_src, quoted_dst, extra = journey.dst, journey.src, {}
        if oddity == "foreign":
            quoted_src = struct.pack("!I", struct.unpack("!I", quoted_src)[0] ^ 1)
        if oddity == "options":
            extra["options"] = b"\1\1\1\1"
        if oddity == "quoted_fragment":
            extra["fragment"] = rng.choice((MF, MF | 185, 185))
        if oddity == "nested":
            protocol, quoted_l4 = ICMP, icmp(3, 3, bytes(4), ipv4(quoted_dst, quoted_src, UDP, quoted_l4[:28]))
        ttl = rng.choice((1, 63))
        quoted = ipv4(quoted_src, quoted_dst, protocol, quoted_l4, ttl=ttl, ident=ident(number), **extra)
        if oddity == "short":
            quoted = quoted[: rng.choice((0, 4, 19, 20, 24, 27, 28, 31, 32, 36))]
        elif rng.random() < 0.4:
            quoted = quoted[:28]
        message = icmp(5 if oddity == "redirect" else what, code, struct.pack("!HH", 0, mtu), quoted,
                       check=rng.getrandbits(16) if oddity == "checksum" else None)  # fmt: skip
        packet = ipv4(journey.src, journey.dst, ICMP, message, ttl=rng.choice((64, 64, 3, 255)), ident=ident(number),
                      tos=rng.choice((0, 0x20, 0xE0)))  # fmt: skip
        frame = eth(journey.eth_dst, journey.eth_src, ETH_IPV4, packet)
        primes = [] if oddity == "untracked" else [self._shot(answer.entry, prime, number)]
        traits = [journey.kind, f"icmp {what}/{code}", f"quotes {kind}", f"oddity {oddity}",
                  f"quoted bytes {len(quoted)}"]  # fmt: skip
        return Case(number, [self._shot(journey.entry, frame, number)], primes, traits)

    def _fragments(self, rng: Random, number: int) -> Case:
        journey = self.journey(rng)
        kind = rng.choice(("udp", "udp", "udp0", "tcp", "echo", "sctp", "unknown"))
        size = rng.choice((8, 16, 64, 576, 1400, (self.mtu(journey) - 20) // 8 * 8))
        pieces = rng.choice((2, 3, 4))
        length = size * (pieces - 1) + rng.randrange(1, size + 1) - transports.header_length(kind)
        protocol, whole = transports.make(rng, kind, number, journey.src, journey.dst, max(length, 1))
        what = rng.choice(FRAGMENTATIONS)
        ttl = rng.choice((64, 64, 255, 2, 3))
        packets = []
        for at in range(0, len(whole), size):
            part = whole[at : at + size]
            flags = MF if at + size < len(whole) else 0
            if what == "overlap" and at:
                at -= 8
                part = b"\xee" * 8 + part
            options = b"\1\1\1\1" if what == "options" and at == 0 else b""
            packets.append(ipv4(journey.src, journey.dst, protocol, part, ident=ident(number), fragment=flags | at // 8,
                                ttl=ttl if what != "ttl" else rng.choice((64, 1, 2, 3)), options=options))  # fmt: skip
        match what:
            case "reversed":
                packets.reverse()
            case "shuffled":
                rng.shuffle(packets)
            case "no_first":
                packets = packets[1:]
            case "no_middle":
                packets = [packets[0], *packets[2:]]
            case "no_last":
                packets = packets[:-1]
            case "duplicate":
                packets.insert(rng.randrange(len(packets)), rng.choice(packets))
        frames = [eth(journey.eth_dst, journey.eth_src, ETH_IPV4, packet) for packet in packets]
        shots = [self._shot(journey.entry, frame, number) for frame in frames]
        traits = [*_kind_of(journey), kind, what, f"{len(frames)} of {size} bytes", f"ttl {ttl}"]
        return Case(number, shots, traits=traits)

    def _offload(self, rng: Random, number: int) -> Case:
        """From a VM whose driver leaves checksums and segmentation to the host."""
        journeys = [journey for journey in self.site.journeys if journey.entry.device in self.site.vm_names]
        if not journeys:
            return self._plain(rng, number)
        journey = rng.choice(journeys)
        kind, gso = rng.choice(("udp", "tcp")), rng.random() < 0.6
        segment = rng.choice((1, 200, 1000, 1398, self.mtu(journey) - 20 - (20 if kind == "tcp" else 8)))
        length = segment * rng.randrange(2, 12) + rng.randrange(0, segment) if gso else rng.randrange(8, 1400)
        protocol, whole = transports.make(rng, kind, number, journey.src, journey.dst, length)
        at, transport = (16, 20) if kind == "tcp" else (6, 8)
        start = struct.pack("!BBH", 0, protocol, len(whole))
        partial = ones_sum(journey.src + journey.dst + start)
        whole = whole[:at] + struct.pack("!H", partial) + whole[at + 2 :]
        packet = ipv4(journey.src, journey.dst, protocol, whole, ident=ident(number), ttl=rng.choice((64, 64, 2)),
                      fragment=rng.choice((0, DF)))  # fmt: skip
        header = VnetHeader(34, at)
        if gso:
            kind_of = GSO_TCPV4 if kind == "tcp" else GSO_UDP_L4
            header = replace(header, gso_type=kind_of, gso_size=segment, header_length=34 + transport)
        frame = eth(journey.eth_dst, journey.eth_src, ETH_IPV4, packet)
        traits = [journey.kind, kind, f"segments of {segment}" if gso else "partial checksum"]
        return Case(number, [self._shot(journey.entry, frame, number, header)], traits=traits)


def _kind_of(journey: Journey) -> list[str]:
    """The node's own stack answers what reaches it."""
    return [journey.kind, "to the host"] if journey.exit.startswith("host:") else [journey.kind]
