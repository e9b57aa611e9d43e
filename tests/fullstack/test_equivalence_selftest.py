# SPDX-License-Identifier: Apache-2.0
"""The equivalence suite itself: one wrong byte, a lost frame and an extra one are found, in the comparison and when
the node under test is broken; what Linux chooses freely is not a difference, and only that."""

from __future__ import annotations

import json
import struct
from random import Random
from types import SimpleNamespace

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6TimeExceeded, IPv6, defragment6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

from equivalence import freedom, report, tunnel_cases
from equivalence.build import checksum
from equivalence.case import Case, Shot, arp_mark, ident, token
from equivalence.exceptions import EXCEPTIONS
from equivalence.generate import Generator
from equivalence.runner import Difference, Outcome, Runner, attribute, on_one_cpu
from equivalence.site import Entry, Site
from equivalence.sockets import GSO_TCPV4, GSO_UDP_L4, VNET_HEADER, finished
from equivalence.tunnel_cases import KINDS6
from maps import PINS
from namespaces import AUXDATA, PACKET_AUXDATA, SOL_PACKET

VTEP, PEER = bytes([192, 0, 2, 11]), bytes([192, 0, 2, 12])
OWN = bytes([10, 1, 0, 1])
SNAT = bytes([172, 24, 5, 250])
FIP, FIP_MAC = bytes([172, 24, 5, 11]), bytes.fromhex("fa163e000001")


@pytest.fixture
def paper():
    """What the pure parts ask of a site."""
    addresses = {"local_addresses": {OWN}, "own_addresses": {OWN}, "own_fips": {FIP}, "announced": {FIP_MAC + FIP},
                 "guests": {"guest1"}, "snat_addresses": {SNAT}}  # fmt: skip
    return SimpleNamespace(topology=SimpleNamespace(vxlan_port=4789, floating_ips={}), vtep=VTEP, follows=False, **addresses)


VTEP6, PEER6 = (bytes.fromhex("20010db800ac") + bytes(9) + number for number in (b"\x11", b"\x12"))


@pytest.fixture
def paper6(paper):
    """Such a site with an IPv6 underlay."""
    paper.vtep = VTEP6
    return paper


def tunnelled(sport: int = 40000, inner: Ether | None = None, ends: tuple[bytes, bytes] = (VTEP, PEER)) -> bytes:
    entry = Entry("wire", "n", 100, b"\2" * 6, b"\4" * 6, *ends)
    return entry.wrap(bytes(inner or Ether() / IP(src="10.0.0.1") / UDP()), sport)


def patched(frame: bytes, at: int, value: bytes) -> bytes:
    return frame[:at] + value + frame[at + len(value) :]


def with_outer_ident(frame: bytes, value: int) -> bytes:
    frame = patched(patched(frame, 18, struct.pack("!H", value)), 24, b"\0\0")
    return patched(frame, 24, struct.pack("!H", checksum(frame[14:34])))


def test_outer_port_and_ident_are_free(paper):
    one, other = tunnelled(40000), with_outer_ident(tunnelled(50001), 4711)
    assert one != other
    assert freedom.normalised("wire", one, paper) == freedom.normalised("wire", other, paper)


@pytest.mark.parametrize("at", [*range(0, 18), 20, 21, 22, 23, *range(26, 34), *range(36, 92)])
def test_every_other_byte_of_a_tunnel_packet_counts(paper, at):
    frame = tunnelled()
    wrong = patched(frame, at, bytes([frame[at] ^ 1]))
    assert freedom.normalised("wire", frame, paper) != freedom.normalised("wire", wrong, paper)


def over_ipv6(sport: int = 40000) -> bytes:
    return tunnelled(sport, ends=(VTEP6, PEER6))


