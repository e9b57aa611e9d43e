# SPDX-License-Identifier: Apache-2.0
"""Routers that Neutron built, and their traffic in BPF: nothing is lost, nothing is otherwise than in Linux, and what Neutron
changes counts at once."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from dataclasses import replace
from typing import Iterator

import pytest
from conftest import AGENT, HA, MODE
from neutron_lab import WEB_PORT

from follower import Follower
from lab import in_parallel, wait_for
from neutron_cloud import DVR, LEGACY
from pings import send_pings
from timing import scaled

FIP1, FIP2 = "203.0.113.101", "203.0.113.102"
FIXED = {"vm1": "10.1.1.11", "vm2": "10.1.2.12", "vm3": "10.1.1.13"}
METADATA = "169.254.169.254"
# From the kernel's notification of a change until the tables follow, and what a loaded machine adds to it.
REACTION = 0.1


def ping(host, address: str, count: int = 20, interval: float = 0.02) -> int:
    """How many of them are answered."""
    return len(send_pings(host.run, address, count, interval=interval, patience=2).answers)


def reached(host, address: str, port: int = WEB_PORT, seconds: float = 3) -> tuple[str, str] | None:
    """Who answers over TCP, and whom it takes the client for."""
    limit = str(scaled(seconds))
    done = host.run(["curl", "-s", "--max-time", limit, f"http://{address}:{port}/"], check=False)
    if done.returncode != 0:
        return None
    answer = json.loads(done.stdout)
    return answer["host"], answer["client"]


def router_netns(lab) -> str:
    return f"qrouter-{lab.cloud.id('router/r1')}"


def external_netns(lab) -> str:
    """Where floating IPs come in."""
    return router_netns(lab) if MODE == LEGACY else f"fip-{lab.cloud.id('network/public')}"


def warm_up(lab, follower: Follower) -> None:
    """A legacy router knows its neighbours only from traffic, and each pair of ends needs its first packet."""
    pairs = [(lab.vms[name], lab.outside.address) for name in ("vm1", "vm2")]
    pairs += [(lab.outside, FIP1), (lab.outside, FIP2), (lab.vms["vm1"], FIXED["vm2"]), (lab.vms["vm2"], FIXED["vm3"])]
    in_parallel([lambda pair=pair: ping(*pair, count=3, interval=0.2) for pair in pairs])
    wait_for("fast floating IPs", lambda: follower.states() == {FIP1: "fast", FIP2: "fast"}, timeout=10)


@pytest.fixture
def warm(lab, follower: Follower) -> None:
    warm_up(lab, follower)


@pytest.fixture
def original(lab, follower: Follower) -> Iterator[None]:
    cloud = lab.cloud
    yield
    if lab.cloud != cloud:
        lab.change(cloud)


@contextlib.contextmanager
def rule(lab, follower: Follower, table: str, chain: str, text: str) -> Iterator[None]:
    """A rule that somebody puts in front of Neutron's. Returns, and ends, when the agent has seen it."""
    def settle() -> None:
        updates = follower.status()["statistics"]["updates"]
        time.sleep(scaled(0.3))
        wait_for("quiet", lambda: follower.status()["statistics"]["updates"] >= updates)

    lab.run_in(router_netns(lab), f"iptables -t {table} -I {chain} {text}")
    settle()
    try:
        yield
    finally:
        lab.run_in(router_netns(lab), f"iptables -t {table} -D {chain} {text}")
        settle()


def test_routers_and_floating_ips_by_their_ids(lab, follower: Follower, warm):
    status = follower.status()
    assert (status["topology"], status["follows"]) == (None, "neutron")
    (router,) = status["routers"]
    assert router["id"] == lab.cloud.id("router/r1")
    assert sorted(router["floating_ips"]) == [FIP1, FIP2]
    assert {row["router_id"] for row in status["floating_ips"]} == {router["id"]}
    assert {row["mode"] for row in status["devices"]} <= {"tcx", "clsact"}
    assert status["problems"] == []
    for what in (FIP1, FIXED["vm1"]):
        (walk,) = follower.ask("explain", what)["here"]
        assert walk["floating_ip"] == FIP1 and walk["steps_in"] and walk["steps_out"]
    for what in (router["id"], router_netns(lab), external_netns(lab)):
        assert {walk["floating_ip"] for walk in follower.ask("explain", what)["here"]} == {FIP1, FIP2}


