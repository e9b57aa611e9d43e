# SPDX-License-Identifier: Apache-2.0
"""Compute nodes that attach VMs by macvtap; a legacy router with floating IPs on the network node. Rows V1 to V7.

The kernel needs 8021q and macvtap, so this runs in VMs (vmtests/).
"""

from __future__ import annotations

import json
import random
import signal
import subprocess

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from conftest import ROOT
from frames import assert_same
from lab import wait_for
from outbound import tcp_source
from pings import send_pings
from spoofing import BROADCAST, EXPERIMENTAL, STRANGER, check_spoofing

TOPOLOGY = ROOT / "examples" / "classic-macvtap.yaml"
LAB = {"sshd": False}
BLUE, GREEN, PUBLIC, OUTSIDE = 101, 102, 3001, "outside"
QG, FIP = "203.0.113.101", "203.0.113.102"
COMPUTE = {"compute1": "eth1", "compute2": "enp129s0f0np0"}
# V6: of a name with more than 10 characters, 4 and 6 hex digits: printf enp129s0f0np0 | sha1sum.
BELOW = {"compute1": {"eth1.101": BLUE, "eth1.102": GREEN}, "compute2": {"enp197e4a1.101": BLUE, "enp197e4a1.102": GREEN}}


def ping_ttl(run, address: str) -> int:
    """TTL of the answers; two must come."""
    sent = send_pings(run, address, 2)
    assert sent.complete and len(sent.ttls) == 1, sent.output
    return sent.ttls.pop()


def ours(tag: bytes, kind: int | None = None):
    def match(packet: Packet) -> bool:
        return tag in bytes(packet) and (kind is None or ICMP in packet and packet[ICMP].type == kind)

    return match


def echo(source: str, destination: str, frm: str, to: str, tag: bytes, *, vlan=None, ident=77, ttl=64, kind=8) -> Packet:
    link = Ether(src=source, dst=destination) / Dot1Q(vlan=vlan) if vlan else Ether(src=source, dst=destination)
    return link / IP(src=frm, dst=to, id=ident, ttl=ttl) / ICMP(type=kind, id=7, seq=1) / Raw(tag)


def port_of(lab, name: str):
    return lab.topology.ports[name]


def mac_of_outside(lab) -> str:
    host = lab.outside[OUTSIDE]
    return json.loads(host.run(["ip", "-j", "link", "show", host.device]).stdout)[0]["address"]


def test_V6_devices(lab):
    """Compute nodes: a marked VLAN device for each network, up, ALLMULTI, in no bridge; below each VM's macvtap."""
    for name, physical in COMPUTE.items():
        node, seen = lab.nodes[name], lab.nodes[name].links()
        vms = [vm for vm in lab.vms.values() if vm.node == name]
        assert seen.keys() == {"lo", "eth0", physical} | BELOW[name].keys() | {vm.device for vm in vms}
        assert "master" not in seen[physical]
        for device, number in BELOW[name].items():
            row = seen[device]
            data = row["linkinfo"]["info_data"]
            assert (row["linkinfo"]["info_kind"], row["link"], data["id"]) == ("vlan", physical, number)
            assert row["ifalias"] == "fiplane:classic-macvtap" and row["mtu"] == 1500
            assert {"UP", "ALLMULTI"} <= set(row["flags"]) and "master" not in row
        for vm in vms:
            row = seen[vm.device]
            assert row["linkinfo"] == {"info_kind": "macvtap", "info_data": {**row["linkinfo"]["info_data"], "mode": "bridge"}}
            assert (row["link"], row["address"]) == (lab.topology.below_macvtap(vm.port), vm.port.mac)
        # V5: no router, no filter but that of the VMs, nothing that waits or that went wrong.
        assert node.run(["ls", "/run/netns"]).stdout == ""
        tables = node.run(["nft", "list", "tables"]).stdout.splitlines()
        assert tables == ["table netdev fiplane"]
        status = node.status()
        assert status["problems"] == [] and status["waiting_for"] == [] and status["floating_ips"] == [], status
    # The network node has bridges as ever, and knows the VMs behind them.
    node, seen = lab.nodes["network"], lab.nodes["network"].links()
    for network, device in (("blue", "eth1.101"), ("green", "eth1.102"), ("public", "eth2.3001")):
        assert seen[device]["master"] == lab.topology.networks[network].bridge
        fdb = json.loads(node.run(["bridge", "-j", "fdb", "show", "brport", device]).stdout)
        static = {entry["mac"] for entry in fdb if entry.get("state") == "static"}
        assert static == {vm.port.mac for vm in lab.vms.values() if vm.port.network == network}


