# SPDX-License-Identifier: Apache-2.0
"""A flat external network: the nodes' second NICs on a wire that others are on; floating IPs of a distributed router."""

from __future__ import annotations

import json
import random
import re

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from conftest import ROOT
from expect import carried_in_bpf
from frames import assert_same, is_arp_answer
from lab import wait_for
from matrix import missing, ping, run_matrix
from pings import send_pings

TOPOLOGY = ROOT / "examples" / "neutron-flat.yaml"
NETWORK, PHYSICAL, OUTSIDE = "public", "extern", "outside"
BROADCAST = "ff:ff:ff:ff:ff:ff"


def outside(lab):
    """The host, its address and its MAC."""
    host = lab.outside[OUTSIDE]
    mac = json.loads(host.run(["ip", "-j", "link", "show", host.device]).stdout)[0]["address"]
    return host, host.address.split("/")[0], mac


def owner_mac(lab, fip: str) -> str:
    return lab.topology.gateway_port(lab.topology.node_of_fip(fip), NETWORK).mac


def test_the_device_itself_is_the_bridges_port(lab):
    """It learns and floods, keeps its name, is not marked as fiplane's; what is listed elsewhere is a static entry."""
    for name, node in lab.nodes.items():
        nic = node.links("master", "br-ex")["eth1"]
        port = nic["linkinfo"]["info_slave_data"]
        assert (port["state"], port["learning"], port["flood"], port["isolated"]) == ("forwarding", True, True, False)
        assert "ifalias" not in nic
        fdb = json.loads(node.run(["bridge", "-j", "fdb", "show", "brport", "eth1"]).stdout)
        static = {row["mac"] for row in fdb if row.get("state") == "static"}
        others = [other for other in lab.nodes if other != name]
        listed = {lab.topology.nodes[other].macs[NETWORK] for other in others}
        listed |= {lab.topology.gateway_port(other, NETWORK).mac for other in others}
        assert static >= listed and len(static) == len(listed) + 1  # and the mark of the flat network's own device


def test_matrix(warm):
    """From every node, every VM and the host outside to every floating IP, by ping and ssh; BPF carries it, to and from the
    host that no file lists as well."""
    with carried_in_bpf(warm, packets=300):
        cells = run_matrix(warm)
    assert OUTSIDE in {cell.source for cell in cells}
    assert not missing(cells), "\n".join(missing(cells))


@pytest.mark.parametrize("fip", ["203.0.113.101", "203.0.113.103"])
def test_frames_on_the_wire(warm, taps, fip):
    """Untagged, to and from the MAC of the VM's own node, two hops away from the VM."""
    host, address, mac = outside(warm)
    node = warm.topology.node_of_fip(fip)
    wire, here, vm = taps.wire(node, PHYSICAL), taps.outside(OUTSIDE), taps.vm(warm.vm_of(fip).name)
    number, tag = random.randrange(1, 65535), random.randbytes(24)
    request = (
        Ether(src=mac, dst=owner_mac(warm, fip)) / IP(src=address, dst=fip, id=number, ttl=64)
        / ICMP(type=8, id=number, seq=7) / Raw(tag)
    )
    here.send(request)

    def ours(kind: int, destination: str):
        def check(packet) -> bool:
            return ICMP in packet and (packet[ICMP].type, packet[IP].dst) == (kind, destination) and tag in bytes(packet)

        return check

    assert_same("on the wire", wire.one(ours(8, fip), "echo request"), request)
    fixed = warm.vm_of(fip).port.fixed_ip
    arrived = vm.one(ours(8, fixed), "echo request")
    assert Ether(arrived)[IP].ttl == 62 and Ether(arrived)[IP].src == address
    reply = wire.one(ours(0, address), "echo reply")
    expected = (
        Ether(src=owner_mac(warm, fip), dst=mac) / IP(src=fip, dst=address, id=Ether(reply)[IP].id, ttl=62)
        / ICMP(type=0, id=number, seq=7) / Raw(tag)
    )
    assert_same("on the wire", reply, expected)


def test_arping_from_outside(warm, taps):
    """The node's fg- MAC answers for a floating IP, and for no other address of the subnet."""
    host, address, mac = outside(warm)
    for fip in ("203.0.113.101", "203.0.113.104"):
        wire = taps.wire(warm.topology.node_of_fip(fip), PHYSICAL)
        seen = host.run(["arping", "-c", "2", "-w", "5", "-I", host.device, fip]).stdout
        assert f"[{owner_mac(warm, fip).upper()}]" in seen, seen
        reply = wire.one(is_arp_answer(fip), "ARP reply")
        answer = ARP(op=2, hwsrc=owner_mac(warm, fip), psrc=fip, hwdst=mac, pdst=address)
        assert_same("on the wire", reply, Ether(src=owner_mac(warm, fip), dst=mac) / answer)
    silent = host.run(["arping", "-c", "1", "-w", "1", "-I", host.device, "203.0.113.199"], check=False)
    assert silent.returncode == 1 and "Received 0" in silent.stdout, silent.stdout


