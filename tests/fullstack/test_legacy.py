# SPDX-License-Identifier: Apache-2.0
"""D10: the "good old days": a router on one node, floating IPs on its qg- device."""

from __future__ import annotations

import json
import random

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import Ether

from conftest import ROOT
from expect import Handled, carried_in_bpf, handled
from frames import assert_same, assert_tunnelled, inner, match_inner
from matrix import missing, ping, run_matrix
from outbound import Echo, tcp_source
from pings import send_pings

TOPOLOGY = ROOT / "examples" / "devstack-legacy-vxlan.yaml"


def gateway(lab):
    router = next(iter(lab.topology.routers.values()))
    port = next(port for port in lab.topology.ports.values() if port.owner == "router_gateway")
    return router, port, lab.nodes[router.node]


def test_D10_M7_objects(lab):
    """D10, M7: every floating IP as /32 on qg-, the router on its node only, no fip namespace anywhere."""
    router, port, node = gateway(lab)
    rows = json.loads(node.run_in(router.namespace, f"ip -j -4 address show dev {port.device}"))
    found = {f"{info['local']}/{info['prefixlen']}" for row in rows for info in row["addr_info"]}
    assert found == {f"{port.fixed_ip}/{port.prefix_length}", *(f"{fip}/32" for fip in lab.topology.floating_ips)}
    for name, other in lab.nodes.items():
        assert other.run(["ls", "/run/netns"]).stdout.split() == ([router.namespace] if other is node else [])


def test_D10_M7_matrix(warm):
    """M7: VMs on the subnodes reach their router on the primary over the tenant network; BPF carries it both ways, on the
    primary from wire to wire."""
    with carried_in_bpf(warm, packets=300):
        cells = run_matrix(warm)
    assert not missing(cells), "\n".join(missing(cells))


@pytest.mark.parametrize("source,reason", [("vm1", "fip_out"), ("subnode2", "fip_in")])
def test_M7_the_routers_node_relays_in_xdp(warm, source, reason):
    """M7: what the primary forwards from tunnel to tunnel never becomes an skb there."""
    if not warm.fast_path:
        return
    place = warm.nodes.get(source) or warm.vms[source]
    target = "172.24.4.3" if source in warm.vms else warm.topology.fips_of("vm1")[0]

    def relayed() -> int:
        rows = warm.nodes["primary"].status()["counters"]
        return sum(row["packets"] for row in rows if (row["hook"], row["reason"]) == ("xdp_underlay", reason))

    before = relayed()
    assert (sent := send_pings(place.run, target, 5)).complete, sent.output
    assert relayed() - before >= 5


@pytest.mark.parametrize("source,target", [("subnode2", "vm1"), ("primary", "vm3"), ("vm1", "vm3"), ("vm1", "vm2"),
                                           ("vm1", "vm1")])
def test_D10_one_hop_and_real_sender(warm, taps, source, target):
    """One router: TTL 63 at the receiver; the VM sees the sender's own address, or its floating IP."""
    place = warm.nodes.get(source) or warm.vms[source]
    fip = warm.topology.fips_of(target)[0]
    if source in warm.vms:
        expected = warm.topology.fips_of(source)[0]
    else:
        expected = warm.topology.nodes[source].addresses["public"].split("/")[0]
    arrival = taps.vm(target)
    pattern = random.randbytes(8).hex()
    result = place.run(["ping", "-n", "-c", "1", "-W", "2", "-p", pattern, fip], check=False)
    assert result.returncode == 0, result.stdout
    fixed = warm.vms[target].port.fixed_ip
    arrival.one(
        lambda packet: packet.haslayer("ICMP") and packet["ICMP"].type == 8 and bytes.fromhex(pattern) in bytes(packet)
        and (packet["IP"].src, packet["IP"].dst, packet["IP"].ttl) == (expected, fixed, 63),
        f"echo request from {expected} to {fixed} with TTL 63",
    )


