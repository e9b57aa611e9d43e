# SPDX-License-Identifier: Apache-2.0
"""Nodes with macvtap and a flat network: VMs are on the nodes' NICs themselves, which are not fiplane's."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

from frames import assert_same
from lab import wait_for
from pings import send_pings
from spoofing import BROADCAST, EXPERIMENTAL, STRANGER, check_spoofing

TOPOLOGY = Path(__file__).parent / "topologies" / "macvtap-flat.yaml"
LAB = {"sshd": False}


def test_nothing_is_made(lab):
    for name, node in lab.nodes.items():
        macvtaps = {vm.device for vm in lab.vms.values() if vm.node == name}
        seen = node.links()
        assert seen.keys() == {"lo", "eth0", "eth1"} | macvtaps
        assert "master" not in seen["eth1"] and not seen["eth1"].get("ifalias")
        assert node.run(["nft", "list", "tables"]).stdout.splitlines() == ["table netdev fiplane"]
        status = node.status()
        assert status["problems"] == [] and status["waiting_for"] == [] and status["floating_ips"] == [], status


@pytest.mark.parametrize("other", ["vm2", "vm3"])
def test_ping(lab, other):
    sent = send_pings(lab.vms["vm1"].run, lab.vms[other].port.fixed_ip, 2)
    assert sent.complete and sent.ttls == {64}, sent.output


def test_spoofed_frames_do_not_reach_the_wire(lab, taps):
    check_spoofing(lab, taps, "office")


def test_vlan_devices_beside_the_macvtaps_are_let_through(lab, taps):
    """The filter is for what VMs send untagged. What the node sends untagged itself is dropped."""
    node = lab.nodes["left"]
    made = node.run("ip link add eth1.9 link eth1 type vlan id 9", check=False)
    if "Unknown device type" in made.stderr or "Operation not supported" in made.stderr:
        pytest.skip("the kernel has no VLAN devices")
    assert made.returncode == 0, made.stderr
    node.run("ip link set eth1.9 up")
    marks = [random.randbytes(16), random.randbytes(16)]
    frames = [Ether(src=STRANGER, dst=BROADCAST, type=EXPERIMENTAL) / Raw(mark + bytes(40)) for mark in marks]
    wire = taps.wire("left", "office")
    # The kernel tells the sender: NF_DROP at egress is NET_XMIT_DROP.
    with pytest.raises(OSError) as told:
        taps.host("left", "eth1").send(frames[0])
    assert told.value.errno == errno.ENOBUFS
    taps.host("left", "eth1.9").send(frames[1])
    tagged = Ether(src=STRANGER, dst=BROADCAST) / Dot1Q(vlan=9, type=EXPERIMENTAL) / Raw(marks[1] + bytes(40))
    assert_same("on the wire", wire.one(lambda packet: marks[1] in bytes(packet), "tagged frame"), tagged)
    wire.none(lambda packet: marks[0] in bytes(packet), "untagged frame of the node", 0.05)
    node.run("ip link del eth1.9")


def test_addresses_on_the_device_are_refused(lab):
    """What the node itself sends by it would be dropped, so it is said before that happens."""
    node = lab.nodes["right"]
    assert node.stop_agent() == 0
    node.run("ip address add 198.51.100.7/24 dev eth1")
    refused = node.fiplane("plan", lab.topology_file, "--node", "right", "--state-dir", node.state_dir, check=False)
    assert refused.returncode == 7 and "only VMs may send by it" in refused.stderr, refused.stderr
    node.run("ip address del 198.51.100.7/24 dev eth1")
    node.start_agent()
    wait_for("the agent", node.agent_answers)


def test_teardown_leaves_the_device_and_no_filter(lab):
    node = lab.nodes["left"]
    assert node.stop_agent() == 0
    node.fiplane("teardown")
    assert {"lo", "eth0", "eth1"} <= node.links().keys() and "UP" in node.links()["eth1"]["flags"]
    assert node.run(["nft", "list", "tables"]).stdout == ""
