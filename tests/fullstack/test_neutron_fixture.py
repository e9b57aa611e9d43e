# SPDX-License-Identifier: Apache-2.0
"""The namespaces that tests/support/neutron_fixture.py makes are those of a Neutron L3 agent, and carry traffic as those do:
Linux alone, without fiplane. What a follower does on such a node is compared with this."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Iterator

import pytest
import yaml
from scapy.layers.inet import ICMP, IP, UDP
from scapy.packet import Packet

from fixture_cloud import AGENT_ADDRESS, FIPS, GATEWAYS, HOST, PUBLIC, cloud
from fixture_lab import FixtureLab, FixtureOutside, FixtureVm
from frames import Tap
from lab import in_parallel, wait_for
from namespaces import remove_leftovers
from neutron_cloud import DVR, DVR_SNAT, LEGACY, Agent, Cloud, FloatingIp, Network, Router, Route, Vm
from neutron_node import device_name, link_local
from neutron_routers import METADATA_PORT
from outbound import tcp_source
from timing import scaled

SUPPORT = Path(__file__).resolve().parent.parent / "support"
REAL = yaml.safe_load((SUPPORT / "data" / "neutron_routers.yaml").read_text())
MODES = (DVR, DVR_SNAT, LEGACY)
UNASSIGNED = "203.0.113.199"

CONNECT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3])) as connection:
    print(connection.recv(100).decode())
"""
# Says to the first who connects from where that is.
LISTEN = """
import socket, sys
with socket.create_server(("0.0.0.0", int(sys.argv[1]))) as server:
    server.settimeout(float(sys.argv[2]))
    print("ready", flush=True)
    connection, peer = server.accept()
    connection.sendall(peer[0].encode())
"""
SEND = """
import socket, sys
for port in map(int, sys.argv[3:]):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind(("0.0.0.0", port))
        sender.sendto(b"x", (sys.argv[1], int(sys.argv[2])))
"""
BUILD_AND_WAIT = """
import sys, time
sys.path.insert(0, sys.argv[1]), sys.path.insert(0, sys.argv[2])
from fixture_cloud import HOST, cloud
from fixture_lab import FixtureLab
with FixtureLab(cloud("dvr_snat"), HOST) as lab:
    print(lab.name, flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope="module", params=MODES)
def lab(request) -> Iterator[FixtureLab]:
    with FixtureLab(cloud(request.param), HOST) as running:
        yield running


@pytest.fixture
def restored(lab) -> Iterator[FixtureLab]:
    """The lab's routers, as they were again after the test."""
    original = lab.cloud
    yield lab
    lab.change(original)


def mode_of(lab: FixtureLab) -> str:
    return lab.cloud.agent(HOST).mode


def place(lab: FixtureLab, name: str) -> FixtureVm | FixtureOutside:
    return lab.outside if name == "outside" else lab.vms[name]


def address_of(lab: FixtureLab, name: str) -> str:
    """Of a VM or the outside host, a VM's floating IP (fip/VM), or the node's on the external network."""
    kind, _, vm = name.rpartition("/")
    if vm == "agent":
        return GATEWAYS["r1"] if mode_of(lab) == LEGACY else AGENT_ADDRESS
    if vm == "gateway":
        return GATEWAYS["r1"]
    return FIPS[vm] if kind == "fip" else place(lab, vm).address


@contextlib.contextmanager
def tap_on(where: FixtureVm | FixtureOutside) -> Iterator[Tap]:
    tap = Tap(f"eth0 of {where.name}", where.namespace.packet_socket("eth0"))
    try:
        yield tap
    finally:
        tap.close()


def ping(where: FixtureVm | FixtureOutside, address: str, seconds: float = 3) -> int | None:
    """The TTL of the answer to one ping, None if there was none."""
    command = ["ping", "-n", "-c", "1", "-W", str(scaled(seconds)), address]
    output = where.run(command, check=False).stdout
    return int(output.split("ttl=")[1].split()[0]) if " 1 received" in output else None


