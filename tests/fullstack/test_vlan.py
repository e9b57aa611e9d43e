# SPDX-License-Identifier: Apache-2.0
"""VLAN networks, tenants' and external, with a legacy router. Rows T1, T2, T7, V1, V3 of tagged deployments.

The kernel needs 8021q, so this runs in VMs (vmtests/).
"""

from __future__ import annotations

import json
import random
import signal

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from conftest import ROOT
from expect import carried_in_bpf
from frames import assert_same, is_arp_answer
from lab import wait_for
from matrix import missing, ping, run_matrix
from pings import send_pings

TOPOLOGY = ROOT / "examples" / "neutron-vlan.yaml"
TIMEOUT = 120
BLUE, GREEN, PUBLIC, OUTSIDE = 2001, 2002, 3001, "outside"
BROADCAST = "ff:ff:ff:ff:ff:ff"
EXPERIMENTAL = 0x88B5  # IEEE 802 local experimental ethertype: nobody answers it


def gateway(lab):
    return next(port for port in lab.topology.ports.values() if port.owner == "router_gateway")


def leg(lab, network: str):
    (router,) = lab.topology.routers
    return lab.topology.router_port(router, network)


def outside(lab) -> tuple:
    host = lab.outside[OUTSIDE]
    mac = json.loads(host.run(["ip", "-j", "link", "show", host.device]).stdout)[0]["address"]
    return host, host.address.split("/")[0], mac


def has_tag(frame: bytes, vlan: int) -> bool:
    return Dot1Q in Ether(frame) and Ether(frame)[Dot1Q].vlan == vlan


def test_devices(lab):
    """One VLAN device for each network, in its bridge, marked; the physical device itself is in none."""
    tenants = {"eth1.2001", "eth1.2002"}
    wanted = {"network": tenants | {"eth2.3001"}, "compute1": tenants, "compute2": tenants}
    for name, node in lab.nodes.items():
        seen = node.links()
        vlans = {device: row for device, row in seen.items() if row.get("linkinfo", {}).get("info_kind") == "vlan"}
        assert vlans.keys() == wanted[name]
        for device, row in vlans.items():
            parent, number = device.split(".")
            data = row["linkinfo"]["info_data"]
            assert (row["link"], data["id"], data["protocol"]) == (parent, int(number), "802.1Q")
            assert row["ifalias"] == "fiplane:neutron-vlan" and row["mtu"] == 1500
            network = next(item for item in lab.topology.networks.values() if item.vlan == int(number))
            assert row["master"] == network.bridge
            assert "master" not in seen[parent]
            # Those elsewhere need not be learned.
            fdb = json.loads(node.run(["bridge", "-j", "fdb", "show", "brport", device]).stdout)
            static = {entry["mac"] for entry in fdb if entry.get("state") == "static"}
            ports = [port for port in lab.topology.ports.values() if port.network == network.name]
            assert static >= {port.mac for port in ports if port.node and port.node != name}
        assert not [device for device in seen if device.startswith("vxlan")]


@pytest.mark.parametrize("fast_path", [True, False])
def test_matrix(lab, fast_path):
    """V5: from the network node, VMs and the host outside to every floating IP, by ping and ssh; BPF carries it where it is
    on."""
    lab.set_fast_path(fast_path)
    run_matrix(lab, pings=2, with_ssh=False)
    try:
        with carried_in_bpf(lab, packets=50):
            cells = run_matrix(lab, pings=2)
    finally:
        lab.set_fast_path(True)
    assert {cell.source for cell in cells} == {"network", "vm1", "vm2", "vm3", OUTSIDE}
    assert not missing(cells), "\n".join(missing(cells))


