# SPDX-License-Identifier: Apache-2.0
"""Routers that Neutron built, and their traffic in BPF: nothing is lost, nothing is otherwise than in Linux, and what Neutron
changes counts at once."""

from __future__ import annotations

import contextlib
import json
import math
import re
import subprocess
import tempfile
import time
from dataclasses import dataclass, field, replace
from typing import Callable, Iterator

import pytest
from conftest import AGENT, HA, MODE
from neutron_lab import WEB_PORT

from follower import Follower
from lab import in_parallel, wait_for
from namespaces import LabError
from neutron_cloud import DVR, LEGACY
from pings import send_pings, sent_times
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


def wait_for_states(follower: Follower, right: Callable[[dict[str, str]], bool]) -> None:
    with contextlib.suppress(LabError):  # the comparison says what they are
        wait_for("states of floating IPs", lambda: right(follower.states()), timeout=10)
    assert right(states := follower.states()), states


def are_all_fast(states: dict[str, str]) -> bool:
    return states == {FIP1: "fast", FIP2: "fast"}


def warm_up(lab, follower: Follower) -> None:
    """A legacy router knows its neighbours only from traffic, and each pair of ends needs its first packet."""
    pairs = [(lab.vms[name], lab.outside.address) for name in ("vm1", "vm2")]
    pairs += [(lab.outside, FIP1), (lab.outside, FIP2), (lab.vms["vm1"], FIXED["vm2"]), (lab.vms["vm2"], FIXED["vm3"])]
    in_parallel([lambda pair=pair: ping(*pair, count=3, interval=0.2) for pair in pairs])
    wait_for_states(follower, are_all_fast)


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
def rules(lab, follower: Follower, right: Callable[[dict[str, str]], bool], *texts: str) -> Iterator[None]:
    """Rules (table, chain, rule) that somebody puts in front of Neutron's, one after the other. Begins when floating IPs have
    the `right` states, of which the last rule is a part, and ends when all are fast again."""
    with contextlib.ExitStack() as taken_back:
        for table, chain, rule in (text.split(" ", 2) for text in texts):
            lab.run_in(router_netns(lab), f"iptables -t {table} -I {chain} {rule}")
            taken_back.callback(lab.run_in, router_netns(lab), f"iptables -t {table} -D {chain} {rule}")
        wait_for_states(follower, right)
        yield
    wait_for_states(follower, are_all_fast)


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
    """By the programs: Linux's proxy waits up to 0.8 s before it answers a broadcast."""
    before = follower.counters()
    wait = str(round(scaled(10)))
    done = lab.outside.run(["arping", "-b", "-c", "3", "-w", wait, "-I", "eth0", FIP2], check=False, timeout=20).stdout
    sent, received = map(int, re.search(r"Sent (\d+) probes.*Received (\d+) response", done, re.DOTALL).groups())
    answered = (follower.counters() - before)["fast", "arp_reply"]
    assert received == 3 and answered >= sent, f"{answered} of {sent} were answered by the programs\n{done}"


# Rules of others


def test_a_drop_is_obeyed_and_concerns_nobody_else(lab, follower: Follower, warm):
    def are_right(states: dict[str, str]) -> bool:
        return states[FIP1] == "fast" and FIXED["vm2"] in states[FIP2] and "drop" in states[FIP2].lower()

    with rules(lab, follower, are_right, f"filter FORWARD -d {FIXED['vm2']} -j DROP"):
        assert ping(lab.outside, FIP2, count=3) == 0
        before = follower.counters()
        assert ping(lab.outside, FIP1, count=100, interval=0.002) == 100
        assert follower.share(before) >= 0.99
    warm_up(lab, follower)
    assert ping(lab.outside, FIP2, count=5) == 5