def forget_neighbours(lab: FixtureLab) -> None:
    """The outside host's, also of addresses that it still asks for: what it sends there waits for the answers to the
    questions of before, and is refused when those do not come, whoever is there by then."""
    lab.outside.run(["ip", "neigh", "flush", "dev", "eth0"])


def answers_arp(lab: FixtureLab, address: str, seconds: float = 3) -> str | None:
    """The MAC that answers to who-has on the external network. Proxy ARP takes up to 0.8 s."""
    output = lab.outside.run(["arping", "-f", "-w", str(round(scaled(seconds))), "-I", "eth0", address], check=False)
    lines = [line for line in output.stdout.splitlines() if line.startswith("Unicast reply")]
    return lines[0].split("[")[1].split("]")[0].lower() if lines else None


def external_mac(lab: FixtureLab, router: str = "r1") -> str:
    key = f"gateway/{router}" if mode_of(lab) == LEGACY else f"agent/{HOST}/public"
    return lab.cloud.mac(key)


def in_netns(lab: FixtureLab, netns: str, command: str) -> list[str]:
    return [" ".join(line.split()) for line in lab.node.run_in(netns, command).splitlines()]


def tables(lab: FixtureLab, netns: str) -> dict[str, list[str]]:
    """iptables-save without comments and counters: chains and rules by table."""
    result: dict[str, list[str]] = {}
    for line in lab.node.run_in(netns, "iptables-save").splitlines():
        if line.startswith("*"):
            lines = result.setdefault(line[1:], [])
        elif line.startswith(":"):
            lines.append(line.rsplit(" ", 1)[0])
        elif line.startswith("-A"):
            lines.append(line)
    return result


def namespaces(lab: FixtureLab) -> list[str]:
    return sorted(lab.node.run(["ls", "/run/netns"]).stdout.split())


# What stands there


def real_cloud(mode: str) -> Cloud:
    distributed = mode != LEGACY
    return Cloud(
        agents=[Agent(HOST, mode, {"public": "203.0.113.10"} if distributed else {})],
        networks=[PUBLIC, Network("red", "10.10.1.0/24"), Network("blue", "10.10.2.0/24")],
        vms=[
            Vm("vma", "red", "10.10.1.11", HOST),
            Vm("vmb", "blue", "10.10.2.12", HOST),
            Vm("vmc", "red", "10.10.1.13", HOST),
        ],
        routers=[
            Router("r1", ["red", "blue"], "public", "203.0.113.20", distributed, host=None if mode == DVR else HOST)
        ],
        floating_ips=[FloatingIp("203.0.113.101", "vma"), FloatingIp("203.0.113.102", "vmb")],
        ids=REAL["cloud"]["ids"],
        macs=REAL["cloud"]["macs"],
    )


@pytest.fixture(scope="module", params=MODES)
def real_lab(request) -> Iterator[FixtureLab]:
    with FixtureLab(real_cloud(request.param), HOST, allocations=REAL["cloud"]["allocations"]) as running:
        yield running


def chosen_by_the_kernel(lab: FixtureLab) -> dict[str, str]:
    """MACs of a distributed router's pair, by their names in the data."""
    router = lab.cloud.id("router/r1")
    macs = {}
    for name, netns, prefix in (("rfp_mac", lab.netns("r1"), "rfp-"), ("fpr_mac", lab.fip_netns, "fpr-")):
        (link,) = json.loads(lab.node.run_in(netns, f"ip -j link show {device_name(prefix, router)}"))
        macs[name] = link["address"]
    return {**macs, "fpr_link_local": link_local(macs["fpr_mac"])}