def test_T1_V1_same_vlan_on_two_nodes(lab, taps):
    """One L2: the frame arrives as it was sent, and has the network's tag on the wire of both nodes and no other tag."""
    sender, receiver = lab.vms["vm1"].port, lab.vms["vm2"].port
    tag = random.randbytes(16)
    frame = (
        Ether(src=sender.mac, dst=receiver.mac) / IP(src=sender.fixed_ip, dst=receiver.fixed_ip, id=77, ttl=64)
        / ICMP(type=8, id=7, seq=1) / Raw(tag)
    )
    here, there = taps.wire("compute1", "bridge"), taps.wire("compute2", "bridge")
    start, end = taps.vm("vm1"), taps.vm("vm2")
    start.send(frame)

    def ours(kind: int):
        return lambda packet: ICMP in packet and packet[ICMP].type == kind and tag in bytes(packet)

    assert_same("at the other VM", end.one(ours(8), "echo request"), frame)
    tagged = (
        Ether(src=sender.mac, dst=receiver.mac) / Dot1Q(vlan=BLUE)
        / IP(src=sender.fixed_ip, dst=receiver.fixed_ip, id=77, ttl=64) / ICMP(type=8, id=7, seq=1) / Raw(tag)
    )
    for wire in (here, there):
        assert_same(f"at {wire.what}", wire.one(ours(8), "echo request"), tagged)
    reply = start.one(ours(0), "echo reply")
    assert Ether(reply)[IP].ttl == 64
    answer = (
        Ether(src=receiver.mac, dst=sender.mac) / Dot1Q(vlan=BLUE)
        / IP(src=receiver.fixed_ip, dst=sender.fixed_ip, id=Ether(reply)[IP].id, ttl=64)
        / ICMP(type=0, id=7, seq=1) / Raw(tag)
    )
    assert_same("on the wire", here.one(ours(0), "echo reply"), answer)


def passed(node, device: str) -> int:
    """Packets that a device has received and sent."""
    (row,) = json.loads(node.run(["ip", "-j", "-s", "link", "show", "dev", device]).stdout)
    return row["stats64"]["rx"]["packets"] + row["stats64"]["tx"]["packets"]


def test_tags_are_put_on_and_taken_off_in_bpf(lab):
    """What VMs of a network send each other from node to node passes the kernel's VLAN devices in neither direction."""
    sender, receiver = lab.vms["vm1"], lab.vms["vm2"].port
    nodes = [lab.nodes[name] for name in ("compute1", "compute2")]
    assert (sent := send_pings(sender.run, receiver.fixed_ip, 5)).complete, sent.output
    before = [(passed(node, "eth1.2001"), passed(node, "eth1")) for node in nodes]
    assert (sent := send_pings(sender.run, receiver.fixed_ip, 100, interval=0.02)).complete, sent.output
    for node, (tagged, plain) in zip(nodes, before):
        assert passed(node, "eth1") - plain >= 200
        # ARP, and what the kernel says by itself.
        assert passed(node, "eth1.2001") - tagged < 20, f"{node.name}: packets passed eth1.2001"


def test_T7_V3_different_vlans_do_not_mix(lab, taps):
    """What is broadcast in one VLAN reaches all of it, and nothing of the other."""
    tag = random.randbytes(24)
    frame = Ether(src=lab.vms["vm1"].port.mac, dst=BROADCAST, type=EXPERIMENTAL) / Raw(tag + bytes(40))
    vms = {name: taps.vm(name) for name in ("vm1", "vm2", "vm3", "vm4")}
    wires = {name: taps.wire(name, "bridge") for name in lab.nodes}
    external = taps.wire("network", "extern")
    vms["vm1"].send(frame)

    def ours(packet) -> bool:
        return tag in bytes(packet)

    assert_same("at the other VM", vms["vm2"].one(ours, "broadcast"), frame)
    expected = Ether(src=frame.src, dst=BROADCAST) / Dot1Q(vlan=BLUE, type=EXPERIMENTAL) / Raw(tag + bytes(40))
    for wire in wires.values():
        assert_same(f"at {wire.what}", wire.one(ours, "broadcast"), expected)
    # What should come no more has had its time when the first has been listened to.
    for patience, wire in zip((0.5, 0.1, 0.1), wires.values()):
        assert len(wire.frames(ours, 2, patience)) == 1, "it came back"
    for place in (vms["vm3"], vms["vm4"], external):
        place.none(ours, "frame of another VLAN", 0.1)