def test_a_mark_is_obeyed_and_concerns_nobody_else(lab, follower: Follower, warm):
    """UDP of vm1 gets a mark, and what has that mark is rejected."""
    # The mark is the last: without it the other one concerns no packet.
    reject = "filter FORWARD -m mark --mark 0x9900/0xff00 -j REJECT --reject-with icmp-admin-prohibited"
    mark = f"mangle PREROUTING -s {FIXED['vm1']} -p udp -j MARK --set-xmark 0x9900/0xff00"
    with rules(lab, follower, lambda states: states[FIP2] == "fast" and states[FIP1] != "fast", reject, mark):
        send = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('{}', 9)); s.send(b'x'); s.settimeout(2); s.recv(1)"
        done = lab.vms["vm1"].run(["python3", "-c", send.format(lab.outside.address)], check=False)
        assert "No route to host" in done.stderr, done.stderr
        assert reached(lab.vms["vm1"], lab.outside.address) == ("outside", FIP1)
        before = follower.counters()
        assert ping(lab.vms["vm2"], lab.outside.address, count=100, interval=0.002) == 100
        assert follower.share(before) >= 0.99


def test_another_DNAT_is_obeyed_and_concerns_nobody_else(lab, follower: Follower, warm):
    text = f"nat PREROUTING -d {FIP2} -p tcp --dport 8081 -j DNAT --to-destination {FIXED['vm2']}:{WEB_PORT}"
    with rules(lab, follower, lambda states: states[FIP1] == "fast" and "8081" in states[FIP2], text):
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
        wait_for_states(follower, lambda states: all("qdisc htb" in state for state in states.values()))
        assert ping(lab.vms["vm1"], lab.outside.address) == 20
    finally:
        lab.run_in(netns, f"tc qdisc del dev {device} root")
    wait_for_states(follower, are_all_fast)


# What Neutron changes

REMOVALS = 3


@dataclass
class Probes:
    """Pings by their numbers."""

    answered: dict[int, float] = field(default_factory=dict)  # when it was sent
    unanswered: dict[int, float] = field(default_factory=dict)  # when the next one was

    def last_answered(self) -> float:
        """When the last one was sent that was answered."""
        return max(self.answered.values())

    def longest_hole(self) -> float:
        """Seconds during which none was answered that was sent. A ping that gets no CPU for a while sends none meanwhile."""
        longest, since = 0.0, None
        for _, sent, answered in sorted([(number, sent, True) for number, sent in self.answered.items()]
                                        + [(number, sent, False) for number, sent in self.unanswered.items()]):
            since = None if answered else since or sent
            longest = max(longest, sent - since if since else 0.0)
        return longest


@contextlib.contextmanager
def probing(host, address: str) -> Iterator[Probes]:
    """Pings every 2 ms meanwhile, or every 10 ms while none is answered; afterwards there is what became of them."""
    probes = Probes()
    # -O: says at the next one that there is no answer yet. Two seconds fill a pipe that nobody reads, and ping waits.
    command = ["ping", "-n", "-D", "-O", "-i", "0.002", address]
    with tempfile.TemporaryFile("w+") as output:
        process = host.start(command, stdout=output, stderr=subprocess.DEVNULL)
        try:
            yield probes
        finally:
            process.send_signal(2)
            process.wait(timeout=scaled(10))
            output.seek(0)
            text = output.read()
        probes.answered |= sent_times(text)
        late = re.findall(r"^\[([\d.]+)\] no answer yet for icmp_seq=(\d+)", text, re.MULTILINE)
        probes.unanswered |= {int(number): float(when) for when, number in late if int(number) not in probes.answered}


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
    """And comes back, and is another VM's, while others do not notice. How late the programs are, the quickest of some
    removals says: a busy machine adds to the others."""
    late = []
    for number in range(REMOVALS):
        if number > 0:
            lab.change(lab.cloud.with_floating_ip(FIP1, "vm1"))
            warm_up(lab, follower)
        with probing(lab.outside, FIP1) as probes, watching(lab, external_netns(lab), FIP1) as changes:
            with probing(lab.outside, FIP2) as others:
                time.sleep(0.5)
                lab.change(lab.cloud.without_floating_ip(FIP1))
                time.sleep(scaled(REACTION + 0.4))
        assert probes.answered and others.answered and changes, "no probe, or no change, was seen"
        late.append(probes.last_answered() - changes[0])
        assert others.longest_hole() < scaled(0.5)
        wait_for("the agent to forget it", lambda: FIP1 not in follower.states(), timeout=10)
        with probing(lab.outside, FIP1) as probes:
            time.sleep(scaled(0.5))
        assert probes.unanswered and not probes.answered
    assert reached(lab.vms["vm1"], lab.outside.address) != ("outside", FIP1)
    text = ", ".join(f"{seconds * 1000:.1f}" for seconds in late)
    print(f"last answered probes: {text} ms after the kernel's first notification")
    assert min(late) < scaled(REACTION), text
    lab.change(lab.cloud.with_floating_ip(FIP1, "vm3"))
    wait_for("the floating IP's new VM", lambda: reached(lab.outside, FIP1) == ("vm3", lab.outside.address))
    assert reached(lab.vms["vm3"], lab.outside.address) == ("outside", FIP1)
    wait_for_states(follower, are_all_fast)
    before = follower.counters()
    assert ping(lab.outside, FIP1, count=100, interval=0.002) == 100
    assert follower.share(before) >= 0.99