def test_it_is_what_a_real_agent_made(real_lab):
    """Rules, routes, permanent neighbours, sysctls and iptables of a node with a real agent, to the last line. The distributed
    router of mode dvr_snat is that of mode dvr."""
    lab, mode = real_lab, mode_of(real_lab)
    expected = {**(REAL[DVR] if mode == DVR_SNAT else {}), **REAL[mode]}
    places = {kind: lab.fip_netns if kind == "fip" else lab.netns("r1", kind) for kind in expected}
    assert namespaces(lab) == sorted(places.values())
    chosen = {} if mode == LEGACY else chosen_by_the_kernel(lab)
    for kind, netns in places.items():
        real = expected[kind]
        assert in_netns(lab, netns, "ip -4 rule") == real["rules"].splitlines()
        routes = in_netns(lab, netns, "ip -4 route show table all; ip -6 route show default")
        assert sorted(routes) == sorted(real["routes"].format(**chosen).splitlines())
        neighbours = in_netns(lab, netns, "ip neigh show nud permanent")
        assert sorted(neighbours) == sorted(real["permanent"].format(**chosen).splitlines())
        files = " ".join(f"/proc/sys/{key.replace('.', '/')}" for key in real["sysctls"])
        values = map(int, lab.node.run_in(netns, f"cat {files}").split())
        assert dict(zip(real["sysctls"], values)) == real["sysctls"]
        assert tables(lab, netns) == {table: text.splitlines() for table, text in real["iptables"].items()}


def test_the_same_description_has_the_same_ids():
    first, again, other = (json.dumps(item.sync_routers(HOST)) for item in
                           (cloud(DVR), cloud(DVR), dataclasses.replace(cloud(DVR), seed="other")))
    assert first == again != other


def test_each_agent_is_told_of_its_floating_ips():
    """A distributed router's floating IPs go to their VMs' hosts; those of unbound ports, and of VMs on hosts without a way
    out, to the SNAT's; no agent hears of all."""
    base = cloud(DVR_SNAT)
    there = [Agent("node2", DVR, {"public": "203.0.113.11"}), Agent("node3", "dvr_no_external")]
    vms = [Vm("far", "red", "10.1.0.21", "node2"), Vm("vip", "red", "10.1.0.22", None), Vm("in", "red", "10.1.0.23", "node3")]
    more = [FloatingIp("203.0.113.111", "far"), FloatingIp("203.0.113.112", "vip"), FloatingIp("203.0.113.113", "in")]
    whole = dataclasses.replace(base, agents=[*base.agents, *there], vms=[*base.vms, *vms],
                                floating_ips=[*base.floating_ips, *more])

    def told(host: str) -> dict[str, bool]:
        routers = whole.sync_routers(host)
        return {fip["floating_ip_address"]: fip.get("dvr_snat_bound", False)
                for router in routers if router["name"] == "r1" for fip in router.get("_floatingips", [])}

    assert told(HOST) == {FIPS["red1"]: False, FIPS["blue1"]: False, "203.0.113.112": True, "203.0.113.113": True}
    assert told("node2") == {"203.0.113.111": False}
    assert [router["name"] for router in whole.sync_routers("node2")] == ["r1"]
    bound = {port["mac_address"] for port in whole.ports_by_subnet(whole.id("subnet/red"))}
    assert whole.mac("vm/far") in bound and whole.mac("vm/vip") not in bound


def test_namespaces_and_devices(lab):
    expected = {f"{prefix}-{lab.cloud.id(f'router/{router}')}" for router in ("r1", "r2")
                for prefix in (["qrouter", "snat"] if mode_of(lab) == DVR_SNAT else ["qrouter"])}
    if mode_of(lab) != LEGACY:
        expected.add(lab.fip_netns)
    assert namespaces(lab) == sorted(expected)
    for port in (lab.cloud.sync_routers(HOST)[0]["_interfaces"]):
        bridge, tap = f"brq{port['network_id'][:11]}", f"tap{port['id'][:11]}"
        (link,) = json.loads(lab.node.run(["ip", "-j", "link", "show", tap]).stdout)
        assert link["master"] == bridge and link["mtu"] == port["mtu"]
        (link,) = json.loads(lab.node.run_in(lab.netns("r1"), f"ip -j link show {device_name('qr-', port['id'])}"))
        assert link["address"] == port["mac_address"] and link["mtu"] == port["mtu"]


def test_ip6tables_have_the_same_frame(lab):
    """Metadata alone, and no device: no port has an IPv6 address."""
    lines = lab.node.run_in(lab.netns("r1"), "ip6tables-save").splitlines()
    own = [line for line in lines if line.startswith("-A neutron-l3-agent")]
    assert [line for line in own if "fe80::a9fe:a9fe/128" in line and "--to-ports 9697" in line]
    assert not [line for line in lines if "DNAT" in line or "SNAT" in line or " -o " in line]


