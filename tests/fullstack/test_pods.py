# SPDX-License-Identifier: Apache-2.0
"""Two pods that share VLANs and nothing else: two topology files, two clouds of agents. Rows T1 to T7.

The kernel needs 8021q, so this runs in VMs (vmtests/).
"""

from __future__ import annotations

import contextlib
import json
import random

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from conftest import BUILD, ROOT, mode
from expect import carried_in_bpf
from frames import Tap, assert_same, inner, match_inner
from frames import taps as open_taps
from lab import Lab, wait_for
from matrix import ping, run_in
from outbound import tcp_source
from pings import send_pings

BRIDGE, OTHER_BRIDGE, STRETCHED, EXTERNAL = 2001, 2002, 2009, 3001
OUTSIDE, OUTSIDE_IP = "outside", "163.3.124.1"
FIP_OF_VM2, FIP_OF_VM1 = "163.3.124.101", "163.3.124.102"


@pytest.fixture(scope="module")
def both(lab_keeper):
    """Both pods, and everybody's neighbours are resolved."""
    lab_keeper.close()
    with contextlib.ExitStack() as stack:
        pods: list[Lab] = []
        for number in (1, 2):
            topology = ROOT / "examples" / f"tricircle-pod{number}.yaml"
            joins = pods[0] if pods else None
            options = {**mode(), "sshd": False, "joins": joins, "artefacts": BUILD / "fullstack-artefacts"}
            pods.append(stack.enter_context(Lab(topology, BUILD, **options)))
        one, two = pods
        for pod, vm in ((one, "vm1"), (two, "vm2")):  # those with a floating IP
            pod.vms[vm].start_sshd(pod.keys)
        for pod, source, target in ((one, "s1", "10.0.9.21"), (one, "vm1", "10.0.2.21"), (one, "other-vm1", "10.0.2.21"),
                                    (two, OUTSIDE, FIP_OF_VM1), (two, OUTSIDE, FIP_OF_VM2)):  # fmt: skip
            wait_for(f"{source} to reach {target}", lambda: ping(pod, source, target, 1) is not None)
        yield one, two


@pytest.fixture(scope="module", params=["fast path", "Linux"])
def pods(request, both):
    """Each test runs with the fast path on and off: what does not come through BPF comes through Linux, and looks the
    same."""
    for pod in both:
        pod.set_fast_path(request.param == "fast path")
    return both


@pytest.fixture
def pod1(pods) -> Lab:
    return pods[0]


@pytest.fixture
def pod2(pods) -> Lab:
    return pods[1]


@pytest.fixture
def taps(pods):
    with open_taps(pods[0]) as first, open_taps(pods[1]) as second:
        yield first, second


def gateway_mac(pod: Lab, router: str) -> str:
    return pod.topology.router_gateway(router).mac


def leg_mac(pod: Lab, router: str, network: str) -> str:
    return pod.topology.router_port(router, network).mac


def outside_mac(pod: Lab) -> str:
    host = pod.outside[OUTSIDE]
    return json.loads(host.run(["ip", "-j", "link", "show", host.device]).stdout)[0]["address"]


class Echo:
    """One ping of a test's own: as injected with TTL 64, and as it must look anywhere on its way."""

    def __init__(self) -> None:
        self.number, self.tag = random.randrange(1, 65535), random.randbytes(24)

    def frame(self, ethernet: Packet, source: str, destination: str, ttl: int = 64, *, kind: int = 8, id: int | None = None):
        number = self.number if id is None else id
        return (
            ethernet / IP(src=source, dst=destination, id=number, ttl=ttl)
            / ICMP(type=kind, id=self.number, seq=1) / Raw(self.tag)
        )  # fmt: skip

    def is_ours(self, packet: Packet, kind: int | None = None) -> bool:
        return ICMP in packet and self.tag in bytes(packet) and kind in (None, packet[ICMP].type)

    def request(self, tap: Tap) -> bytes:
        return tap.one(lambda packet: self.is_ours(packet, 8), "echo request", timeout=5)

    def reply(self, tap: Tap) -> bytes:
        return tap.one(lambda packet: self.is_ours(packet, 0), "echo reply", timeout=5)

    def all_tags(self, tap: Tap) -> set[int | None]:
        """VLAN ids that frames of this ping had there, after both have been seen."""
        found = tap.frames(self.is_ours, 1000, 0.05)
        return {Ether(frame)[Dot1Q].vlan if Dot1Q in Ether(frame) else None for frame in found}