def all_ways(lab) -> dict[str, tuple]:
    """Host, address, and who that is. A VM that asks a legacy router for its own floating IP gets ICMP redirects as well,
    which only Linux sends."""
    vm1, vm2, vm3 = (lab.vms[name] for name in ("vm1", "vm2", "vm3"))
    return {
        "outside to a floating IP": (lab.outside, FIP1, "vm1"),
        "outside to the other one": (lab.outside, FIP2, "vm2"),
        "a VM to outside": (vm1, lab.outside.address, "outside"),
        "another VM to outside": (vm2, lab.outside.address, "outside"),
        "floating IP to floating IP": (vm1, FIP2, "vm2"),
        "and back": (vm2, FIP1, "vm1"),
        **({} if MODE == LEGACY else {"a VM to its own floating IP": (vm1, FIP1, "vm1")}),
        "between networks": (vm1, FIXED["vm2"], "vm2"),
        "between networks, without a floating IP": (vm3, FIXED["vm2"], "vm2"),
    }


def test_all_of_it_is_carried_in_BPF(lab, follower: Follower, warm):
    """At least 99 % of packets, of pings and TCP over all ways. What one sees of the other is what it is in Linux."""
    clients = {"outside": lab.outside.address, "vm1": FIP1, "vm2": FIP2}
    for name, (host, address, who) in all_ways(lab).items():  # the first packet of each pair
        ping(host, address, count=2)
    before = follower.counters()
    for name, (host, address, who) in all_ways(lab).items():
        assert ping(host, address, count=100, interval=0.002) == 100, name
        client = FIXED[host.name] if address.startswith("10.") else clients[host.name]
        for _ in range(10):
            assert reached(host, address) == (who, client), name
    assert follower.share(before) >= 0.99, follower.counters() - before