def test_a_moved_floating_ip_answers_as_the_old_or_the_new_one(lab, follower: Follower, warm, original):
    """While it moves each answer over TCP is one VM's; once the move is over it is the new one's."""
    old, new = ("vm1", lab.outside.address), ("vm3", lab.outside.address)
    during, after = [], []
    moved = math.inf

    def ask() -> None:
        """Many short attempts, of which some may fail; those that may not, once it has moved, have the usual time."""
        while len(after) < 10:
            begun = time.monotonic()
            who = reached(lab.outside, FIP1, seconds=0.3 if begun < moved else 3)
            (during if begun < moved + scaled(REACTION + 0.4) else after).append(who)

    def move() -> None:
        nonlocal moved
        time.sleep(0.3)
        try:
            lab.change(lab.cloud.with_floating_ip(FIP1, "vm3"))
        finally:
            moved = time.monotonic()

    in_parallel([ask, move])
    assert set(during) <= {old, new, None}
    assert set(after) == {new}


@pytest.mark.skipif(not HA, reason="the router is not highly available")
def test_a_router_that_becomes_the_standby_is_left_at_once(lab, follower: Follower, warm):
    """And carried again when it is the active one. keepalived takes its addresses away when its own port has no carrier."""
    netns = router_netns(lab)
    (router,) = follower.status()["routers"]
    assert router["kind"].endswith("HA")
    device = next(link["ifname"] for link in json.loads(lab.run_in(netns, "ip -j link")) if link["ifname"].startswith("ha-"))
    with probing(lab.outside, FIP1) as probes, watching(lab, netns, FIP1) as changes:
        time.sleep(0.5)
        lab.run_in(netns, f"ip link set {device} down")
        wait_for("keepalived", lambda: FIP1 not in lab.run_in(netns, "ip address show"))
        time.sleep(scaled(REACTION + 0.4))
    assert probes.answered and changes, "no probe, or no change, was seen"
    assert probes.last_answered() - changes[0] < scaled(REACTION)
    assert "fast" not in follower.states().values()
    lab.run_in(netns, f"ip link set {device} up")
    lab.wait_until_active(router["id"])
    warm_up(lab, follower)
    before = follower.counters()
    assert ping(lab.outside, FIP1, count=100, interval=0.002) == 100
    assert follower.share(before) >= 0.99


@pytest.mark.skipif(not AGENT, reason="there is no L3 agent")
def test_a_restart_of_the_L3_agent_loses_nothing(lab, follower: Follower, warm):
    with probing(lab.outside, FIP1) as probes:
        time.sleep(0.2)
        lab.stop_agent()
        lab.start_agent()
        time.sleep(0.2)
    # Linux alone pauses as well where the agent takes a device down and up; a lost probe costs 2 ms.
    assert probes.answered and probes.longest_hole() < scaled(0.3)
    assert are_all_fast(follower.states())


def test_a_deleted_router_leaves_nothing(lab, follower: Follower, warm):
    """The last test, for it leaves no router to the others."""
    with probing(lab.outside, FIP1) as probes:
        time.sleep(0.3)
        if AGENT:
            lab.delete_router()
        else:
            cloud = lab.cloud
            lab.change(replace(cloud, floating_ips=[], routers=[]))
        gone = time.time()
        time.sleep(scaled(REACTION + 0.4))
    assert probes.last_answered() < gone + scaled(REACTION)
    wait_for("an end of it", lambda: follower.status()["routers"] == [] and follower.states() == {})
    left = {row["netns"] for row in follower.status()["devices"]}
    assert all(netns.startswith("fip-") for netns in left)
    assert follower.status()["problems"] == []