# Paths of packets: who sends, to whom, where it arrives, the TTL there in each mode (none: it is lost), the source there,
# and the TTL of the answer.
PATHS = [
    ("outside", "fip/red1", "red1", {LEGACY: 63, DVR: 62, DVR_SNAT: 62}, "outside", None),
    ("outside", "fip/green1", "green1", {LEGACY: 63, DVR: 62, DVR_SNAT: 62}, "outside", None),
    ("red1", "outside", "outside", {LEGACY: 63, DVR: 62, DVR_SNAT: 62}, "fip/red1", None),
    ("red2", "outside", "outside", {LEGACY: 63, DVR_SNAT: 62}, "gateway", 63),
    ("red1", "fip/blue1", "blue1", {LEGACY: 63, DVR: 61, DVR_SNAT: 61}, "fip/red1", None),
    ("red1", "fip/green1", "green1", {LEGACY: 62, DVR: 61, DVR_SNAT: 61}, "fip/red1", None),
    ("red1", "fip/red1", "red1", {LEGACY: 63, DVR: 61, DVR_SNAT: 61}, "fip/red1", None),
    ("red2", "fip/red1", "red1", {LEGACY: 63, DVR_SNAT: 60}, "gateway", None),
    ("red1", "blue1", "blue1", {LEGACY: 63, DVR: 63, DVR_SNAT: 63}, "red1", None),
    ("red1", "red2", "red2", {LEGACY: 64, DVR: 64, DVR_SNAT: 64}, "red1", None),
]


@pytest.mark.parametrize("source,target,receiver,ttls,seen_as,reply", PATHS, ids=lambda value: str(value).replace("/", "-"))
def test_path_of_a_packet(lab, source, target, receiver, ttls, seen_as, reply):
    ttl, destination = ttls.get(mode_of(lab)), place(lab, receiver).address

    def arrived(packet: Packet) -> bool:
        return ICMP in packet and packet[ICMP].type == 8 and packet[IP].dst == destination

    with tap_on(place(lab, receiver)) as tap:
        answer = ping(place(lab, source), address_of(lab, target), 3 if ttl else 0.5)
        if ttl is None:
            assert answer is None
            tap.none(arrived, "echo request", timeout=0.1)
            return
        packet = IP(tap.one(arrived, "echo request")[14:])
    assert (packet.ttl, packet.src) == (ttl, address_of(lab, seen_as))
    if reply:
        assert answer == reply
    assert answer is not None


def test_addresses_of_the_node_answer(lab):
    assert ping(lab.outside, address_of(lab, "agent")) == 64
    if mode_of(lab) == DVR_SNAT:
        assert ping(lab.outside, GATEWAYS["r1"]) == 64


def test_tcp(lab):
    """In both directions, between floating IPs, and between subnets: who each end believes to talk to."""
    red1, blue1, green1, outside = lab.vms["red1"], lab.vms["blue1"], lab.vms["green1"], lab.outside
    assert tcp_source(outside, red1, FIPS["red1"], red1.address) == outside.address
    assert tcp_source(red1, outside, outside.address) == FIPS["red1"]
    assert tcp_source(red1, blue1, FIPS["blue1"], blue1.address) == FIPS["red1"]
    assert tcp_source(green1, red1, FIPS["red1"], red1.address) == FIPS["green1"]
    assert tcp_source(red1, red1, FIPS["red1"], red1.address) == FIPS["red1"]
    assert tcp_source(red1, blue1, blue1.address) == red1.address
    if mode_of(lab) != DVR:
        assert tcp_source(lab.vms["red2"], outside, outside.address) == GATEWAYS["r1"]


