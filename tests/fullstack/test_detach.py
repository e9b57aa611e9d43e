# SPDX-License-Identifier: Apache-2.0
"""`fiplane detach` on a node with routers as a Neutron L3 agent makes them: flows that Linux did not see begin go on through
Neutron's own rules, which choose ports at random and tell address scopes by marks of connections.

What the programs do is done by a stateless table in each router's namespace, and what an agent would have pinned is made
with bpftool, so that this is about the verb alone."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterator

import pytest

from fixture_cloud import FIPS, HOST, cloud
from fixture_lab import FixtureLab
from lab import in_parallel
from namespaces import inside
from neutron_cloud import DVR, DVR_SNAT, LEGACY
from timing import scaled

BUILD = Path(os.environ.get("FIPLANE_BUILD", Path(__file__).resolve().parents[2] / "build" / "release"))
PINS = "/sys/fs/bpf/fiplane"
FLOW_KEY, FLOW = struct.Struct("=IB3x4s4sHH"), struct.Struct("=4s4sII")
FROM_INSIDE = 1
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
FIXED = {"red1": "10.1.0.11", "blue1": "10.2.0.11", "green1": "10.3.0.11"}
ROUTER_OF = {"red1": "r1", "blue1": "r1", "green1": "r2"}
VM_PORT, HOST_PORT = 40001, 5001


@pytest.fixture(scope="module", params=[DVR, DVR_SNAT, LEGACY])
def lab(request) -> Iterator[FixtureLab]:
    with FixtureLab(cloud(request.param), HOST) as running:
        limit = str(round(scaled(3)))
        pings = [(vm, running.outside.address) for vm in FIPS] + [("red1", FIPS["blue1"]), ("blue1", FIPS["red1"])]
        in_parallel([lambda a=a, b=b: running.vms[a].run(["ping", "-c", "1", "-W", limit, b]) for a, b in pings])
        yield running


@pytest.fixture(autouse=True)
def clean(lab):
    yield
    lab.node.run(f"rm -rf {PINS}")
    for router in ("r1", "r2"):
        lab.node.run_in(lab.netns(router), "nft delete table ip carried; conntrack -F", check=False)


def number_of(name: str) -> int:
    """See foreign_number()."""
    number = 2166136261
    for byte in name.encode():
        number = (number ^ byte) * 16777619 & 0xFFFFFFFF
    return 0x80000000 | number


def carry(lab: FixtureLab) -> None:
    """The routers' translation without conntrack: behind mangle, whose marks depend on addresses as they come in."""
    for router in ("r1", "r2"):
        rules = ["add table ip carried", "add chain ip carried raw { type filter hook prerouting priority -300; }",
                 "add rule ip carried raw notrack",
                 "add chain ip carried in { type filter hook prerouting priority -100; }",
                 "add chain ip carried out { type filter hook postrouting priority 100; }"]
        for vm in (vm for vm, name in ROUTER_OF.items() if name == router):
            rules += [f"add rule ip carried in ip daddr {FIPS[vm]} ip daddr set {FIXED[vm]}",
                      f"add rule ip carried out ip saddr {FIXED[vm]} ip saddr set {FIPS[vm]}"]
        script = "\n".join(rules)
        lab.node.run_in(lab.netns(router), f"nft -f - <<'END'\n{script}\nEND\nconntrack -F")


def let_go(lab: FixtureLab) -> None:
    for router in ("r1", "r2"):
        lab.node.run_in(lab.netns(router), "nft delete table ip carried")


def hexadecimal(data: bytes) -> str:
    return "hex " + " ".join(f"{byte:02x}" for byte in data)


@dataclass
class Flow:
    """A row of fl_flows."""

    vm: str
    outside: str
    protocol: int
    inside_port: int
    outside_port: int
    from_inside: bool = True
    dnat: str = "0.0.0.0"
    idle: int = 0

    def command(self, lab: FixtureLab) -> str:
        router = number_of(lab.netns(ROUTER_OF[self.vm]))
        protocol = socket.IPPROTO_TCP if self.protocol == TCP else socket.IPPROTO_UDP
        key = FLOW_KEY.pack(router, protocol, socket.inet_aton(FIXED[self.vm]), socket.inet_aton(self.outside),
                            self.inside_port, self.outside_port)
        value = FLOW.pack(socket.inet_aton(FIPS[self.vm]), socket.inet_aton(self.dnat), FROM_INSIDE * self.from_inside,
                          int(time.clock_gettime(time.CLOCK_MONOTONIC)) - self.idle & 0xFFFFFFFF)
        return f"bpftool map update pinned {PINS}/maps/fl_flows key {hexadecimal(key)} value {hexadecimal(value)}"


def pin(lab: FixtureLab, flows: list[Flow]) -> None:
    """What an agent leaves, but for the programs."""
    layout = int(lab.node.run([BUILD / "fiplane", "version"]).stdout.split()[-1].rstrip(")"))
    config = struct.pack("=I24xI", layout, 0xFFFFFFFF)
    create = f"bpftool map create {PINS}/maps"
    lab.node.run("\n".join([
        f"mkdir -p {PINS}/maps {PINS}/routers",
        f"{create}/fl_config type array key 4 value {len(config)} entries 1 name fl_config",
        f"{create}/fl_flows type lru_hash key {FLOW_KEY.size} value {FLOW.size} entries 1024 name fl_flows",
        f"bpftool map update pinned {PINS}/maps/fl_config key hex 00 00 00 00 value {hexadecimal(config)}",
        *(flow.command(lab) for flow in flows),
    ]))