def tagged(source: str, destination: str, vlan: int) -> Packet:
    return Ether(src=source, dst=destination) / Dot1Q(vlan=vlan)


def test_T1_one_network_over_both_pods(pod1, pod2, taps):
    """The VM in the other pod is on the same L2: the frame arrives as it was sent, with the network's tag between."""
    sender, receiver = pod1.vms["s1"].port, pod2.vms["s2"].port
    echo = Echo()
    wires = [taps[0].wire("node1", "bridge"), taps[1].wire("compute", "bridge")]
    start, end, routed = taps[0].vm("s1"), taps[1].vm("s2"), taps[1].wire("network", "extern")
    frame = echo.frame(Ether(src=sender.mac, dst=receiver.mac), sender.fixed_ip, receiver.fixed_ip)
    start.send(frame)
    assert_same("at the other VM", echo.request(end), frame)
    reply = Ether(echo.reply(start))
    chosen = reply[IP].id
    untagged = Ether(src=receiver.mac, dst=sender.mac)
    assert_same("back", bytes(reply), echo.frame(untagged, receiver.fixed_ip, sender.fixed_ip, kind=0, id=chosen))
    there, back = tagged(sender.mac, receiver.mac, STRETCHED), tagged(receiver.mac, sender.mac, STRETCHED)
    for wire in wires:
        assert_same(wire.what, echo.request(wire), echo.frame(there, sender.fixed_ip, receiver.fixed_ip))
        answer = echo.frame(back, receiver.fixed_ip, sender.fixed_ip, kind=0, id=chosen)
        assert_same(wire.what, echo.reply(wire), answer)
        assert echo.all_tags(wire) == {STRETCHED}
    routed.none(echo.is_ours, "frame of the stretched network", 0.1)


def test_T2_routers_meet_on_the_bridge_network(pod1, pod2):
    """Each project's routers by their addresses there, which are the same in both projects. T7: each is its own."""
    for near, far, where in (("router1", "router2", "bridge-net"), ("other1", "other2", "other-bridge-net")):
        own, peer = pod1.topology.router_gateway(near), pod2.topology.router_gateway(far)
        assert own.network == peer.network == where and peer.fixed_ip == "100.0.1.2"
        node, namespace = pod1.nodes["node1"], pod1.topology.routers[near].namespace
        enter = ["nsenter", f"--net=/run/netns/{namespace}"]
        sent = send_pings(lambda ping, **limits: node.run([*enter, *ping], **limits), peer.fixed_ip, 2)
        assert sent.complete and sent.ttls == {64}, sent.output
        known = json.loads(node.run_in(namespace, f"ip -j neigh show {peer.fixed_ip} dev {own.device}"))
        assert known[0]["lladdr"] == peer.mac