def test_announcement(warm, taps, original):
    """A floating IP that is added is announced on the wire, request and reply, and works at once."""
    old, fresh = "203.0.113.101", "203.0.113.177"
    wire = taps.wire("node1", PHYSICAL)
    warm.reload(lambda text: text.replace(f"floating_ip_address: {old},", f"floating_ip_address: {fresh},"))
    mac = owner_mac(warm, fresh)
    for operation, target in ((1, BROADCAST), (2, mac)):
        seen = wire.one(
            lambda packet: ARP in packet and packet[ARP].op == operation and packet[ARP].psrc == fresh,
            f"gratuitous ARP, operation {operation}", timeout=5,
        )
        told = Ether(seen)[ARP]
        assert (Ether(seen).dst, told.hwsrc, told.pdst) == (BROADCAST, mac, fresh)
    assert ping(warm, OUTSIDE, fresh, 2) is not None


def test_a_next_hop_that_nobody_lists(warm, original):
    """A route by a host outside: the router resolves it by ARP like any other neighbour."""
    pod = warm.outside.get("pod2") or warm.add_outside_host("pod2", NETWORK, "203.0.113.77/24")
    pod.run("ip address add 198.51.100.1/32 dev lo")
    warm.reload(lambda text: text.replace(
        "    interfaces: [private-subnet]\n",
        "    interfaces: [private-subnet]\n    routes: [{destination: 198.51.100.0/24, nexthop: 203.0.113.77}]\n"))
    warm.wait_until_ready()
    for vm in ("vm1", "vm4"):
        assert (sent := send_pings(warm.vms[vm].run, "198.51.100.1", 3)).complete, sent.output
    node, port = warm.nodes["node1"], warm.topology.gateway_port("node1", NETWORK)
    namespace = f"fip-{warm.topology.networks[NETWORK].id}"
    neighbours = json.loads(node.run_in(namespace, f"ip -j neigh show 203.0.113.77 dev {port.device}"))
    assert neighbours and "PERMANENT" not in neighbours[0]["state"], neighbours
    del warm.outside["pod2"]
    pod.run("ip link del eth0")


def test_a_nic_that_goes_comes_back(warm):
    """While it is away the agent says what it waits for and mends the rest; then everything is as before."""
    node = warm.nodes["node3"]
    (fip,) = node.local_fips()
    node.run("ip link del eth1; ip address del 203.0.113.13/24 dev br-ex")
    wait_for("the agent to miss eth1", lambda: any("eth1" in what for what in node.status()["waiting_for"]))
    wait_for("the rest to be mended", lambda: "203.0.113.13/24" in node.run("ip -4 address show br-ex").stdout)
    node.connect_physical(warm.wire, PHYSICAL)
    wait_for("eth1 to be in br-ex", lambda: "eth1" in node.links("master", "br-ex"))
    wait_for("the agent to wait for nothing", lambda: not node.status()["waiting_for"])
    assert wait_for("ping", lambda: ping(warm, OUTSIDE, fip, 2)) is not None


def test_the_device_of_a_physical_network_may_change(warm, original):
    """The former one leaves the bridge: two would join the wire to itself."""
    node = warm.nodes["node2"]
    node.run("ip link add spare type veth peer name spare-end; ip link set spare up; ip link set spare-end up")

    def lead_by(device: str):
        return lambda text: re.sub(r"(name: node2\n(?:.*\n){1,2}?.*extern: )\w+", rf"\g<1>{device}", text)

    warm.reload(lead_by("spare"), ["node2"])
    wait_for("spare to be in br-ex", lambda: "spare" in node.links("master", "br-ex"))
    assert "eth1" not in node.links("master", "br-ex") and "UP" in node.links()["eth1"]["flags"]
    warm.reload(lead_by("eth1"), ["node2"])
    wait_for("eth1 to be in br-ex", lambda: "eth1" in node.links("master", "br-ex"))
    assert "spare" not in node.links("master", "br-ex")
    node.run("ip link del spare")


def test_what_is_somebody_elses_is_not_taken(lab):
    """Exit code 7, and nothing is changed, where the device is in another bridge or has an address."""
    node = lab.nodes["node3"]
    assert node.stop_agent() == 0
    node.fiplane("teardown")
    left = node.links()
    assert not [row for row in left.values() if row.get("ifalias") or row["ifname"].startswith("br")], left
    assert "master" not in left["eth1"] and "UP" in left["eth1"]["flags"]
    apply = ["apply", lab.topology_file, "--node", "node3", "--state-dir", node.state_dir]
    for spoil, mend, what in (
        ("ip link add office type bridge; ip link set eth1 master office", "ip link del office", "is in office"),
        ("ip address add 198.51.100.9/24 dev eth1", "ip address flush dev eth1", "has the address 198.51.100.9/24"),
    ):
        node.run(spoil)
        refused = node.fiplane(*apply, check=False)
        assert refused.returncode == 7 and what in refused.stderr, refused.stderr
        assert "br-ex" not in node.links()
        node.run(mend)
    node.start_agent()
    wait_for("the agent", node.agent_answers)
    lab.wait_until_ready()