def test_D10_announcement(warm, taps):
    """A floating IP that is added is announced from qg-, request and reply, and works at once."""
    router, port, node = gateway(warm)
    fresh = "172.24.5.77"
    wire = taps.wire(node.name)
    (old,) = warm.topology.fips_of("vm1")
    warm.reload(lambda text: text.replace(f"floating_ip_address: {old},", f"floating_ip_address: {fresh},"))
    for operation, what in ((1, "request"), (2, "reply")):
        wire.one(
            match_inner(
                lambda packet, operation=operation: packet.haslayer("ARP") and packet["ARP"].op == operation
                and packet["ARP"].psrc == packet["ARP"].pdst == fresh and packet["ARP"].hwsrc == port.mac
            ),
            f"gratuitous ARP {what}",
            timeout=5,
        )
    warm.nodes["subnode2"].run(["ping", "-n", "-c", "1", "-W", "2", fresh])
    warm.reload(lambda text: text.replace(fresh, old))
    addresses = node.run_in(router.namespace, "ip -4 address")
    assert fresh not in addresses and old in addresses


@pytest.fixture
def poor(warm, original) -> str:
    """vm4 has no floating IP any more."""
    (fip,) = warm.topology.fips_of("vm4")
    warm.reload(lambda text: text.replace(f"  - {{floating_ip_address: {fip}, port: vm4}}\n", ""))
    assert ping(warm, "vm4", "172.24.4.2", 2) is not None
    return "vm4"


def test_V4_without_a_floating_ip_by_the_routers_address(warm, taps, poor):
    """V4: a VM without a floating IP pings a host outside, which sees the router's address on qg-; whole frames, there and
    back. Nothing leaves with the VM's own address."""
    router, qg, node = gateway(warm)
    vm, host, address = warm.vms[poor], warm.nodes["subnode1"], "172.24.4.2"
    qr, host_mac = warm.topology.router_port(router.name, "private").mac, host.node.macs["public"]
    echo, start, wire = Echo(), taps.vm(poor), taps.wire(host.name)
    sent = Ether(src=vm.port.mac, dst=qr) / echo.request(vm.port.fixed_ip, address)
    start.send(sent)
    outside = wire.one(match_inner(lambda frame: echo.is_request(frame, dst=address)), "echo request")
    chosen = Ether(inner(outside))[ICMP].id
    translated = Ether(src=qg.mac, dst=host_mac) / echo.request(qg.fixed_ip, address, 63, chosen)
    assert_tunnelled("to the host outside", outside, node, host, "public", translated)
    answer = wire.one(match_inner(lambda frame: echo.is_reply(frame, src=address)), "echo reply")
    number = Ether(inner(answer))[IP].id
    untranslated = Ether(src=host_mac, dst=qg.mac) / echo.reply(address, qg.fixed_ip, 64, number, chosen)
    assert_tunnelled("from the host outside", answer, host, node, "public", untranslated)
    back = start.one(lambda frame: echo.is_reply(frame), "echo reply")
    assert_same("back", back, Ether(src=qr, dst=vm.port.mac) / echo.reply(address, vm.port.fixed_ip, 63, number))
    wire.none(match_inner(lambda frame: IP in frame and frame[IP].src == vm.port.fixed_ip), "untranslated packet", 0.2)


def test_V4_connections_without_a_floating_ip(warm, poor):
    """TCP: hosts outside, and VMs that are asked by their floating IP, see the router's address; so the neighbour on the same
    network answers by the router. With a floating IP again, that is seen."""
    _, qg, _ = gateway(warm)
    assert tcp_source(warm.vms[poor], warm.nodes["subnode1"], "172.24.4.2") == qg.fixed_ip
    for neighbour in ("vm1", "vm3"):
        fip, own = warm.topology.fips_of(neighbour)[0], warm.vms[neighbour].port.fixed_ip
        assert tcp_source(warm.vms[poor], warm.vms[neighbour], fip, own) == qg.fixed_ip
        assert tcp_source(warm.vms[poor], warm.vms[neighbour], own) == warm.vms[poor].port.fixed_ip
    warm.reload(lambda text: text + f"  - {{floating_ip_address: 172.24.5.99, port: {poor}}}\n")
    assert tcp_source(warm.vms[poor], warm.nodes["subnode1"], "172.24.4.2") == "172.24.5.99"


def test_V4_floating_ips_stay_in_bpf_beside_it(warm, poor):
    """What has a floating IP is carried as before, and packets without one are Linux's on the router's node."""
    run_matrix(warm, pings=2, with_ssh=False)
    with carried_in_bpf(warm, packets=200):
        cells = run_matrix(warm)
    assert not missing(cells), "\n".join(missing(cells))
    with handled(warm, {"primary": Handled("to_router")}):
        assert ping(warm, poor, "172.24.4.2", 3) is not None