def test_over_ipv6_the_outer_port_alone_is_free(paper6):
    frame = over_ipv6()
    assert frame == bytes(
        Ether(src="02:02:02:02:02:02", dst="04:04:04:04:04:04")
        / IPv6(src="2001:db8:ac::11", dst="2001:db8:ac::12", hlim=64)
        / UDP(sport=40000, dport=4789, chksum=0)
        / VXLAN(flags=8, vni=100)
        / Ether(frame[70:])
    )
    assert freedom.normalised("wire", frame, paper6) == freedom.normalised("wire", over_ipv6(50001), paper6)
    for wrong in (over_ipv6(32767), over_ipv6(61000)):
        assert freedom.normalised("wire", frame, paper6) != freedom.normalised("wire", wrong, paper6)
    assert freedom.normalised("vm1", frame, paper6) != freedom.normalised("vm1", over_ipv6(50001), paper6)
    for at in (*range(0, 54), *range(56, len(frame))):
        wrong = patched(frame, at, bytes([frame[at] ^ 1]))
        assert freedom.normalised("wire", frame, paper6) != freedom.normalised("wire", wrong, paper6), at


def test_reassembly_timeouts_over_ipv6_are_left_out(paper6):
    def error(source: str, kind: int, code: int) -> bool:
        packet = Ether() / IPv6(src=source, dst="2001:db8:ac::12") / ICMPv6TimeExceeded(type=kind, code=code)
        return freedom.is_from_a_clock("wire", bytes(packet), paper6)

    assert error("2001:db8:ac::11", 3, 1)
    assert not error("2001:db8:ac::12", 3, 1) and not error("2001:db8:ac::11", 3, 0) and not error("2001:db8:ac::11", 1, 4)


@pytest.mark.parametrize("kind", KINDS6)
def test_odd_tunnel_packets_over_ipv6(monkeypatch, paper6, kind):
    """Each is made, and goes from a peer to the node in IPv6, but for what it is about."""
    paper6.topology.networks = {"n": SimpleNamespace(segmentation_id=100)}
    paper6.topology.nodes = {"peer": SimpleNamespace(underlay_address="2001:db8:ac::12")}
    entry = Entry("wire", "n", 100, b"\2" * 6, b"\4" * 6, PEER6, VTEP6)
    paper6.journeys = [SimpleNamespace(entry=entry)]
    monkeypatch.setattr(tunnel_cases, "KINDS6", (kind,))
    inside = bytes(Ether() / IP() / UDP() / Raw(token(7)))
    for seed in range(20):
        case = tunnel_cases.odd_tunnel_case(paper6, Random(seed), 7, lambda *_: (inside, []))
        for shot in case.shots:
            packet = Ether(shot.frame)
            assert IPv6 in packet and (kind == "other_destination" or packet[IPv6].dst == "2001:db8:ac::11")
        if kind == "fragments":
            pieces = sorted((IPv6(shot.frame[14:]) for shot in case.shots), key=lambda piece: piece.payload.offset)
            assert len(pieces) == 2 and bytes(defragment6(pieces)).endswith(inside)
        assert case.traits == [f"outer {kind}"]


def test_a_wrong_outer_checksum_and_a_port_out_of_range_count(paper):
    frame = tunnelled()
    for wrong in (patched(frame, 24, b"\x12\x34"), tunnelled(32767), tunnelled(61000), tunnelled(0)):
        assert freedom.normalised("wire", frame, paper) != freedom.normalised("wire", wrong, paper)
    # Only the node's own tunnel packets on the wire have such a freedom.
    assert freedom.normalised("vm1", tunnelled(40000), paper) != freedom.normalised("vm1", tunnelled(40001), paper)


def test_the_ident_of_forwarded_packets_counts(paper):
    def packet(src: str, number: int) -> bytes:
        return freedom.normalised("vm1", bytes(Ether() / IP(src=src, id=number) / UDP()), paper)

    assert packet("10.1.0.1", 1) == packet("10.1.0.1", 2)
    assert packet("10.1.0.2", 1) != packet("10.1.0.2", 2)
    assert packet("172.24.5.11", 1) != packet("172.24.5.11", 2)