def test_source_ports(lab):
    """What a VM opens leaves from a random port, although the translation is one to one; what somebody outside opens keeps
    its port."""
    ports, red1 = list(range(40001, 40009)), lab.vms["red1"]

    def arrived(packet: Packet) -> bool:
        return UDP in packet and packet[UDP].dport == 9999 and packet[IP].dst in (red1.address, lab.outside.address)

    def sent(sender, target: str, receiver) -> list[int]:
        assert ping(sender, target) is not None  # so that nothing waits for ARP
        with tap_on(receiver) as tap:
            sender.run(["python3", "-c", SEND, target, "9999", *map(str, ports)])
            frames = tap.frames(arrived, len(ports))
        return [IP(frame[14:])[UDP].sport for frame in frames]

    assert sent(lab.outside, FIPS["red1"], red1) == ports
    leaving = sent(red1, lab.outside.address, lab.outside)
    assert len(leaving) == len(set(leaving)) == len(ports)
    assert sum(port in ports for port in leaving) < 4, leaving


def test_metadata(lab):
    """A request to the metadata address is taken by whoever listens on 9697 in the router; nobody gets there otherwise."""
    red2, netns = lab.vms["red2"], lab.netns("r1")
    assert lab.node.run_in(netns, f"ss -Hltn sport = :{METADATA_PORT}") == ""
    listener = lab.node.start(
        lab.node.command_in(netns, "python3", "-c", LISTEN, str(METADATA_PORT), str(scaled(10))),
        stdout=subprocess.PIPE, text=True,
    )
    try:
        assert listener.stdout.readline() == "ready\n"
        straight = red2.run(["python3", "-c", CONNECT, "10.1.0.1", str(METADATA_PORT), "0.5"], check=False)
        assert straight.returncode != 0 and "imed out" in straight.stderr
        answer = red2.run(["python3", "-c", CONNECT, "169.254.169.254", "80", str(scaled(3))])
        assert answer.stdout.strip() == red2.address
    finally:
        listener.kill()
        listener.wait()


def test_arp_on_the_external_network(lab):
    """Floating IPs are answered for, each by its router's MAC (legacy) or all by the node's; an unassigned address is not."""
    limits = {**{address: 3 for address in FIPS.values()}, UNASSIGNED: 1}
    jobs = [lambda item=item: answers_arp(lab, *item) for item in limits.items()]
    seen = dict(zip(limits, in_parallel(jobs)))
    routers = {"red1": "r1", "blue1": "r1", "green1": "r2"}
    expected = {FIPS[vm]: external_mac(lab, router) for vm, router in routers.items()}
    assert seen == {**expected, UNASSIGNED: None}


# Changes


def test_removed_floating_ip_is_silent(restored):
    lab, address = restored, FIPS["red1"]
    netns = lab.netns("r1")
    before = in_netns(lab, netns, "ip rule"), tables(lab, netns)
    assert ping(lab.outside, address) is not None
    router = lab.cloud.id("router/r1")
    lab.fixture.remove_fip(router, address)
    forget_neighbours(lab)
    assert in_parallel([lambda: answers_arp(lab, address, 1), lambda: ping(lab.outside, address, 1)]) == [None, None]
    for where in namespaces(lab):
        assert address not in lab.node.run_in(where, "iptables-save; ip address; ip route show table all")
    assert not [line for line in in_netns(lab, netns, "ip rule") if "10.1.0.11 " in line]
    if mode_of(lab) != DVR:
        assert tcp_source(lab.vms["red1"], lab.outside, lab.outside.address) == GATEWAYS["r1"]
    (data,) = [fip for fip in lab.cloud.sync_routers(HOST)[0]["_floatingips"] if fip["floating_ip_address"] == address]
    lab.fixture.add_fip(router, data)
    forget_neighbours(lab)
    assert ping(lab.outside, address) is not None
    after = in_netns(lab, netns, "ip rule"), tables(lab, netns)
    assert len(after[0]) == len(before[0])
    assert {table: sorted(lines) for table, lines in after[1].items()} == {
        table: sorted(lines) for table, lines in before[1].items()
    }
    # Floating IPs are written behind the metadata redirect the second time, as by an agent that was told of a change.
    inward = [line for line in after[1]["nat"] if line.startswith("-A neutron-l3-agent-PREROUTING")]
    assert "--to-ports 9697" in inward[0] and "--to-ports 9697" in before[1]["nat"][before[1]["nat"].index(inward[0])]