def test_V3_the_router_leads_from_one_to_the_other(lab):
    """One hop, over the network node."""
    sent = send_pings(lab.vms["vm1"].run, lab.vms["vm4"].port.fixed_ip, 2)
    assert sent.complete and sent.ttls == {63}, sent.output


def test_frames_outside_carry_the_external_tag(lab, taps):
    """To and from qg-'s MAC with the external network's tag, one hop from the VM; the tenant's tag on the other wire."""
    host, address, mac = outside(lab)
    fip, vm = "203.0.113.101", lab.vms["vm1"]
    external, tenant, here = taps.wire("network", "extern"), taps.wire("network", "bridge"), taps.outside(OUTSIDE)
    number, tag = random.randrange(1, 65535), random.randbytes(16)
    router = gateway(lab).mac
    here.send(
        Ether(src=mac, dst=router) / IP(src=address, dst=fip, id=number) / ICMP(type=8, id=number, seq=1) / Raw(tag)
    )

    def ours(kind: int):
        return lambda packet: ICMP in packet and packet[ICMP].type == kind and tag in bytes(packet)

    def expected(source, destination, vlan, frm, to, identification, ttl, kind):
        return (
            Ether(src=source, dst=destination) / Dot1Q(vlan=vlan) / IP(src=frm, dst=to, id=identification, ttl=ttl)
            / ICMP(type=kind, id=number, seq=1) / Raw(tag)
        )

    blue, fixed = leg(lab, "blue").mac, vm.port.fixed_ip
    assert_same("outside", external.one(ours(8), "request"), expected(mac, router, PUBLIC, address, fip, number, 64, 8))
    inside = expected(blue, vm.port.mac, BLUE, address, fixed, number, 63, 8)
    assert_same("inside", tenant.one(ours(8), "request"), inside)
    reply = tenant.one(ours(0), "reply")
    chosen = Ether(reply)[IP].id
    assert_same("inside", reply, expected(vm.port.mac, blue, BLUE, fixed, address, chosen, 64, 0))
    assert_same("outside", external.one(ours(0), "reply"), expected(router, mac, PUBLIC, fip, address, chosen, 63, 0))


def test_arping_from_outside(lab, taps):
    """qg- answers for the floating IPs and for no other address, tagged."""
    host, address, mac = outside(lab)
    wire, router = taps.wire("network", "extern"), gateway(lab).mac
    seen = host.run(["arping", "-c", "2", "-w", "8", "-I", host.device, "203.0.113.102"]).stdout
    assert f"[{router.upper()}]" in seen, seen
    fip = "203.0.113.102"
    reply = wire.one(is_arp_answer(fip), "ARP reply")
    answer = ARP(op=2, hwsrc=router, psrc=fip, hwdst=mac, pdst=address)
    assert_same("on the wire", reply, Ether(src=router, dst=mac) / Dot1Q(vlan=PUBLIC) / answer)
    silent = host.run(["arping", "-c", "1", "-w", "2", "-I", host.device, "203.0.113.199"], check=False)
    assert silent.returncode == 1 and "Received 0" in silent.stdout, silent.stdout