def test_the_ident_of_a_routers_error_from_a_floating_ip_is_free(paper):
    def error(tos: int, kind: int, number: int) -> bytes:
        quoted = IP(src="10.0.0.1", dst="172.24.5.11") / UDP()
        packet = Ether() / IP(src="172.24.5.11", id=number, tos=tos) / ICMP(type=kind) / Raw(bytes(quoted))
        return freedom.normalised("vm1", bytes(packet), paper)

    assert error(0xC0, 11, 1) == error(0xC0, 11, 2)
    assert error(0x20, 11, 1) != error(0x20, 11, 2)
    assert error(0xC0, 8, 1) != error(0xC0, 8, 2)


@pytest.mark.parametrize("transport", [
    lambda number: UDP(sport=number, dport=7), lambda number: TCP(sport=number, dport=7), lambda number: ICMP(id=number),
], ids=["udp", "tcp", "icmp"])  # fmt: skip
def test_what_source_nat_chooses_is_free(paper, transport):
    def packet(number: int, source: str = "172.24.5.250", data: bytes = b"data", wrong: int = 0) -> bytes:
        frame = bytes(Ether() / IP(src=source, dst="172.24.4.1") / transport(number) / Raw(data))
        at = 34 + {17: 6, 6: 16, 1: 2}[frame[23]]
        frame = patched(frame, at, ((int.from_bytes(frame[at : at + 2], "big") + wrong) % 0xFFFF).to_bytes(2, "big"))
        return freedom.normalised("vm1", frame, paper)

    assert packet(1) == packet(60000)
    assert packet(1, wrong=5) == packet(60000, wrong=5)
    assert packet(1) != packet(1, wrong=5)
    assert packet(1) != packet(60000, data=b"dada")
    assert packet(1, "172.24.5.11") != packet(2, "172.24.5.11")


def test_only_announcements_of_own_floating_ips_are_left_out(paper):
    def announcement(ip: str, mac: str = "fa:16:3e:00:00:01", target: str | None = None) -> bytes:
        return bytes(Ether() / ARP(op=1, hwsrc=mac, psrc=ip, pdst=target or ip))

    assert freedom.is_announcement(announcement("172.24.5.11"), paper)
    assert not freedom.is_announcement(announcement("172.24.5.12"), paper)
    assert not freedom.is_announcement(announcement("172.24.5.11", "fa:16:3e:00:00:02"), paper)
    assert not freedom.is_announcement(announcement("172.24.5.11", target="172.24.5.1"), paper)


def aux(status: int = 0, tci: int = 0, protocol: int = 0) -> list:
    return [(SOL_PACKET, PACKET_AUXDATA, AUXDATA.pack(status, 0, 0, 0, 0, tci, protocol))]


def test_captures_finish_checksums_segments_and_tags():
    whole = Ether(src="02:00:00:00:00:01") / IP(src="10.0.0.1", dst="10.0.0.2", id=7)
    datagram = whole / UDP(sport=5, dport=6) / Raw(b"data")
    raw = bytes(datagram)
    pseudo = struct.pack("!I", 0x0A000001) + struct.pack("!I", 0x0A000002) + struct.pack("!BBH", 0, 17, 12)
    unfinished = patched(raw, 40, struct.pack("!H", 0xFFFF ^ checksum(pseudo)))
    assert finished(VNET_HEADER.pack(1, 0, 0, 0, 34, 6) + unfinished, aux()) == [raw]
    tagged = bytes(Ether(raw[:14]) / Dot1Q(vlan=100, prio=3, type=0x0800) / Raw(raw[14:]))
    tagged = patched(tagged, 12, b"\x81\0")
    assert finished(VNET_HEADER.pack(0, 0, 0, 0, 0, 0) + raw, aux(0x10, 3 << 13 | 100, 0x8100)) == [tagged]

    data = bytes(range(250))
    train = bytes(whole / TCP(sport=5, dport=6, seq=1000, flags="PA") / Raw(data))
    expected = [
        bytes(Ether(src="02:00:00:00:00:01") / IP(src="10.0.0.1", dst="10.0.0.2", id=7 + i)
              / TCP(sport=5, dport=6, seq=1000 + 100 * i, flags="PA" if i == 2 else "A")
              / Raw(data[100 * i : 100 * i + 100]))
        for i in range(3)
    ]  # fmt: skip
    assert finished(VNET_HEADER.pack(1, GSO_TCPV4, 54, 100, 34, 16) + train, aux()) == expected
    train = bytes(whole / UDP(sport=5, dport=6) / Raw(data))
    expected = [
        bytes(Ether(src="02:00:00:00:00:01") / IP(src="10.0.0.1", dst="10.0.0.2", id=7 + i) / UDP(sport=5, dport=6)
              / Raw(data[100 * i : 100 * i + 100]))
        for i in range(3)
    ]  # fmt: skip
    assert finished(VNET_HEADER.pack(1, GSO_UDP_L4, 42, 100, 34, 6) + train, aux()) == expected