def test_bulk_data_keeps_its_speed(lab, follower: Follower, warm):
    """Gigabytes of TCP by GSO, both ways, count as fast as well."""
    for server, client, address in ((lab.vms["vm1"], lab.outside, FIP1), (lab.outside, lab.vms["vm1"], lab.outside.address)):
        process = server.start(["iperf3", "-s", "-1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for("iperf3", lambda: server.run(["ss", "-Hltn", "sport = :5201"]).stdout)
        before = follower.counters()
        done = json.loads(client.run(["iperf3", "-J", "-c", address, "-t", "1"], timeout=scaled(30)).stdout)
        process.wait(timeout=scaled(10))
        assert done["end"]["sum_received"]["bytes"] > 0
        assert follower.share(before) >= 0.99, follower.counters() - before


@pytest.mark.skipif(MODE == DVR, reason="the router's central part is on another node")
def test_central_snat_is_linux(lab, follower: Follower, warm):
    gateway = lab.cloud.router("r1").gateway
    assert reached(lab.vms["vm3"], lab.outside.address) == ("outside", gateway)


@pytest.mark.skipif(not AGENT, reason="the fixture has no metadata service")
def test_metadata_requests_reach_the_proxy(lab, follower: Follower, warm):
    for name, vm in lab.vms.items():
        limit = str(scaled(5))
        done = vm.run(["curl", "-sS", "--max-time", limit, f"http://{METADATA}/latest/meta-data"], check=False)
        assert done.returncode == 0, (name, done.stderr)
        headers = {key.lower(): value for key, value in json.loads(done.stdout)["headers"].items()}
        assert headers["x-neutron-router-id"] == lab.cloud.id("router/r1")
        assert headers["x-forwarded-for"].removeprefix("::ffff:") == FIXED[name]


def test_ARP_for_a_floating_ip_is_answered_at_once(lab, follower: Follower, warm):
    """Linux's proxy waits up to 0.8 s."""
    done = lab.outside.run(["arping", "-c", "3", "-w", "5", "-I", "eth0", FIP2], check=False).stdout
    times = [float(text) for text in re.findall(r"([\d.]+)ms", done)]
    assert times and max(times) < 50, done


# Rules of others


def test_a_drop_is_obeyed_and_concerns_nobody_else(lab, follower: Follower, warm):
    with rule(lab, follower, "filter", "FORWARD", f"-d {FIXED['vm2']} -j DROP"):
        states = follower.states()
        assert states[FIP1] == "fast"
        assert FIXED["vm2"] in states[FIP2] and "drop" in states[FIP2].lower(), states
        assert ping(lab.outside, FIP2, count=3) == 0
        before = follower.counters()
        assert ping(lab.outside, FIP1, count=100, interval=0.002) == 100
        assert follower.share(before) >= 0.99
    warm_up(lab, follower)
    assert ping(lab.outside, FIP2, count=5) == 5


def test_a_mark_is_obeyed_and_concerns_nobody_else(lab, follower: Follower, warm):
    """UDP of vm1 gets a mark, and what has that mark is rejected."""
    mark = f"-s {FIXED['vm1']} -p udp -j MARK --set-xmark 0x9900/0xff00"
    with rule(lab, follower, "mangle", "PREROUTING", mark), rule(
        lab, follower, "filter", "FORWARD", "-m mark --mark 0x9900/0xff00 -j REJECT --reject-with icmp-admin-prohibited"
    ):
        states = follower.states()
        assert states[FIP2] == "fast"
        assert states[FIP1] != "fast"
        send = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('{}', 9)); s.send(b'x'); s.settimeout(2); s.recv(1)"
        done = lab.vms["vm1"].run(["python3", "-c", send.format(lab.outside.address)], check=False)
        assert "No route to host" in done.stderr, done.stderr
        assert reached(lab.vms["vm1"], lab.outside.address) == ("outside", FIP1)
        before = follower.counters()
        assert ping(lab.vms["vm2"], lab.outside.address, count=100, interval=0.002) == 100
        assert follower.share(before) >= 0.99


def test_another_DNAT_is_obeyed_and_concerns_nobody_else(lab, follower: Follower, warm):
    text = f"-d {FIP2} -p tcp --dport 8081 -j DNAT --to-destination {FIXED['vm2']}:{WEB_PORT}"
    with rule(lab, follower, "nat", "PREROUTING", text):
        states = follower.states()
        assert states[FIP1] == "fast"
        assert "8081" in states[FIP2], states
        assert reached(lab.outside, FIP2, 8081) == ("vm2", lab.outside.address)
        assert reached(lab.outside, FIP2) == ("vm2", lab.outside.address)
        before = follower.counters()
        assert ping(lab.outside, FIP1, count=100, interval=0.002) == 100
        assert follower.share(before) >= 0.99


def test_a_bandwidth_limit_is_linux(lab, follower: Follower, warm):
    """A queue on the way out, as Neutron's QoS extensions make one, is noticed when it comes and when it goes."""
    netns = router_netns(lab)
    device = next(link["ifname"] for link in json.loads(lab.run_in(netns, "ip -j link")) if link["ifname"].startswith(("rfp-", "qg-")))
    lab.run_in(netns, f"tc qdisc add dev {device} root handle 1: htb")
    try:
        wait_for("the queue", lambda: all("qdisc htb" in state for state in follower.states().values()), timeout=3)
        assert ping(lab.vms["vm1"], lab.outside.address) == 20
    finally:
        lab.run_in(netns, f"tc qdisc del dev {device} root")
    wait_for("an end of it", lambda: follower.states() == {FIP1: "fast", FIP2: "fast"}, timeout=3)


# What Neutron changes


@contextlib.contextmanager
def probing(host, address: str) -> Iterator[list[tuple[float, float]]]:
    """Pings every 2 ms meanwhile; afterwards the list has the times at which those were sent that were answered."""
    answered: list[tuple[float, float]] = []
    command = ["ping", "-n", "-D", "-i", "0.002", address]
    process = host.start(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield answered
    finally:
        process.send_signal(2)
        output, _ = process.communicate(timeout=scaled(10))
        for when, rtt in re.findall(r"^\[([\d.]+)\] \d+ bytes .* time=([\d.]+) ms", output, re.MULTILINE):
            answered.append((float(when) - float(rtt) / 1000, float(rtt)))


@contextlib.contextmanager
def watching(lab, netns: str, address: str) -> Iterator[list[float]]:
    """Times at which the kernel told of something about an address in a namespace, afterwards."""
    seen: list[float] = []
    command = ["nsenter", f"--net=/run/netns/{netns}", "ip", "-ts", "-o", "monitor", "route", "address"]
    process = lab.node.start(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    time.sleep(scaled(0.3))
    try:
        yield seen
    finally:
        time.sleep(0.1)
        process.terminate()
        output, _ = process.communicate(timeout=scaled(10))
        for line in output.splitlines():
            if address in line and (stamp := re.match(r"\[([\d:.T+-]+)\]", line)):
                seen.append(_seconds(stamp[1]))


def _seconds(stamp: str) -> float:
    import datetime

    return datetime.datetime.fromisoformat(stamp).timestamp()


def test_a_removed_floating_ip_stops_when_linux_stops(lab, follower: Follower, warm, original):
    """And comes back, and is another VM's, while others do not notice."""
    with probing(lab.outside, FIP1) as answered, watching(lab, external_netns(lab), FIP1) as changes:
        with probing(lab.outside, FIP2) as others:
            time.sleep(0.5)
            lab.change(lab.cloud.without_floating_ip(FIP1))
            time.sleep(scaled(REACTION + 0.4))
    assert answered and changes, "no probe, or no change, was seen"
    late = max(sent for sent, _ in answered) - changes[0]
    print(f"last answered probe: {late * 1000:.1f} ms after the kernel's first notification")
    assert late < scaled(REACTION)
    sent = sorted(when for when, _ in others)
    assert max(b - a for a, b in zip(sent, sent[1:])) < scaled(0.5)
    assert FIP1 not in follower.states()
    assert reached(lab.vms["vm1"], lab.outside.address) != ("outside", FIP1)
    lab.change(lab.cloud.with_floating_ip(FIP1, "vm3"))
    wait_for("the floating IP's new VM", lambda: reached(lab.outside, FIP1) == ("vm3", lab.outside.address))
    assert reached(lab.vms["vm3"], lab.outside.address) == ("outside", FIP1)
    wait_for("its rows", lambda: follower.states() == {FIP1: "fast", FIP2: "fast"}, timeout=10)
    before = follower.counters()
    assert ping(lab.outside, FIP1, count=100, interval=0.002) == 100
    assert follower.share(before) >= 0.99


def test_a_moved_floating_ip_answers_as_the_old_or_the_new_one(lab, follower: Follower, warm, original):
    """While it moves each answer over TCP is one VM's; once the move is over it is the new one's."""
    seen = []
    stop = False

    def ask() -> None:
        while not stop:
            seen.append((time.monotonic(), reached(lab.outside, FIP1, seconds=0.3)))

    def move() -> float:
        nonlocal stop
        time.sleep(0.3)
        lab.change(lab.cloud.with_floating_ip(FIP1, "vm3"))
        moved = time.monotonic()
        time.sleep(scaled(REACTION + 0.7))
        stop = True
        return moved

    _, moved = in_parallel([ask, move])
    assert {who for _, who in seen} <= {("vm1", lab.outside.address), ("vm3", lab.outside.address), None}
    after = [who for when, who in seen if when > moved + scaled(REACTION + 0.4)]
    assert after and set(after) == {("vm3", lab.outside.address)}


@pytest.mark.skipif(not HA, reason="the router is not highly available")
def test_a_router_that_becomes_the_standby_is_left_at_once(lab, follower: Follower, warm):
    """And carried again when it is the active one. keepalived takes its addresses away when its own port has no carrier."""
    netns = router_netns(lab)
    (router,) = follower.status()["routers"]
    assert router["kind"].endswith("HA")
    device = next(link["ifname"] for link in json.loads(lab.run_in(netns, "ip -j link")) if link["ifname"].startswith("ha-"))
    with probing(lab.outside, FIP1) as answered, watching(lab, netns, FIP1) as changes:
        time.sleep(0.5)
        lab.run_in(netns, f"ip link set {device} down")
        wait_for("keepalived", lambda: FIP1 not in lab.run_in(netns, "ip address show"))
        time.sleep(scaled(REACTION + 0.4))
    assert answered and changes, "no probe, or no change, was seen"
    assert max(sent for sent, _ in answered) - changes[0] < scaled(REACTION)
    assert "fast" not in follower.states().values()
    lab.run_in(netns, f"ip link set {device} up")
    lab.wait_until_active(router["id"])
    warm_up(lab, follower)
    before = follower.counters()
    assert ping(lab.outside, FIP1, count=100, interval=0.002) == 100
    assert follower.share(before) >= 0.99


@pytest.mark.skipif(not AGENT, reason="there is no L3 agent")
def test_a_restart_of_the_L3_agent_loses_nothing(lab, follower: Follower, warm):
    with probing(lab.outside, FIP1) as answered:
        time.sleep(0.2)
        lab.stop_agent()
        lab.start_agent()
        time.sleep(0.2)
    sent = sorted(when for when, _ in answered)
    # Linux alone pauses as well where the agent takes a device down and up; a lost probe costs 2 ms.
    assert max(b - a for a, b in zip(sent, sent[1:])) < scaled(0.3)
    assert follower.states() == {FIP1: "fast", FIP2: "fast"}


def test_a_deleted_router_leaves_nothing(lab, follower: Follower, warm):
    """The last test, for it leaves no router to the others."""
    with probing(lab.outside, FIP1) as answered:
        time.sleep(0.3)
        if AGENT:
            lab.delete_router()
        else:
            cloud = lab.cloud
            lab.change(replace(cloud, floating_ips=[], routers=[]))
        gone = time.time()
        time.sleep(scaled(REACTION + 0.4))
    assert max(sent for sent, _ in answered) < gone + scaled(REACTION)
    wait_for("an end of it", lambda: follower.status()["routers"] == [] and follower.states() == {})
    left = {row["netns"] for row in follower.status()["devices"]}
    assert all(netns.startswith("fip-") for netns in left)
    assert follower.status()["problems"] == []