def detach(lab: FixtureLab) -> dict:
    return json.loads(lab.node.run([BUILD / "fiplane", "detach", "-o", "json"]).stdout)


@dataclass
class Conversation:
    """Both ends' sockets. `opener` is the end that began it."""

    opener: socket.socket
    other: socket.socket
    sockets: list[socket.socket] = field(default_factory=list)

    def close(self) -> None:
        for each in (self.opener, self.other, *self.sockets):
            each.close()

    def passes(self, sender: socket.socket, limit: float = 3) -> bool:
        receiver = self.other if sender is self.opener else self.opener
        word = os.urandom(8)
        try:
            sender.send(word)
            receiver.settimeout(scaled(limit))
            return receiver.recv(8) == word
        except OSError:
            return False


def endpoint(place, kind: int, port: int) -> socket.socket:
    with inside(place.namespace.netns_path):
        made = socket.socket(socket.AF_INET, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.settimeout(scaled(5))
    made.bind((place.address, port))
    return made


@contextlib.contextmanager
def conversation(kind: int, opener, other, seen_opener: str, seen_other: str, ports: tuple[int, int]) -> Iterator[Conversation]:
    """`seen_...`: the address that each end has at the other. `ports`: of the opener and the other."""
    first, second = endpoint(opener, kind, ports[0]), endpoint(other, kind, ports[1])
    talk = Conversation(first, second)
    try:
        if kind == TCP:
            second.listen()
            first.connect((seen_other, ports[1]))
            talk.other, (address, port) = second.accept()
            talk.sockets.append(second)
            assert (address, port) == (seen_opener, ports[0])
        else:
            first.connect((seen_other, ports[1]))
            second.connect((seen_opener, ports[0]))
        assert talk.passes(talk.opener) and talk.passes(talk.other)
        yield talk
    finally:
        talk.close()


@pytest.mark.parametrize("vm", ["red1", "green1"])
@pytest.mark.parametrize("kind", [TCP, UDP], ids=["tcp", "udp"])
@pytest.mark.parametrize("by_vm", [True, False], ids=["from inside", "from outside"])
def test_flows_to_and_from_the_world_go_on(lab, vm, kind, by_vm):
    """The VM has the first word, which is what Linux would give another port."""
    place, world = lab.vms[vm], lab.outside
    carry(lab)
    ends = (place, world, FIPS[vm], world.address) if by_vm else (world, place, world.address, FIPS[vm])
    ports = (VM_PORT, HOST_PORT) if by_vm else (HOST_PORT, VM_PORT)
    with conversation(kind, *ends, ports) as talk:
        pin(lab, [Flow(vm, world.address, kind, VM_PORT, HOST_PORT, by_vm)])
        report = detach(lab)
        assert report["routers"] == [{"namespace": lab.netns(ROUTER_OF[vm]), "devices": [], "flows": 1}], report
        assert report["flows"] == 1 and report["left_out"] == []
        let_go(lab)
        inner, outer = (talk.opener, talk.other) if by_vm else (talk.other, talk.opener)
        for _ in range(3):
            assert talk.passes(inner) and talk.passes(outer)
    assert "fiplane" not in lab.node.run(["ls", "/sys/fs/bpf"]).stdout
    assert lab.node.run([BUILD / "fiplane", "detach"]).stdout == "nothing to detach: no programs of routers are pinned below /sys/fs/bpf/fiplane\n"


@pytest.mark.parametrize("kind", [TCP, UDP], ids=["tcp", "udp"])
def test_a_flow_that_conntrack_is_not_told_of_breaks(lab, kind):
    """So the others show something."""
    vm, world = lab.vms["red1"], lab.outside
    carry(lab)
    with conversation(kind, vm, world, FIPS["red1"], world.address, (VM_PORT, HOST_PORT)) as talk:
        pin(lab, [Flow("red1", world.address, kind, VM_PORT, HOST_PORT, idle=500000)])
        report = detach(lab)
        assert report["flows"] == 0 and report["left_out"] == [
            {"reason": "idle for longer than conntrack keeps it", "flows": 1}
        ]
        let_go(lab)
        assert not talk.passes(talk.opener, 1)


@pytest.mark.parametrize("kind", [TCP, UDP], ids=["tcp", "udp"])
def test_a_flow_between_floating_ips_of_one_router_goes_on(lab, kind):
    """Each VM's side of it is a flow of its own. A legacy router translates both addresses at once, by one entry."""
    red, blue = lab.vms["red1"], lab.vms["blue1"]
    at_once = lab.cloud.agent(HOST).mode == LEGACY
    carry(lab)
    with conversation(kind, red, blue, FIPS["red1"], FIPS["blue1"], (VM_PORT, HOST_PORT)) as talk:
        dnat = {vm: FIXED[vm] if at_once else "0.0.0.0" for vm in ("red1", "blue1")}
        pin(lab, [
            Flow("red1", FIPS["blue1"], kind, VM_PORT, HOST_PORT, dnat=dnat["blue1"]),
            Flow("blue1", FIPS["red1"], kind, HOST_PORT, VM_PORT, from_inside=False, dnat=dnat["red1"]),
        ])
        report = detach(lab)
        assert report["flows"] == 2 and report["left_out"] == [], report
        let_go(lab)
        for _ in range(3):
            assert talk.passes(talk.opener) and talk.passes(talk.other)
