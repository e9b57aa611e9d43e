# SPDX-License-Identifier: Apache-2.0
"""Differences from Linux that are known and documented (docs/datapath.md, KNOWN DIFFERENCES FROM LINUX).

Each names exactly which cases it is about and exactly how the outputs may differ. They are counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, Iterable

from equivalence.case import inner_frame, ip_offset
from equivalence.site import WIRE, Site, ip_bytes

if TYPE_CHECKING:
    from equivalence.runner import Difference, Output

ICMP_ERRORS = (3, 4, 5, 11, 12)
# Where a transport checksum is, by protocol; its length.
L4_CHECK = {1: (2, 2), 6: (16, 2), 17: (6, 2), 132: (8, 4)}


@dataclass(frozen=True)
class Exempt:
    name: str
    traits: frozenset[str]  # a case must have one of them
    allowed: Callable[[Difference, Site], bool]

    def covers(self, difference: Difference, site: Site) -> bool:
        return not self.traits.isdisjoint(difference.case.traits) and self.allowed(difference, site)


def _only_copies_missing(difference: Difference, site: Site) -> bool:
    """Linux floods a broadcast question, and answers it; if its bridge does not know the asker's MAC, it floods the
    answer to all tunnels and guests, too. The fast path answers where the question came from."""
    port = site.topology.vxlan_port
    asked = {shot.frame[inner_frame(shot.frame, port) or 0 :] for shot in difference.case.shots}
    answered = {frame[inner_frame(frame, port) or 0 :] for name, frame in difference.on if name == WIRE}

    def is_copy(output: Output) -> bool:
        name, frame = output
        inner = frame[(inner_frame(frame, port) or 0) if name == WIRE else 0 :]
        reply = inner[12:14] == b"\x08\x06" and inner[20:22] == b"\0\2"
        flooded_to = name == WIRE or name in site.guests
        return (inner in asked and inner[:6] == b"\xff" * 6) or (flooded_to and reply and inner in answered)

    return not difference.extra and bool(difference.missing) and all(map(is_copy, difference.missing))


def _ip_at(output: Output, site: Site) -> int | None:
    """Offset of the IPv4 header, the inner one of a tunnel packet."""
    name, frame = output
    return ip_offset(frame, (inner_frame(frame, site.topology.vxlan_port) or 0) if name == WIRE else 0)


def _transport_checksum(frame: bytes, ip: int) -> range:
    """Offsets of the transport checksum of the IPv4 packet at `ip`; none of a protocol without one."""
    at, length = L4_CHECK.get(frame[ip + 9], (0, 0))
    start = ip + (frame[ip] & 15) * 4 + at
    return range(start, start + length)


def _are_twins(difference: Difference, may_become: Callable[[Output, bytes], Iterable[int] | None]) -> bool:
    """Whether each frame that Linux sent came out of the same place, altered only at the offsets that
    `may_become(Linux's, ours)` gives (None: these two are no pair), and nothing else came out."""
    extra = list(difference.extra.elements())

    def take_twin(output: Output) -> bool:
        name, frame = output
        for twin in extra:
            if twin[0] != name or len(twin[1]) != len(frame):
                continue
            allowed = may_become(output, twin[1])
            if allowed is not None and {i for i, (a, b) in enumerate(zip(frame, twin[1])) if a != b} <= set(allowed):
                extra.remove(twin)
                return True
        return False

    return all(map(take_twin, difference.missing.elements())) and not extra


def _own_source(difference: Difference, site: Site) -> bool:
    """Linux drops what claims to come from a router's own address; the fast path does not know those addresses."""

    def claims(output: Output) -> bool:
        ip = _ip_at(output, site)
        return ip is not None and output[1][ip + 12 : ip + 16] in site.local_addresses

    return not difference.missing and all(map(claims, difference.extra))