@pytest.mark.parametrize("routers, vms, vlan", [
    (("router1", "router2"), ("vm1", "vm2"), BRIDGE),
    (("other1", "other2"), ("other-vm1", "other-vm2"), OTHER_BRIDGE),
], ids=["by network", "by host"])
def test_T3_T6_T7_routed_over_the_bridge_network(pod1, pod2, taps, routers, vms, vlan):
    """Two hops, no translation, both ways. A network that is in one pod only (T6) has no frame of it on the shared wire, and
    nobody of the other project, which has the same addresses, sees one (T7)."""
    near, far = pod1.vms[vms[0]].port, pod2.vms[vms[1]].port
    echo = Echo()
    shared = [taps[0].wire("node1", "bridge"), taps[1].wire("network", "bridge")]
    bystanders = [tap.vm(vm) for tap, pod in zip(taps, (pod1, pod2)) for vm in pod.vms if vm not in vms]
    bystanders.append(taps[1].wire("network", "extern"))
    start, end, tunnel = taps[0].vm(vms[0]), taps[1].vm(vms[1]), taps[1].wire("compute")
    inside, outside = leg_mac(pod1, routers[0], near.network), gateway_mac(pod1, routers[0])
    other_inside, other_outside = leg_mac(pod2, routers[1], far.network), gateway_mac(pod2, routers[1])

    start.send(echo.frame(Ether(src=near.mac, dst=inside), near.fixed_ip, far.fixed_ip))
    arrived = echo.frame(Ether(src=other_inside, dst=far.mac), near.fixed_ip, far.fixed_ip, 62)
    assert_same("at the other VM", echo.request(end), arrived)
    seen = Ether(echo.reply(start))
    chosen = seen[IP].id

    def reply(ethernet: Packet, ttl: int) -> Packet:
        return echo.frame(ethernet, far.fixed_ip, near.fixed_ip, ttl, kind=0, id=chosen)

    assert_same("back", bytes(seen), reply(Ether(src=inside, dst=near.mac), 62))
    for wire in shared:
        crossing = echo.frame(tagged(outside, other_outside, vlan), near.fixed_ip, far.fixed_ip, 63)
        assert_same(wire.what, echo.request(wire), crossing)
        assert_same(wire.what, echo.reply(wire), reply(tagged(other_outside, outside, vlan), 63))
        assert echo.all_tags(wire) == {vlan}
    carried = inner(tunnel.one(match_inner(lambda packet: echo.is_ours(packet, 8)), "request in a tunnel"))
    assert_same("in the pod's own tunnel", carried, arrived)
    for tap in bystanders:
        tap.none(lambda packet: echo.tag in bytes(packet), "frame of the other project", 0.05)


def test_T4_the_world_by_the_bridge_networks_default_route(pod1, pod2, taps):
    """Both pods' VMs reach a host outside, as the floating IP that they have on the north-south router."""
    for pod, vm, fip in ((pod1, "vm1", FIP_OF_VM1), (pod2, "vm2", FIP_OF_VM2)):
        port, echo = pod.vms[vm].port, Echo()
        local = "router1" if pod is pod1 else "router2"
        start, outside = taps[0 if pod is pod1 else 1].vm(vm), taps[1].wire("network", "extern")
        start.send(echo.frame(Ether(src=port.mac, dst=leg_mac(pod, local, port.network)), port.fixed_ip, OUTSIDE_IP))
        way_out = tagged(gateway_mac(pod2, "north-south"), outside_mac(pod2), EXTERNAL)
        assert_same(f"{vm} outside", echo.request(outside), echo.frame(way_out, fip, OUTSIDE_IP, 62))
        reply = Ether(echo.reply(start))
        expected = Ether(src=leg_mac(pod, local, port.network), dst=port.mac)
        assert_same(
            f"back at {vm}", bytes(reply),
            echo.frame(expected, OUTSIDE_IP, port.fixed_ip, 62, kind=0, id=reply[IP].id),
        )  # fmt: skip