def test_outputs_find_their_cases():
    cases = [Case(number, []) for number in (7, 8)]
    by_token = ("wire", tunnelled(inner=Ether() / IP() / UDP() / Raw(b"xx" + token(7))))
    by_ident = ("vm1", bytes(Ether() / IP(id=ident(8)) / TCP()))
    by_mac = ("vm1", bytes(Ether() / ARP(hwdst=arp_mark(8).hex(":"))))
    stranger = ("vm1", bytes(Ether() / IP(id=ident(9)) / TCP()))
    found = attribute(cases, [by_token, by_ident, by_mac, stranger], 4789)
    assert found == {7: [by_token], 8: [by_ident, by_mac], None: [stranger]}


@pytest.mark.parametrize("follows", (False, True), ids=("own", "followed"))
@pytest.mark.parametrize("rule", EXCEPTIONS, ids=lambda rule: rule.name)
def test_no_exception_covers_a_wrong_byte(paper, rule, follows):
    """Of any case that it is about: another TTL, MAC or payload is still a difference."""
    paper.follows = follows
    frame = bytes(Ether() / IP(src="10.0.0.1", dst="10.0.0.2", ttl=62) / UDP() / Raw(b"payload"))
    for trait in rule.traits:
        case = Case(1, [Shot("vm1", frame)], traits=[trait])
        for at in (0, 22, len(frame) - 1):
            wrong = patched(frame, at, bytes([frame[at] ^ 1]))
            assert not rule.covers(Difference(case, [("vm1", frame)], [("vm1", wrong)]), paper)
            assert not rule.covers(Difference(case, [("wire", frame)], [("wire", wrong)]), paper)


def test_addresses_may_stay_as_they_were_only_behind_followed_routers(paper):
    """Of what Linux's conntrack calls invalid, and the fast path translates."""
    rule = next(rule for rule in EXCEPTIONS if rule.name == "invalid_to_conntrack")
    ours = bytes(Ether() / IP(src="172.24.5.11", dst="10.0.0.2", ttl=62) / UDP() / Raw(b"payload"))
    linux = patched(ours, 26, bytes([10, 0, 0, 1]))
    case = Case(1, [Shot("vm1", linux)], traits=["l4_checksum"])
    difference = Difference(case, [("vm1", linux)], [("vm1", ours)])
    assert not rule.covers(difference, paper)
    paper.follows = True
    assert rule.covers(difference, paper)