def _source_is_translated_too(difference: Difference, site: Site) -> bool:
    """Linux takes a packet from outside with the source of a VM for one of that VM's, on its way to a neighbour's
    floating IP. It differs in its source, in the checksums over that, and in the TTL of the longer way at most."""
    fixed = {ip_bytes(fip): ip_bytes(row.fixed_ip)
             for fip, row in site.topology.floating_ips.items()}  # fmt: skip

    def may_become(output: Output, ours: bytes) -> set[int] | None:
        ip, linux = _ip_at(output, site), output[1]
        if ip is None or fixed.get(linux[ip + 12 : ip + 16]) != ours[ip + 12 : ip + 16]:
            return None
        return {ip + 8, *range(ip + 10, ip + 16), *_transport_checksum(linux, ip)}

    return _are_twins(difference, may_become)


def _same_datagrams(difference: Difference, site: Site) -> bool:
    """Linux cut the same datagram in both passes, at other places."""

    def whole(outputs: Iterable[Output]) -> list | None:
        pieces = []
        for output in outputs:
            ip = _ip_at(output, site)
            if ip is None:
                return None
            name, frame = output
            start = ip + (frame[ip] & 15) * 4
            offset = int.from_bytes(frame[ip + 6 : ip + 8], "big") & 0x1FFF
            same = (name, frame[:ip] + frame[ip : ip + 2] + frame[ip + 4 : ip + 6] + frame[ip + 8 : ip + 10]
                    + frame[ip + 12 : start])  # fmt: skip
            pieces.append((same, offset, frame[start:]))
        pieces.sort()
        return [{same for same, _, _ in pieces}, b"".join(data for _, _, data in pieces)]

    linux = whole(difference.missing.elements())
    return linux is not None and len(linux[0]) == 1 and linux == whole(difference.extra.elements())


def _rate_limited(difference: Difference, site: Site) -> bool:
    """ip_error() of Linux itself limits "unreachable" for addresses without a route, and no namespace can change that:
    route.error_burst, net/ipv4/route.c. So some are missing in either pass."""

    def is_unreachable(output: Output) -> bool:
        name, frame = output
        icmp = _icmp_error_at(output, site)
        return icmp is not None and frame[icmp] == 3 and frame[icmp - 8 : icmp - 4] in site.own_addresses

    return all(map(is_unreachable, [*difference.missing, *difference.extra]))


def _host_is_silent(difference: Difference, site: Site) -> bool:
    """What arrives is the same; the host's stack answers one and not the other. Its answer leaves by the wire, and by a
    guest's port if that is where it belongs, or the bridge does not know whose it is."""

    def answer(output: Output) -> bool:
        ip = _ip_at(output, site)
        from_host = ip is not None and output[1][ip + 12 : ip + 16] in site.local_addresses
        return output[0] == WIRE or (output[0] in site.guests and from_host)

    return not difference.extra and all(map(answer, difference.missing))


def _icmp_error_at(output: Output, site: Site) -> int | None:
    """Offset of the ICMP error that a frame carries."""
    ip, frame = _ip_at(output, site), output[1]
    if ip is None or frame[ip + 9] != 1:
        return None
    icmp = ip + (frame[ip] & 15) * 4
    return icmp if len(frame) > icmp and frame[icmp] in ICMP_ERRORS else None


def _quoted_fields(frame: bytes, icmp: int) -> set[int]:
    """Offsets of what translating a quoted packet changes: addresses and checksums."""
    quoted = icmp + 8
    out = {icmp + 2, icmp + 3, quoted + 10, quoted + 11, *range(quoted + 12, quoted + 20)}
    if len(frame) > quoted + 20:
        out.update(_transport_checksum(frame, quoted))
    return out


def _only_the_quote_differs(difference: Difference, site: Site) -> bool:
    """Each frame that Linux sent is there, the same but for the translation of the packet that it quotes."""

    def may_become(output: Output, _: bytes) -> set[int] | None:
        icmp = _icmp_error_at(output, site)
        return None if icmp is None else _quoted_fields(output[1], icmp)

    return _are_twins(difference, may_become)


def _only_errors_extra(difference: Difference, site: Site) -> bool:
    """Linux dropped an error that it could not translate. The same error, outer header translated, came out."""
    errors = [_icmp_error_at(output, site) for output in difference.extra]
    return not difference.missing and None not in errors