def test_V1_same_vlan_on_two_nodes(lab, taps):
    """One L2: tagged on the physical devices, untagged on the VLAN devices, the TTL as it was."""
    here, there, tag = port_of(lab, "vm1"), port_of(lab, "vm2"), random.randbytes(16)
    wires = [taps.wire("compute1", "bridge"), taps.wire("compute2", "bridge")]
    lower = [taps.host("compute1", "eth1.101"), taps.host("compute2", "enp197e4a1.101")]
    start, end = taps.vm("vm1"), taps.vm("vm2")
    frame = echo(here.mac, there.mac, here.fixed_ip, there.fixed_ip, tag)
    start.send(frame)
    assert_same("at the other VM", end.one(ours(tag, 8), "request"), frame)
    reply = start.one(ours(tag, 0), "reply")
    ident = Ether(reply)[IP].id
    back = {"tag": tag, "ident": ident, "kind": 0}
    assert_same("reply", reply, echo(there.mac, here.mac, there.fixed_ip, here.fixed_ip, **back))
    for tap in lower:
        assert_same(tap.what, tap.one(ours(tag, 8), "request"), frame)
    for tap in wires:
        tagged = echo(here.mac, there.mac, here.fixed_ip, there.fixed_ip, tag, vlan=BLUE)
        assert_same(tap.what, tap.one(ours(tag, 8), "request"), tagged)
        answer = echo(there.mac, here.mac, there.fixed_ip, here.fixed_ip, vlan=BLUE, **back)
        assert_same(tap.what, tap.one(ours(tag, 0), "reply"), answer)
    assert ping_ttl(lab.vms["vm1"].run, there.fixed_ip) == 64


def test_V2_same_vlan_on_one_node(lab, taps):
    """From macvtap to macvtap: not even the VLAN device sees it."""
    here, there, tag = port_of(lab, "vm1"), port_of(lab, "vm3"), random.randbytes(16)
    assert ping_ttl(lab.vms["vm1"].run, there.fixed_ip) == 64
    wire, end = taps.wire("compute1", "bridge"), taps.vm("vm3")
    frame = echo(here.mac, there.mac, here.fixed_ip, there.fixed_ip, tag)
    taps.vm("vm1").send(frame)
    assert_same("at the other VM", end.one(ours(tag, 8), "request"), frame)
    wire.none(ours(tag), "frame between VMs of one node")


def test_V3_vlans_do_not_mix(lab, taps):
    """Between VLANs there is nothing but the router: neither broadcast nor a frame to the other VM's MAC crosses."""
    here, tag = port_of(lab, "vm1"), random.randbytes(24)
    blue = [taps.vm("vm2"), taps.vm("vm3")]
    green = [taps.vm("vm4"), taps.vm("vm5")]
    start = taps.vm("vm1")
    frame = Ether(src=here.mac, dst=BROADCAST, type=EXPERIMENTAL) / Raw(tag + bytes(40))
    for name in ("vm4", "vm5"):
        start.send(Ether(src=here.mac, dst=port_of(lab, name).mac, type=EXPERIMENTAL) / Raw(tag + bytes(40)))
    start.send(frame)
    for tap in blue:
        assert_same(tap.what, tap.one(ours(tag), "broadcast"), frame)
    for tap in green:
        tap.none(ours(tag), "frame of another VLAN")


@pytest.mark.parametrize("fast_path", [True, False])
def test_V3_V4_V5_routed_by_the_network_node(lab, taps, fast_path):
    """One hop between VLANs, to the gateway none; outside reaches the router and floating IPs. VMs reach the outside: with a
    floating IP as that, without one as the router."""
    lab.set_fast_path(fast_path)
    vm, outside = lab.vms["vm1"], lab.outside[OUTSIDE]
    address = outside.address.split("/")[0]
    try:
        assert ping_ttl(vm.run, "192.168.1.1") == 64
        assert ping_ttl(vm.run, port_of(lab, "vm4").fixed_ip) == 63
        assert ping_ttl(vm.run, port_of(lab, "vm5").fixed_ip) == 63
        assert ping_ttl(outside.run, QG) == 64
        assert ping_ttl(vm.run, address) == 63
        assert tcp_source(vm, outside, address) == FIP
        for without in ("vm3", "vm5"):
            assert ping_ttl(lab.vms[without].run, address) == 63
            assert tcp_source(lab.vms[without], outside, address) == QG
        assert ping_ttl(vm.run, "203.0.113.103") == 63
        floating_ip_frames(lab, taps, address)
    finally:
        lab.set_fast_path(True)


def floating_ip_frames(lab, taps, address: str) -> None:
    """Translated on the network node: the compute node's wire has the fixed address, tagged, one hop from either end."""
    vm, tag, mac = port_of(lab, "vm1"), random.randbytes(16), mac_of_outside(lab)
    qg = next(port.mac for port in lab.topology.ports.values() if port.owner == "router_gateway")
    leg = lab.topology.router_port("router1", "blue").mac
    external, tenant, here = taps.wire("network", "extern"), taps.wire("compute1", "bridge"), taps.outside(OUTSIDE)
    here.send(echo(mac, qg, address, FIP, tag))
    wanted = echo(leg, vm.mac, address, vm.fixed_ip, tag, vlan=BLUE, ttl=63)
    assert_same("inside", tenant.one(ours(tag, 8), "request"), wanted)
    assert_same("outside", external.one(ours(tag, 8), "request"), echo(mac, qg, address, FIP, tag, vlan=PUBLIC))
    reply = tenant.one(ours(tag, 0), "reply")
    ident = Ether(reply)[IP].id
    wanted = echo(vm.mac, leg, vm.fixed_ip, address, tag, vlan=BLUE, ident=ident, kind=0)
    assert_same("inside", reply, wanted)
    wanted = echo(qg, mac, FIP, address, tag, vlan=PUBLIC, ident=ident, ttl=63, kind=0)
    assert_same("outside", external.one(ours(tag, 0), "reply"), wanted)