def test_last_floating_ip_takes_the_translation_along(restored):
    """A distributed router without floating IPs here has no rule in POSTROUTING and snat."""
    lab = restored
    lab.change(lab.cloud.without_floating_ip(FIPS["green1"]))
    nat = tables(lab, lab.netns("r2"))["nat"]
    left = [line for line in nat if line.startswith(("-A neutron-l3-agent-POSTROUTING", "-A neutron-l3-agent-snat"))]
    assert (left == []) == (mode_of(lab) != LEGACY), left


def test_moved_floating_ip(restored):
    """To a VM of the same router, and back: the new one answers, and leaves by it."""
    lab, address = restored, FIPS["blue1"]
    red2, port = lab.vms["red2"], lab.cloud.id("vm/red2")
    lab.fixture.move_fip(lab.cloud.id("router/r1"), address, red2.address, port)
    assert tcp_source(lab.outside, red2, address, red2.address) == lab.outside.address
    assert tcp_source(red2, lab.outside, lab.outside.address) == address
    rules = in_netns(lab, lab.netns("r1"), "ip rule")
    sources = {line.split()[2] for line in rules if line.endswith("lookup 16")}
    assert sources == (set() if mode_of(lab) == LEGACY else {"10.1.0.11", "10.1.0.12"})


def test_resync_changes_nothing(lab):
    def everything() -> list[str]:
        return [lab.node.run_in(netns, "iptables-save | grep -v '^[#:]'; ip6tables-save | grep -v '^[#:]'")
                for netns in namespaces(lab)]

    before = everything()
    lab.fixture.resync()
    assert everything() == before
    assert ping(lab.outside, FIPS["red1"]) is not None and ping(lab.vms["blue1"], lab.outside.address) is not None


def test_deleted_router(restored):
    """It goes with all its devices and allocations; the other one goes on; a new one has what the old one had."""
    lab, router = restored, lab_router(restored, "r2")
    taps = [f"tap{port['id'][:11]}" for port in (*router["_interfaces"], *router.get("_snat_router_interfaces", []))]
    links = lab.node.run(["ip", "link"]).stdout
    assert taps[0] in links
    lab.fixture.delete_router(router["id"])
    links, names = lab.node.run(["ip", "link"]).stdout, namespaces(lab)
    assert not [tap for tap in taps if tap in links] and not [name for name in names if router["id"] in name]
    if mode_of(lab) != LEGACY:
        assert router["id"] not in (lab.state_path / "fip-linklocal-networks").read_text()
        assert FIPS["green1"] not in (lab.state_path / "fip-priorities").read_text()
        rest = lab.node.run_in(lab.fip_netns, "ip link; ip rule; ip route show table all")
        assert device_name("fpr-", router["id"]) not in rest and FIPS["green1"] not in rest
    forget_neighbours(lab)
    green, red = in_parallel([lambda: ping(lab.outside, FIPS["green1"], 1), lambda: ping(lab.outside, FIPS["red1"])])
    assert green is None and red is not None
    lab.change(lab.cloud)
    forget_neighbours(lab)
    assert ping(lab.outside, FIPS["green1"]) is not None


def lab_router(lab: FixtureLab, name: str) -> dict:
    return next(router for router in lab.cloud.sync_routers(HOST) if router["name"] == name)


def test_interface_that_comes_and_goes(restored):
    lab = restored
    router = lab.cloud.router("r1")
    lab.change(lab.cloud.with_router(dataclasses.replace(router, networks=["red"])).without_floating_ip(FIPS["blue1"]))
    for netns in [name for name in namespaces(lab) if name.endswith(lab.cloud.id("router/r1"))]:
        assert "10.2.0." not in lab.node.run_in(netns, "ip address; ip rule; ip route show table all; ip neigh")
    assert ping(lab.outside, FIPS["red1"]) is not None