def test_copies_of_an_answer_are_missing_only_where_linux_floods_it(paper):
    question = Ether(src="02:5e:00:00:00:01", dst="ff:ff:ff:ff:ff:ff") / ARP(op=1, psrc="172.24.5.253", pdst="172.24.5.11")
    answer = Ether(src="fa:16:3e:00:00:01", dst="02:5e:00:00:00:01") / ARP(op=2, psrc="172.24.5.11", pdst="172.24.5.253")
    other = Ether(src="fa:16:3e:00:00:02", dst="02:5e:00:00:00:01") / ARP(op=2, psrc="172.24.5.12", pdst="172.24.5.253")
    rule = next(rule for rule in EXCEPTIONS if rule.name == "arp_request_not_flooded")
    case = Case(1, [Shot("wire", tunnelled(inner=question))], traits=["arp"])
    ours = [("wire", tunnelled(inner=answer))]
    for place, frame, covered in (
        ("guest1", question, True),
        ("vm1", question, True),
        ("guest1", answer, True),
        ("vm1", answer, False),
        ("guest1", other, False),
    ):
        assert rule.covers(Difference(case, [*ours, (place, bytes(frame))], ours), paper) == covered, (place, frame)


# With a lab

COUNT = 256


def run(site: Site, tamper=None) -> Outcome:
    generator = Generator(site, 5)
    with on_one_cpu():
        return Runner(site, tamper).run([generator.case(number) for number in range(COUNT)])


@pytest.fixture(scope="module")
def site(warm):
    with Site(warm, next(iter(warm.nodes))) as opened:
        yield opened


def once(change):
    """Tampers with the first output that carries a number, of the first chunk."""
    done = []

    def tamper(outputs):
        index = next((i for i, output in enumerate(outputs) if token(0)[:4] in output[1]), None)
        if done or index is None:
            return outputs
        done.append(outputs[index])
        return change(list(outputs), index)

    return tamper


def flip(outputs, index):
    name, frame = outputs[index]
    at = 22 if name != "wire" else 72  # TTL of the packet, of the inner packet
    outputs[index] = (name, patched(frame, at, bytes([frame[at] ^ 1])))
    return outputs


def lose(outputs, index):
    del outputs[index]
    return outputs


def repeat(outputs, index):
    return [*outputs, outputs[index]]


def elsewhere(outputs, index):
    name, frame = outputs[index]
    outputs[index] = ("vm2" if name != "vm2" else "vm1", frame)
    return outputs


def test_untampered_there_is_no_difference(site):
    outcome = run(site)
    assert not outcome.differences, [report.summary_line(difference) for difference in outcome.differences]


@pytest.mark.parametrize("change,words", [(flip, "first difference"), (lose, "missing at"),
                                          (repeat, "only with the fast path"), (elsewhere, "missing at")])
def test_one_tampered_output_is_found(site, change, words):
    outcome = run(site, once(change))
    assert len(outcome.differences) == 1
    text = report.describe(outcome.differences[0], "sudo tools/equivalence dvr")
    assert words in text and f"--only {outcome.differences[0].case.number}" in text
    if change is flip:
        assert "IP.ttl" in text


class WrongMac(Site):
    """A datapath with a mistake: after each switch-on, one row of fl_fip_in leads to another MAC."""

    def set_fast_path(self, on: bool) -> None:
        super().set_fast_path(on)
        if not on:
            return
        vm = bytes.fromhex(self.vms[0].mac.replace(":", ""))
        rows = json.loads(self.node.run(["bpftool", "-j", "map", "dump", "pinned", f"{PINS}/fl_fip_in"]).stdout)
        for row in rows:
            value = bytes(int(byte, 16) for byte in row["value"])
            at = value.find(vm)
            if at >= 0:
                wrong = patched(value, at + 5, bytes([value[at + 5] ^ 1]))
                self.node.run(["bpftool", "map", "update", "pinned", f"{PINS}/fl_fip_in", "key", "hex",
                               *(byte[2:].zfill(2) for byte in row["key"]), "value", "hex", *wrong.hex(" ").split()])
                return
            if patched(vm, 5, bytes([vm[5] ^ 1])) in value:
                return  # broken still: nothing in Linux has changed, so nobody writes the row
        raise AssertionError("no row to break")


def test_a_broken_datapath_is_found(warm, site):
    with WrongMac(warm, site.name) as broken:
        outcome = run(broken)
    assert len(outcome.differences) > 3
    text = report.describe(outcome.differences[0], "sudo tools/equivalence dvr")
    assert "Ethernet.dst" in text, text
