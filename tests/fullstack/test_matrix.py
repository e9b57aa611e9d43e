# SPDX-License-Identifier: Apache-2.0
"""Everybody reaches every floating IP, and BPF carries it."""

from __future__ import annotations

import pytest

from expect import carried_in_bpf
from matrix import missing, ping, run_matrix

SHARES_LAB = True


def test_M8_matrix_is_complete_and_fast(warm):
    """M8: every node and VM reaches every floating IP by ping and ssh; with the fast path on, at least 99 % of the
    packets are handled in BPF on every node."""
    with carried_in_bpf(warm, packets=500):
        cells = run_matrix(warm)
    assert not missing(cells), "\n".join(missing(cells))
    assert len(cells) == (len(warm.nodes) + len(warm.vms)) * len(warm.topology.floating_ips)


@pytest.mark.parametrize("source", ["vm1", "subnode2"])
def test_slow_path_devices_are_silent(warm, taps, source):
    """With the fast path on, rfp- and fpr- of both nodes see none of a ping's packets; with it off, all."""
    router = next(iter(warm.topology.routers.values()))
    fip = warm.topology.fips_of("vm3")[0]
    external = warm.topology.networks[router.external_network]
    ends = []
    for node in {"primary", "subnode1"}:
        ends.append(taps.router(node, router.namespace, router.rfp))
        ends.append(taps.router(node, f"fip-{external.id}", router.fpr))
    assert ping(warm, source, fip, 20) is not None
    for end in ends:
        crossed = end.frames(lambda packet: packet.haslayer("ICMP"), 40, timeout=0.2)
        if warm.fast_path:
            assert not crossed, f"{end.what}: {len(crossed)} packets of the ping went the slow path"
        elif "primary" not in end.what or source == "vm1":
            assert len(crossed) == 40, f"{end.what}: {len(crossed)} of 40 packets seen"


def test_status_names_the_programs(lab):
    """`status` shows which hook each device has and how it is attached."""
    for node in lab.nodes.values():
        devices = {(row["device"], row["hook"]): row["mode"] for row in node.status()["devices"]}
        if not lab.fast_path:
            assert all(mode == "none" for mode in devices.values()), devices
            continue
        attached = {key for key, mode in devices.items() if mode != "none"}
        wanted = {("eth0", "tc_underlay"), ("br-ex", "tc_host")}
        wanted |= {(port.device, "tc_port") for port in lab.topology.vm_ports() if port.node == node.name}
        for network in lab.topology.networks.values():
            wanted |= {(device, "tc_tunnel") for device in network.tunnel_devices(node.name)}
        assert wanted <= attached, f"{node.name}: missing {wanted - attached} in {devices}"
        if lab.xdp == "native":
            assert devices["eth0", "xdp_underlay"] == "xdp native", devices


def test_xdp_finishes_udp_and_icmp_but_not_tcp(warm, taps):
    """With native XDP, a ping's packets are counted by the XDP program of the receiving node."""
    if warm.xdp != "native" or not warm.fast_path:
        hubs = {network.hub for network in warm.topology.networks.values()}  # where `auto` takes XDP
        for name, node in warm.nodes.items():
            assert name in hubs or all(row["hook"] != "xdp_underlay" for row in node.status()["counters"])
        return

    def in_xdp() -> int:
        rows = warm.nodes["subnode1"].status()["counters"]
        return sum(row["packets"] for row in rows if (row["hook"], row["reason"]) == ("xdp_underlay", "fip_in"))

    before = in_xdp()
    fip = warm.topology.fips_of("vm3")[0]
    assert ping(warm, "vm1", fip, 20) is not None
    assert in_xdp() - before >= 20