def test_router_without_its_gateway(restored):
    """What leads outside is gone from the router, and comes back with the gateway."""
    lab, router = restored, restored.cloud.router("r1")
    netns, original = lab.netns("r1"), lab.cloud
    without = original.without_floating_ip(FIPS["red1"]).without_floating_ip(FIPS["blue1"])
    lab.change(without)  # or the server would not let the gateway go
    lab.change(without.with_router(dataclasses.replace(router, external=None, gateway=None)))
    assert namespaces(lab).count(lab.netns("r1", "snat")) == 0
    here = lab.node.run_in(netns, "ip link; ip address; ip rule; ip route show table all; iptables-save")
    assert not [word for word in ("rfp-", "qg-", "203.0.113.", "lookup 16", "default via") if word in here]
    assert ping(lab.vms["red1"], "10.2.0.11") == 63
    lab.change(original)
    assert ping(lab.outside, FIPS["red1"]) is not None
    if mode_of(lab) != DVR:
        assert ping(lab.vms["red2"], lab.outside.address) is not None


def test_router_without_snat(restored):
    """enable_snat off: a VM without a floating IP leaves with its own address; to floating IPs of a legacy router, which must
    see the answers, it still is the gateway."""
    lab, router = restored, restored.cloud.router("r1")
    lab.change(lab.cloud.with_router(dataclasses.replace(router, enable_snat=False)))
    if mode_of(lab) == DVR:
        return
    with tap_on(lab.outside) as tap:
        lab.vms["red2"].run(["ping", "-c", "1", "-W", "0.2", lab.outside.address], check=False)
        tap.one(lambda packet: ICMP in packet and packet[IP].src == "10.1.0.12", "echo request of the VM itself")
    if mode_of(lab) == LEGACY:
        assert tcp_source(lab.vms["red2"], lab.vms["red1"], FIPS["red1"], "10.1.0.11") == GATEWAYS["r1"]


def test_arp_entry(real_lab):
    """What an agent is told of a VM that comes or goes on whatever host."""
    lab = real_lab
    if mode_of(lab) == LEGACY:
        return
    entry = "10.10.2.77 dev qr-22ab0002-20 lladdr fa:16:3e:00:00:77 PERMANENT"
    router, subnet = lab.cloud.id("router/r1"), lab.cloud.id("subnet/blue")
    for mac in ("fa:16:3e:00:00:77", None):
        lab.fixture.set_arp_entry(router, subnet, "10.10.2.77", mac)
        assert (entry in in_netns(lab, lab.netns("r1"), "ip neigh")) == (mac is not None)


def test_extra_routes(restored):
    """A next hop inside is for the router, one outside for the namespaces that reach it."""
    lab = restored
    router, netns = lab.cloud.router("r1"), lab.netns("r1")
    routes = [Route("10.77.0.0/24", "10.1.0.12"), Route("198.51.100.0/24", "203.0.113.9"),
              Route("10.78.0.0/24", "10.1.0.12"), Route("10.78.0.0/24", "10.2.0.11")]
    lab.change(lab.cloud.with_router(dataclasses.replace(router, routes=routes)))
    red = device_name("qr-", lab.cloud.id("interface/r1/red"))
    here = lab.node.run_in(netns, "ip route")
    assert f"10.77.0.0/24 via 10.1.0.12 dev {red} proto static" in here
    assert here.count("nexthop via") == 2
    outer = [name for name in namespaces(lab) if "198.51.100.0/24" in lab.node.run_in(name, "ip route show table all")]
    if mode_of(lab) == LEGACY:
        assert outer == [netns]
    else:
        assert outer == [lab.fip_netns, *([lab.netns("r1", "snat")] if mode_of(lab) == DVR_SNAT else [])]
        fpr = json.loads(lab.node.run_in(lab.fip_netns, f"ip -j -4 address show {device_name('fpr-', router_id(lab))}"))
        table = ip_number(fpr[0]["addr_info"][0]["local"])
        assert table > 1 << 31
        (route,) = json.loads(lab.node.run_in(lab.fip_netns, f"ip -j -d route show 198.51.100.0/24 table {table}"))
        assert (route["gateway"], route["protocol"]) == ("203.0.113.9", "boot")
    lab.change(lab.cloud.with_router(router))
    assert "10.7" not in lab.node.run_in(netns, "ip route")


