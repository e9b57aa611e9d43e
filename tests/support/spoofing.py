# SPDX-License-Identifier: Apache-2.0
"""A VM on a macvtap that sends with addresses which are not its own."""

from __future__ import annotations

import random

from frames import Taps, assert_same
from lab import Lab
from scapy.layers.inet import IP
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw
from topology import Port

BROADCAST, NOBODY, STRANGER = "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "02:00:00:00:00:99"
EXPERIMENTAL = 0x88B5  # IEEE 802 local experimental ethertype: nobody answers it


def _arp(mac: str, hwsrc: str, psrc: str, asked: str) -> Packet:
    return Ether(src=mac, dst=BROADCAST) / ARP(op=2, hwsrc=hwsrc, psrc=psrc, hwdst=NOBODY, pdst=asked)


def _ip(mac: str, source: str) -> Packet:
    return Ether(src=mac, dst=BROADCAST) / IP(src=source, dst="255.255.255.255")


def forbidden(own: Port, other: Port, near: Port) -> dict[str, Packet]:
    """With addresses of a VM elsewhere, of one on the same node, and of the gateway."""
    gateway = own.gateway
    assert gateway is not None
    return {
        "another VM's MAC": _ip(other.mac, own.fixed_ip),
        "nobody's MAC": Ether(src=STRANGER, dst=BROADCAST, type=EXPERIMENTAL),
        "nobody's MAC behind a tag": Ether(src=STRANGER, dst=BROADCAST) / Dot1Q(vlan=9, type=EXPERIMENTAL),
        # Who receives a priority tag takes the frame as if it had none.
        "ARP for the gateway behind a priority tag": Ether(src=own.mac, dst=BROADCAST) / Dot1Q(vlan=0)
        / ARP(op=2, hwsrc=own.mac, psrc=gateway, hwdst=NOBODY, pdst=other.fixed_ip),
        "a tag": Ether(src=own.mac, dst=BROADCAST) / Dot1Q(vlan=9, type=EXPERIMENTAL),
        "a neighbour's MAC with one's own IP": _ip(near.mac, own.fixed_ip),
        "another VM's IP": _ip(own.mac, other.fixed_ip),
        "the gateway's IP": _ip(own.mac, gateway),
        "ARP for another IP": _arp(own.mac, own.mac, other.fixed_ip, gateway),
        "ARP for the gateway": _arp(own.mac, own.mac, gateway, other.fixed_ip),
        "ARP with another MAC inside": _arp(own.mac, other.mac, own.fixed_ip, gateway),
    }


def allowed(own: Port) -> dict[str, Packet]:
    """Its own addresses, and 0.0.0.0 while it looks for one."""
    return {
        "a frame of its own": _ip(own.mac, own.fixed_ip),
        "another protocol": Ether(src=own.mac, dst=BROADCAST, type=EXPERIMENTAL),
        "ARP of its own": _arp(own.mac, own.mac, own.fixed_ip, own.fixed_ip),
        "an ARP probe": _arp(own.mac, own.mac, "0.0.0.0", own.fixed_ip),
        "a DHCP request": _ip(own.mac, "0.0.0.0"),
    }


def check_spoofing(lab: Lab, taps: Taps, physical_network: str) -> None:
    """vm1 sends; vm2 is on another node, vm3 on the same, all of one network. What is forbidden ends before the wire. The
    VM on the same node gets it all: frames between macvtaps of one device pass no filter."""
    vms = [lab.vms[name] for name in ("vm1", "vm2", "vm3")]
    own, other, near = (vm.port for vm in vms)

    def with_tags(frames: dict[str, Packet]) -> dict[str, tuple[Packet, bytes]]:
        marks = {what: random.randbytes(16) for what in frames}
        return {what: (frame / Raw(marks[what] + bytes(30)), marks[what]) for what, frame in frames.items()}

    bad, good = with_tags(forbidden(own, other, near)), with_tags(allowed(own))
    wire, start = taps.wire(vms[0].node, physical_network), taps.vm("vm1")
    beside, far = taps.vm("vm3"), taps.vm("vm2")
    for frame, _ in [*bad.values(), *good.values()]:
        start.send(frame)
    for what, (frame, mark) in good.items():
        assert_same(f"at the other node: {what}", far.one(lambda packet, mark=mark: mark in bytes(packet), what), frame)
    for what, (frame, mark) in bad.items():
        wire.none(lambda packet, mark=mark: mark in bytes(packet), what, 0.02)
        same = beside.one(lambda packet, mark=mark: mark in bytes(packet), what)
        assert_same(f"on the same node: {what}", same, frame)