def test_spoofed_frames_do_not_reach_the_wire(lab, taps):
    """What has another source than the VM's own ends at the VLAN device."""
    check_spoofing(lab, taps, "bridge")


@pytest.mark.parametrize("damage", ["ip link del eth1.101", "ip link set eth1.101 allmulticast off"])
def test_hand_changes_are_mended(lab, taps, damage):
    """A deleted VLAN device comes back with its filter. The macvtaps that went with it are the hypervisor's."""
    node, vm = lab.nodes["compute1"], lab.vms["vm1"]
    before = node.links()["eth1.101"]["ifindex"]
    node.agent.send_signal(signal.SIGSTOP)
    try:
        node.run(damage)
    finally:
        node.agent.send_signal(signal.SIGCONT)

    def right() -> bool:
        row = node.links().get("eth1.101", {"flags": []})
        chains = node.run(["nft", "list", "table", "netdev", "fiplane"], check=False).stdout
        return {"UP", "ALLMULTI"} <= set(row["flags"]) and 'device "eth1.101"' in chains

    wait_for(f"eth1.101 after: {damage}", right)
    assert (node.links()["eth1.101"]["ifindex"] != before) == ("del" in damage)
    for name in ("vm1", "vm3") if "del" in damage else ():
        lab.vms[name].unplug(node.namespace)
        lab.plug(lab.vms[name])
    wait_for("ping", lambda: send_pings(vm.run, port_of(lab, "vm2").fixed_ip, 2).complete)
    assert ping_ttl(vm.run, port_of(lab, "vm2").fixed_ip) == 64
    wire, tag = taps.wire("compute1", "bridge"), random.randbytes(16)
    taps.vm("vm1").send(Ether(src=STRANGER, dst=BROADCAST, type=EXPERIMENTAL) / Raw(tag + bytes(30)))
    wire.none(ours(tag), "frame with nobody's MAC")
    status = node.status()
    assert status["problems"] == [] and status["waiting_for"] == [], status


REFUSED = [
    ("network_type: vlan\n    physical_network: bridge\n    segmentation_id: 102", "segmentation_id: 102",
     "port vm4: a VM of the VXLAN network green on node compute2, whose vif_type is macvtap (there are no tunnels"),
    ("distributed: false\n    node: network", "distributed: false\n    node: compute1",
     "router router1: a router on node compute1, whose vif_type is macvtap (there are no bridges"),
    ("distributed: false\n    node: network\n    external_gateway: {network: public, fixed_ip: 203.0.113.101}",
     "external_gateway: public",
     "router router1: a distributed router on blue-subnet, a subnet of the vlan network blue"),
    ("ports:\n", "ports:\n  - {name: fg, network: blue, node: compute1, fixed_ip: 192.168.1.99,\n"
     "     device_owner: network:floatingip_agent_gateway}\n",
     "port fg: a port of a router on node compute1, whose vif_type is macvtap (there are only VMs"),
    ("    vif_type: macvtap\n    physical_networks: {bridge: eth1}",
     "    vif_type: macvtap\n    physical_networks: {bridge: eth1}\n    addresses: {blue: 192.168.1.2/24}",
     "node compute1: the node's own address on blue on node compute1, whose vif_type is macvtap (there is no bridge"),
]  # fmt: skip


@pytest.mark.parametrize("old,new,message", REFUSED)
def test_V7_refusals(tmp_path, lab, old, new, message):
    text = TOPOLOGY.read_text()
    assert text.count(old) == 1
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(text.replace(old, new))
    refused = subprocess.run([lab.fiplane, "validate", wrong], capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 2 and message in refused.stderr, refused.stderr


def test_V6_a_network_that_leaves_and_teardown(lab):
    """The VLAN device goes with the network's last VM on the node, and with everything."""
    node = lab.nodes["compute2"]
    fip = "  - {floating_ip_address: 203.0.113.103, port: vm4}\n"
    port = "  - {name: vm4, network: green, node: compute2, fixed_ip: 192.168.2.12}\n"
    lab.reload(lambda text: text.replace(fip, "").replace(port, ""))
    wait_for("enp197e4a1.102 to go", lambda: not node.has_device("enp197e4a1.102"))
    assert node.has_device("enp197e4a1.101")
    chains = node.run(["nft", "list", "table", "netdev", "fiplane"]).stdout
    assert "port_enp197e4a1.101" in chains and "port_enp197e4a1.102" not in chains
    assert node.stop_agent() == 0
    node.fiplane("teardown")
    assert node.links().keys() == {"lo", "eth0", "enp129s0f0np0"}
    assert node.run(["nft", "list", "tables"]).stdout == ""