def router_id(lab: FixtureLab) -> str:
    return lab.cloud.id("router/r1")


def ip_number(address: str) -> int:
    return int.from_bytes(map(int, address.split(".")), "big")


# Other clouds


def test_floating_ip_of_an_unbound_port():
    """It is an address of qg- in the SNAT namespace, and the distributed router knows nothing of it."""
    base, address, vip = cloud(DVR_SNAT), "203.0.113.109", "10.1.0.200"
    whole = dataclasses.replace(base, vms=[*base.vms, Vm("vip", "red", vip, None)],
                                floating_ips=[*base.floating_ips, FloatingIp(address, "vip")])
    with FixtureLab(whole, HOST, announce=False) as lab:
        lab.vms["red2"].run(["ip", "address", "add", f"{vip}/24", "dev", "eth0"])
        assert ping(lab.outside, address) is not None
        assert address in lab.node.run_in(lab.netns("r1", "snat"), "ip -4 address")
        here = lab.node.run_in(lab.netns("r1"), "iptables-save; ip rule; ip neigh show nud permanent")
        assert address not in here and vip not in here
        lab.change(whole.without_floating_ip(address))
        assert address not in lab.node.run_in(lab.netns("r1", "snat"), "ip -4 address; iptables-save")


def test_one_address_scope_inside_and_outside():
    """A subnet whose addresses are valid outside leaves by the fip namespace untranslated, and is reached there: the other
    subnet of the router goes to the SNAT as ever."""
    base = cloud(DVR)
    scoped = {"public": "world", "red": "world"}
    networks = [dataclasses.replace(network, address_scope=scoped.get(network.name)) for network in base.networks]
    with FixtureLab(dataclasses.replace(base, networks=networks), HOST, announce=False) as lab:
        lab.outside.run(["ip", "route", "add", "10.1.0.0/24", "via", AGENT_ADDRESS])
        red2 = lab.vms["red2"]
        assert ping(lab.outside, red2.address) == 62
        assert tcp_source(red2, lab.outside, lab.outside.address) == red2.address
        assert tcp_source(lab.outside, lab.vms["blue1"], FIPS["blue1"], "10.2.0.11") == lab.outside.address
        rules = in_netns(lab, lab.netns("r1"), "ip rule")
        assert "80000: from 10.1.0.0/24 lookup 16" in rules and not [line for line in rules if "10.1.0.1/24" in line]
        assert [line for line in rules if "10.2.0.1/24" in line]
        mangle = tables(lab, lab.netns("r1"))["mangle"]
        assert [line for line in mangle if "-d 203.0.113.102/32 -i rfp-" in line and "0x4000000/0xffff0000" in line]
        # Packets stay in their scope, but those of who has a floating IP leave for any device of the outer one.
        assert ping(red2, "10.2.0.11", 0.5) is None
        assert ping(lab.vms["blue1"], red2.address) == 63


def test_nothing_is_left_behind():
    """Of the fixture on the node, by itself; and of a lab whose process was killed, by the next."""
    with FixtureLab(cloud(DVR_SNAT), HOST) as lab:
        lab.fixture.close()
        assert namespaces(lab) == []
        assert {row["ifname"] for row in json.loads(lab.node.run(["ip", "-j", "link"]).stdout)} == {"lo", "eth1"}
        lab.fixture.sync(lab.cloud.sync_routers(HOST))
        state = lab.state.path
    assert not state.exists()
    here = str(Path(__file__).resolve().parent)
    child = subprocess.Popen([sys.executable, "-B", "-c", BUILD_AND_WAIT, str(SUPPORT), here], stdout=subprocess.PIPE, text=True)
    try:
        name = child.stdout.readline().strip()
        assert name.startswith("fixture-")
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    wait_for("the end of the child", lambda: child.poll() is not None, timeout=5)
    assert name in remove_leftovers()
    marked = f"FIPLANE_LAB={state.parent / name}".encode()
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and marked in environment_of(pid)]


def environment_of(pid: str) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes()
    return b""