def test_announcement_and_unlisted_next_hop(lab, taps):
    """A floating IP that is added is announced with the tag; a router of another pod is resolved by ARP."""
    before = lab.topology_file.read_text()
    fresh, wire = "203.0.113.177", taps.wire("network", "extern")
    pod = lab.add_outside_host("pod2", "public", "203.0.113.77/24")
    pod.run("ip address add 198.51.100.1/32 dev lo")
    lab.reload(lambda text: text.replace("floating_ip_address: 203.0.113.101,", f"floating_ip_address: {fresh},").replace(
        "    interfaces: [blue-subnet, green-subnet]\n",
        "    interfaces: [blue-subnet, green-subnet]\n"
        "    routes: [{destination: 198.51.100.0/24, nexthop: 203.0.113.77}]\n"))
    for operation in (1, 2):
        seen = wire.one(
            lambda packet: ARP in packet and packet[ARP].op == operation and packet[ARP].psrc == fresh,
            f"gratuitous ARP, operation {operation}", timeout=5,
        )
        assert has_tag(seen, PUBLIC) and Ether(seen).dst == BROADCAST and Ether(seen)[ARP].hwsrc == gateway(lab).mac
    assert (sent := send_pings(lab.vms["vm1"].run, "198.51.100.1", 2)).complete, sent.output
    namespace = next(iter(lab.topology.routers.values())).namespace
    command = f"ip -j neigh show 203.0.113.77 dev {gateway(lab).device}"
    neighbours = json.loads(lab.nodes["network"].run_in(namespace, command))
    assert neighbours and "PERMANENT" not in neighbours[0]["state"], neighbours
    del lab.outside["pod2"]
    lab.reload(lambda _: before)


MARK = "ip link set eth1.2001 alias fiplane:neutron-vlan"


@pytest.mark.parametrize("damage", [
    "ip link del eth1.2001",
    "ip link set eth1.2001 nomaster",
    f"ip link del eth1.2001; ip link add eth1.2001 link eth1 type vlan id 7; {MARK}",
    "ip link set eth1 down",
])
def test_hand_changes_are_mended(lab, damage):
    """A VLAN device that is deleted, taken out of its bridge, or has another id is put right at once."""
    node = lab.nodes["compute1"]
    bridge = lab.topology.networks["blue"].bridge

    def right() -> bool:
        device = node.links().get("eth1.2001", {})
        data = device.get("linkinfo", {}).get("info_data", {})
        return (data.get("id"), device.get("master"), device.get("operstate")) == (BLUE, bridge, "UP")

    assert right()
    # The agent is quicker than a second command.
    node.agent.send_signal(signal.SIGSTOP)
    try:
        node.run(damage)
    finally:
        node.agent.send_signal(signal.SIGCONT)
    wait_for(f"eth1.2001 to be right after: {damage}", right)
    assert wait_for("ping", lambda: ping(lab, OUTSIDE, "203.0.113.101", 1)) is not None


def test_a_nic_that_goes_comes_back_and_teardown_leaves_nothing(lab):
    """Its VLAN devices go and come with it. After a teardown nothing of ours is left, and the device is as it was."""
    node = lab.nodes["compute2"]
    node.run("ip link del eth1")
    wait_for("the agent to miss eth1", lambda: any("eth1" in what for what in node.status()["waiting_for"]))
    node.connect_physical(lab.wire, "bridge")
    wait_for("the VLANs", lambda: {"eth1.2001", "eth1.2002"} <= node.links().keys())
    assert wait_for("ping", lambda: ping(lab, OUTSIDE, "203.0.113.102", 1)) is not None
    assert node.stop_agent() == 0
    node.fiplane("teardown")
    left = node.links()
    assert {device for device in left if not device.startswith("tap")} == {"lo", "eth0", "eth1"}
    assert "UP" in left["eth1"]["flags"]
    # Somebody else's VLAN device is in the way: said clearly, and nothing is made.
    node.run("ip link add office link eth1 type vlan id 2001")
    refused = node.fiplane("apply", lab.topology_file, "--node", "compute2", "--state-dir", node.state_dir, check=False)
    assert refused.returncode == 7 and "VLAN 2001 of eth1 has the device office already" in refused.stderr
    assert node.links().keys() == left.keys() | {"office"}