@pytest.mark.parametrize("fip, pod_of_vm, vm", [(FIP_OF_VM1, 0, "vm1"), (FIP_OF_VM2, 1, "vm2")])
def test_T5_floating_ip_of_a_vm_in_either_pod(pods, pod2, taps, fip, pod_of_vm, vm):
    """From outside: translated at the north-south router alone, over the bridge network to the VM's own router, and back
    the same way."""
    pod, local = pods[pod_of_vm], ("router1", "router2")[pod_of_vm]
    port, echo = pod.vms[vm].port, Echo()
    mac, leg = outside_mac(pod2), leg_mac(pod2, "north-south", "bridge-net")
    between, external = taps[0].wire("node1", "bridge"), taps[1].wire("network", "extern")
    host, end = taps[1].outside(OUTSIDE), taps[pod_of_vm].vm(vm)
    host.send(echo.frame(Ether(src=mac, dst=gateway_mac(pod2, "north-south")), OUTSIDE_IP, fip))
    inside = Ether(src=leg_mac(pod, local, port.network), dst=port.mac)
    assert_same("at the VM", echo.request(end), echo.frame(inside, OUTSIDE_IP, port.fixed_ip, 62))
    seen = echo.reply(external)
    chosen = Ether(seen)[IP].id
    way_out = tagged(gateway_mac(pod2, "north-south"), mac, EXTERNAL)
    assert_same("back", seen, echo.frame(way_out, fip, OUTSIDE_IP, 62, kind=0, id=chosen))
    if pod is pod2:
        between.none(echo.is_ours, "frame of a VM of pod 2 in pod 1", 0.1)
        return
    near = gateway_mac(pod, local)
    there, back = tagged(leg, near, BRIDGE), tagged(near, leg, BRIDGE)
    assert_same("there", echo.request(between), echo.frame(there, OUTSIDE_IP, port.fixed_ip, 63))
    answer = echo.frame(back, port.fixed_ip, OUTSIDE_IP, 63, kind=0, id=chosen)
    assert_same("and back", echo.reply(between), answer)


def test_what_crosses_between_pods_is_carried_in_bpf(pod1, pod2):
    """Every way of the rows above with 200 pings: on each node that has a part in it at least 99 % of the packets are handled
    in BPF, those in transit between two routers included."""
    ways = [(pod1, "s1", "10.0.9.21"), (pod1, "vm1", "10.0.2.21"), (pod2, "vm2", "10.0.1.11"),
            (pod1, "other-vm1", "10.0.2.21"), (pod1, "vm1", OUTSIDE_IP), (pod2, "vm2", OUTSIDE_IP),
            (pod2, OUTSIDE, FIP_OF_VM1), (pod2, OUTSIDE, FIP_OF_VM2)]  # fmt: skip
    for pod, source, target in ways:
        assert ping(pod, source, target, 3) is not None, f"{source} to {target}"
    with carried_in_bpf(pod1, packets=1000), carried_in_bpf(pod2, packets=1000):
        for pod, source, target in ways:
            sent = send_pings(run_in(pod, source), target, 200, interval=0.02)
            assert sent.complete, f"{source} to {target}: {sent.output}"


def test_T5_ping_and_ssh_from_outside(pod1, pod2):
    """Real stacks at both ends: to both floating IPs."""
    for pod, fip, vm in ((pod1, FIP_OF_VM1, "vm1"), (pod2, FIP_OF_VM2, "vm2")):
        assert ping(pod2, OUTSIDE, fip, 3) is not None, f"ping {fip}"
        pod.keys.write_known_hosts({fip: vm})
        answer = pod2.outside[OUTSIDE].run(pod.keys.ssh_command(fip, "hostname"), check=False, timeout=30)
        assert answer.stdout.strip() == vm, answer.stderr


def test_T4_without_a_floating_ip_as_the_north_south_router(pod1, pod2):
    """VMs of both pods that have none reach a host outside, which sees the north-south router's address: the one router on
    the way that translates sources."""
    original = pod2.topology_file.read_text()
    pod2.reload(lambda text: "".join(line for line in text.splitlines(True) if "floating_ip_address" not in line))
    try:
        for pod, vm in ((pod1, "vm1"), (pod2, "vm2")):
            assert ping(pod, vm, OUTSIDE_IP, 2) is not None, f"{vm} to the world"
            seen = tcp_source(pod.vms[vm], pod2.outside[OUTSIDE], OUTSIDE_IP)
            assert seen == pod2.topology.router_gateway("north-south").fixed_ip
    finally:
        pod2.reload(lambda _: original)