def _are_twins_but_for(difference: Difference, site: Site, fields: Callable[[bytes, int, int | None], set[int]]) -> bool:
    """Whether only the offsets differ that `fields(frame, its IPv4 header, an ICMP error's header in it)` gives."""

    def may_become(output: Output, _: bytes) -> set[int] | None:
        ip = _ip_at(output, site)
        return None if ip is None else fields(output[1], ip, _icmp_error_at(output, site))

    return _are_twins(difference, may_become)


def _linux_translates_nothing(difference: Difference, site: Site) -> bool:
    """Of followed routers. What is invalid to conntrack passes Linux with its addresses, or goes to a floating IP itself, which
    nobody answers, or of which the sender gets an ICMP error."""
    if not site.follows:
        return False

    def fields(frame: bytes, ip: int, icmp: int | None) -> set[int]:
        quoted = set() if icmp is None else _quoted_fields(frame, icmp)
        port = ip + (frame[ip] & 15) * 4 + (4 if frame[ip + 9] == 1 else 0)  # or id: made 0 where it may have been chosen
        return {*range(ip + 10, ip + 16), port, port + 1, *_transport_checksum(frame, ip), *quoted}

    errors = [_icmp_error_at(output, site) for output in difference.missing]
    return None not in errors or _are_twins_but_for(difference, site, fields)


def _chosen_port_shows(difference: Difference, site: Site) -> bool:
    """Linux has chosen a port in both passes, and what follows from it stands where the comparison cannot make it the same: in a
    quoted packet whose checksum was not complete yet, or in another fragment than the port."""
    if not site.follows:
        return False

    def fields(frame: bytes, ip: int, icmp: int | None) -> set[int]:
        if icmp is not None:
            return {icmp + 2, icmp + 3, *_transport_checksum(frame, icmp + 8)}
        offset = (int.from_bytes(frame[ip + 6 : ip + 8], "big") & 0x1FFF) * 8
        port = {ip + (frame[ip] & 15) * 4 + at for at in (0, 1)} if not offset else set()
        return port | {at - offset for at in _transport_checksum(frame, ip) if at - offset >= ip + 20}

    return _are_twins_but_for(difference, site, fields)


def _stateless(difference: Difference, site: Site) -> bool:
    return _only_the_quote_differs(difference, site) or _only_errors_extra(difference, site)


OTHERS_SOURCE = frozenset({"source a router's own", "source its destination", "source another station's"})

EXCEPTIONS: tuple[Exempt, ...] = (
    Exempt("source_is_a_routers_own", OTHERS_SOURCE, _own_source),
    Exempt("source_is_a_vm_with_a_floating_ip", OTHERS_SOURCE, _source_is_translated_too),
    Exempt("cut_at_other_places", frozenset({"outer fragments"}), _same_datagrams),
    Exempt("linux_limits_unreachable", frozenset({"destination_ip"}), _rate_limited),
    Exempt("arp_request_not_flooded", frozenset({"arp"}), _only_copies_missing),
    Exempt("udp_length_to_host", frozenset({"udp_length"}), _host_is_silent),
    Exempt(
        "invalid_to_conntrack",
        # total_short: what the cut leaves has a wrong checksum.
        frozenset({"l4_checksum", "l4_short", "total_short", "oddity checksum", "oddity foreign", "oddity options",
                   "oddity short", "oddity quoted_fragment"}),  # fmt: skip
        _linux_translates_nothing,
    ),
    Exempt("chosen_port_shows", frozenset({"offload", "fragments"}), _chosen_port_shows),
    Exempt(
        "icmp_error_without_flow",
        frozenset({"oddity untracked", "oddity foreign", "oddity checksum", "to the host"}),
        _only_the_quote_differs,
    ),
    Exempt(
        "icmp_error_left_to_linux",
        frozenset({"oddity options", "oddity nested", "oddity redirect", "oddity short", "oddity quoted_fragment"}),
        _stateless,
    ),
)
