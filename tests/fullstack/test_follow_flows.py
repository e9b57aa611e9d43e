# SPDX-License-Identifier: Apache-2.0
"""`fiplane agent --follow neutron` comes, goes and dies under live connections, and not one of them breaks: neither those
that Linux began nor those that the programs did. The tests build on one another, in the order of the file: the connections
live through all of them. Each event happens in all modes of the L3 agent at once, in a lab of its own each, since most of
the time goes into waiting."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from fixture_cloud import FIPS, HOST, cloud
from fixture_lab import FixtureLab
from lab import in_parallel, wait_for
from live_connections import OUTSIDE, PING, TCP, UDP, Connection, LiveConnections
from namespaces import LabError
from neutron_cloud import DVR, DVR_SNAT, LEGACY
from router_churn import MOST_SECONDS, ChurnRouter
from timing import scaled
from watched_follower import WatchedFollower

BUILD = Path(os.environ.get("FIPLANE_BUILD", Path(__file__).resolve().parents[2] / "build" / "release"))
TIMEOUT = 400  # seconds; a thousand routers take a minute, or more than two beside emulators
ARTEFACTS = BUILD / "fullstack-artefacts" / "follow-flows"
# Connections by mode: begun before there is an agent, under the first one, and about each of the four events.
COUNTS = {DVR: (80, 80, 10), LEGACY: (80, 80, 10), DVR_SNAT: (40, 40, 5)}
LEASE = 30.0

BY_VMS = [("red1", OUTSIDE), ("blue1", OUTSIDE), ("red1", "blue1"), ("green1", OUTSIDE), ("red1", "green1"), ("green1", "red1"),
          ("blue1", "red1")]
FROM_OUTSIDE = [(OUTSIDE, "red1"), (OUTSIDE, "blue1"), (OUTSIDE, "green1")]
# Protocol, interval, bytes of a message, and whether the end that did not open it talks. 3 and 7, the numbers of pairs of
# hosts, do not divide their number, so that each pair has each kind.
KINDS = [
    (UDP, None, 60, False),
    (TCP, None, 60, False),
    (PING, 0.5, 60, False),
    (UDP, 0.5, 60, False),
    (TCP, 0.6, 60, False),
    (UDP, None, 60, True),
    (TCP, 0.7, 250_000, False),
    (TCP, None, 60, True),
    (UDP, 0.5, 1200, True),
    (PING, None, 60, False),
]
# More in flight than a TCP window is whose scale nobody knows.
BULK = [("red1", OUTSIDE, False), ("red1", "blue1", False), ("green1", "red1", True), (OUTSIDE, "red1", True)]
BULK_SIZE, BULK_INTERVAL = 900_000, 0.2


class Site:
    """One lab, and what lives in it."""

    def __init__(self, lab: FixtureLab):
        self.lab = lab
        self.mode = lab.cloud.agent(HOST).mode
        self.directory = ARTEFACTS / self.mode
        self.directory.mkdir(parents=True, exist_ok=True)
        for name in ("fiplane-agent.log", "talkers.log"):
            (self.directory / name).unlink(missing_ok=True)
        self.follower = WatchedFollower(lab.node, BUILD, self.directory)
        self.live = LiveConnections(lab, FIPS, self.directory / "talkers.log")
        self.quiet: list[str] = []  # those that talk after each event
        self.silent: list[str] = []  # those that talk for the first time since they began when the lease is over
        self._pairs = (itertools.cycle(BY_VMS), itertools.cycle(FROM_OUTSIDE))
        self._kinds = (itertools.cycle(KINDS), itertools.cycle(KINDS))

    def plan(self, count: int) -> list[Connection]:
        """Half of them opened by VMs."""
        sides = itertools.islice(itertools.cycle((0, 1)), count)
        return [self.live.plan(*next(self._pairs[side]), *next(self._kinds[side])) for side in sides]

    def open(self, planned: list[Connection]) -> None:
        self.live.open(planned)
        for number, one in enumerate(one for one in planned if one.interval is None):
            (self.silent if number % 3 == 2 else self.quiet).append(one.id)

    def begin(self, count: int) -> None:
        """New connections. Their quiet ones talk for long enough for UDP to be a stream, which conntrack keeps for 120 s."""
        planned = self.plan(count)
        self.open(planned)
        self.live.say([one.id for one in planned if one.interval is None], 4, 0.8)

    def keep_opening(self, over: threading.Event) -> None:
        """The connections that straddle an event; the last of them when it is over."""
        *during, after = self.plan(COUNTS[self.mode][2])
        for one in during:
            self.open([one])
            over.wait(0.1)
        over.wait()
        self.open([after])

    def collect(self, what: str) -> None:
        """What the kernel holds."""
        names = self.lab.node.run(["ls", "/run/netns"]).stdout.split()
        parts = [f"{name}\n{self.lab.node.run_in(name, 'conntrack -L 2>/dev/null; ip neigh', check=False)}" for name in names]
        parts.append(self.lab.node.run(
            "for map in fl_flows fl_config; do bpftool map dump pinned /sys/fs/bpf/fiplane/maps/$map; done", check=False).stdout)
        (self.directory / f"{what}.txt").write_text("\n".join(parts))


@pytest.fixture(scope="module")
def sites() -> Iterator[list[Site]]:
    with contextlib.ExitStack() as stack:
        yield [Site(stack.enter_context(FixtureLab(cloud(mode), HOST))) for mode in COUNTS]


def everywhere(sites: list[Site], what: Callable[[Site], object]) -> None:
    in_parallel([lambda site=site: what(site) for site in sites])


def straddling(sites: list[Site], event: Callable[[Site], object]) -> None:
    """The event, while connections are opened before, in and after it."""
    over = threading.Event()
    openers = [threading.Thread(target=site.keep_opening, args=[over]) for site in sites]
    for opener in openers:
        opener.start()
    time.sleep(0.3)
    try:
        everywhere(sites, event)
    finally:
        over.set()
        for opener in openers:
            opener.join()


def check(sites: list[Site], what: str, silent: bool = False) -> None:
    """Quiet connections talk, too, and none has broken. `silent`: the silent ones as well."""
    everywhere(sites, lambda site: site.live.say(site.quiet + (site.silent if silent else []), 3, 0.4))
    time.sleep(scaled(2.5))
    broken = {site.mode: site.live.broken() for site in sites}
    for site in sites:
        if broken[site.mode]:
            site.collect(what.replace(" ", "-"))
            site.live.forget_broken()
    text = "\n".join(f"{mode}, {what}: {line}" for mode, lines in broken.items() for line in lines)
    assert not text, f"broken (see {ARTEFACTS}):\n{text}"


def start(site: Site) -> None:
    site.follower.start()
    site.follower.wait_until_fast(set(FIPS.values()))


def ports_kept(site: Site, ids: list[str]) -> list[bool]:
    """Of UDP and TCP connections that VMs opened: whether the other end sees the port that the VM has. The programs keep it."""
    reports = site.live.reports()
    mine = [one for one in site.live.connections.values()
            if one.id in ids and one.opener != OUTSIDE and one.protocol != PING and not one.far_talks]
    return [reports[one.id]["seen_as"] == [f"{FIPS[one.opener]}:{reports[one.id]['own']}"] for one in mine]


def check_new_ones(sites: list[Site]) -> None:
    """Whatever the others are, what begins now is the programs'."""
    planned = [[site.live.plan(vm, OUTSIDE, UDP, 0.5) for vm in FIPS] for site in sites]
    for site, new in zip(sites, planned):
        site.live.open(new)
    for site, new in zip(sites, planned):
        with contextlib.suppress(LabError):  # one that is never answered is none of the programs'
            wait_for("answers", lambda: all(site.live.reports()[one.id]["answered"] > 0 for one in new), 10)
        assert all(ports_kept(site, [one.id for one in new])), f"{site.mode}: new connections stay with Linux"


def test_start(sites):
    everywhere(sites, lambda site: site.begin(COUNTS[site.mode][0]))
    time.sleep(scaled(3.5))
    check(sites, "Linux alone")
    straddling(sites, start)
    check(sites, "start")
    for site in sites:
        kept = ports_kept(site, [str(number) for number in range(1, COUNTS[site.mode][0] + 1)])
        assert kept and not any(kept), f"{site.mode}: Linux keeps ports: these connections show nothing"


def test_new_connections_are_the_programs(sites):
    def begin(site: Site) -> None:
        site.begin(COUNTS[site.mode][1])
        site.open([site.live.plan(opener, to, TCP, BULK_INTERVAL, BULK_SIZE, far) for opener, to, far in BULK])

    before = [set(site.live.connections) for site in sites]
    everywhere(sites, begin)
    time.sleep(scaled(3.5))
    check(sites, "new connections")
    for site, old in zip(sites, before):
        kept = ports_kept(site, [id for id in site.live.connections if id not in old])
        assert kept and all(kept), f"{site.mode}: {kept.count(False)} of {len(kept)} are not the programs'"


def test_restart(sites):
    def restart(site: Site) -> None:
        site.follower.stop()
        time.sleep(1)
        start(site)

    straddling(sites, restart)
    check(sites, "restart")


def test_killed_and_started(sites):
    def restart(site: Site) -> None:
        site.follower.stop(signal.SIGKILL)
        start(site)

    straddling(sites, restart)
    check(sites, "killed and started")


def test_killed_for_good(sites):
    """When the lease is over, Linux carries everything; when there is an agent again, what it has it keeps."""
    def die(site: Site) -> None:
        counted = site.follower.reasons()["lease"]
        site.follower.stop(signal.SIGKILL)
        wait_for("the lease to be over", lambda: site.follower.reasons()["lease"] > counted, LEASE + 10, 1.0)

    straddling(sites, die)
    check(sites, "lease over", silent=True)
    for site in sites:
        before = site.follower.reasons()
        time.sleep(1)
        after = site.follower.reasons()
        assert after["lease"] > before["lease"], f"{site.mode}: nothing is left to Linux"
        for reason in ("fip_in", "fip_out", "fip_hairpin"):
            assert after[reason] == before[reason], f"{site.mode}: the programs still carry packets ({reason})"
    everywhere(sites, start)
    check(sites, "started after the lease", silent=True)
    check_new_ones(sites)


def test_fast_path_off(sites):
    """Flows are handed over as with `fiplane detach`."""
    straddling(sites, lambda site: site.follower.switch("off"))
    assert not any(site.follower.is_pinned() for site in sites)
    check(sites, "fast path off", silent=True)


def test_fast_path_on(sites):
    def switch_on(site: Site) -> None:
        site.follower.switch("on")
        site.follower.wait_until_fast(set(FIPS.values()))

    straddling(sites, switch_on)
    check(sites, "fast path on", silent=True)
    check_new_ones(sites)


def test_detach(sites):
    def detach(site: Site) -> None:
        site.follower.stop()
        done = site.follower.ask("detach")
        assert done["flows"] > 0, done

    straddling(sites, detach)
    assert not any(site.follower.is_pinned() for site in sites)
    check(sites, "detached", silent=True)
    straddling(sites, start)
    check(sites, "started after detach", silent=True)
    check_new_ones(sites)


# Namespaces that come and go

ROUNDS = {DVR: 400, LEGACY: 350, DVR_SNAT: 250}
WORKERS = 4  # of a site, each with routers of its own; Linux waits for grace periods most of the time
GROWTH = 8 << 10  # KiB


def churn(site: Site, worker: int, rounds: int) -> int:
    """One worker's rounds, and in how many of them the agent could follow. The others are over before it can, or in the
    midst of it."""
    followed = 0
    for number in range(0, rounds, 5):
        routers = [ChurnRouter.new(site.lab, worker * 5 + slot) for slot in range(min(5, rounds - number))]
        steps = [step for router in routers for step in (router.create(), router.delete())]
        if number % 20 == 0:  # the agent follows, and sees an L3 agent's order
            steps = [step for router in routers for step in (router.create(), router.wait_until_followed(), router.delete())]
            followed += len(routers)
        elif number % 20 == 5:  # all at once
            steps = [router.create() for router in routers] + [router.vanish() for router in routers]
        elif number % 20 == 10:  # one at a time, with all that is in it; and by the same name again
            first, *others = routers
            steps = [first.create(), first.delete(), first.create(), first.vanish()]
            steps += [step for router in others[1:] for step in (router.create(), router.vanish())]
        site.lab.node.run(["sh", "-e"], stdin="\n".join(steps), timeout=10 * MOST_SECONDS)
    return followed


@contextlib.contextmanager
def talking(sites: list[Site]) -> Iterator[None]:
    """Quiet connections say something every 30 s meanwhile: conntrack forgets UDP that is silent for 120 s."""
    over = threading.Event()

    def talk() -> None:
        while not over.wait(30):
            everywhere(sites, lambda site: site.live.say(site.quiet, 1, 0.4))

    with ThreadPoolExecutor(1) as thread:
        talker = thread.submit(talk)
        try:
            yield
        finally:
            over.set()
        talker.result()


def held(site: Site) -> dict[str, Any]:
    """What must not grow."""
    programs, links = site.follower.programs()
    return {"rows": site.follower.rows(), "programs": programs, "links": links, "pins": site.follower.pins(),
            "descriptors": site.follower.descriptors()}


def left(now: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """What there is besides what there was. Of rows only more than before: those of a legacy router's neighbours go with
    them. Flows are those of the connections that live meanwhile."""
    more = {name: count - before["rows"][name] for name, count in now["rows"].items()
            if name != "fl_flows" and count > before["rows"][name]}
    others = {what: now[what] for what in ("programs", "links", "descriptors") if now[what] != before[what]}
    pins = set(now["pins"]) ^ set(before["pins"])
    return {**({"rows": more} if more else {}), **({"pins": sorted(pins)} if pins else {}), **others}


def test_a_thousand_routers_leave_nothing(sites):
    before = [held(site) for site in sites]
    memory = [site.follower.memory() for site in sites]
    log = [len(site.follower.complaints()) for site in sites]
    jobs = [(site, worker) for site in sites for worker in range(WORKERS)]
    with talking(sites):
        begun = time.monotonic()
        followed = in_parallel(
            [lambda site=site, worker=worker: churn(site, worker, -(-ROUNDS[site.mode] // WORKERS)) for site, worker in jobs],
            len(jobs))
        seconds = time.monotonic() - begun
        print(f"{sum(ROUNDS.values())} rounds in {seconds:.0f} s, {sum(followed)} of them followed")
        for site, old, kilobytes, lines in zip(sites, before, memory, log):
            with contextlib.suppress(LabError):  # if it does not come true, the comparison says what is left
                wait_for("the agent to see the end", lambda: not left(held(site), old), interval=0.3)
            assert not left(held(site), old), site.mode
            grown = site.follower.memory() - kilobytes
            assert grown < GROWTH, f"{site.mode}: the agent grew by {grown} KiB"
            assert not site.follower.complaints()[lines:], site.mode
    check(sites, "after all those namespaces")
    for site in sites:
        new = ChurnRouter.new(site.lab, 0)
        site.lab.node.run(new.create())
        site.follower.wait_until_fast({*FIPS.values(), new.floating_ip})
        site.lab.node.run(new.delete())
        site.follower.wait_until_fast(set(FIPS.values()))


def test_the_other_router_does_not_notice(sites):
    """The last test. A router goes in an L3 agent's order and comes again, and goes with all that is in it, in the midst of
    its traffic; of the other router's not one packet is lost."""
    def with_traffic(site: Site) -> None:
        site.live.open([site.live.plan("green1", OUTSIDE, UDP, 0.02), site.live.plan(OUTSIDE, "green1", UDP, 0.02)])

    streams = [[site.live.plan(*hosts, UDP, 0.005) for hosts in (("red1", OUTSIDE), (OUTSIDE, "blue1"), ("red1", "blue1"))] for site in sites]
    for site, planned in zip(sites, streams):
        site.live.forget([one.id for one in site.live.connections.values() if "green1" in (one.opener, one.to)])
        site.live.open(planned)

    def come_and_go(site: Site) -> None:
        whole = site.lab.cloud
        without = dataclasses.replace(whole, routers=[router for router in whole.routers if router.name == "r1"],
                                      floating_ips=[fip for fip in whole.floating_ips if fip.vm != "green1"])
        rest = {address for vm, address in FIPS.items() if vm != "green1"}
        for _ in range(2):
            with_traffic(site)
            time.sleep(0.5)
            site.lab.change(without)
            site.follower.wait_until_fast(rest)
            site.lab.change(whole)
            site.follower.wait_until_fast(set(FIPS.values()))
        with_traffic(site)
        time.sleep(0.5)
        site.lab.node.run(["ip", "netns", "del", site.lab.netns("r2")])
        site.follower.wait_until_fast(rest)

    everywhere(sites, come_and_go)
    time.sleep(0.5)
    for site, planned in zip(sites, streams):
        ids = [one.id for one in planned]
        site.live.stop(ids)
        with contextlib.suppress(LabError):  # what is not answered is lost
            wait_for("the last answers", lambda: not any(site.live.reports()[id]["unanswered"] for id in ids), 10)
        reports = site.live.reports()
        for one in planned:
            sent, answered = (reports[one.id][key] for key in ("sent", "answered"))
            assert sent > 100, f"{site.mode}: {one}: {reports[one.id]}"
            assert sent == answered, f"{site.mode}: {one}: {sent - answered} of {sent} packets were lost"
        site.live.forget([one.id for one in site.live.connections.values() if "green1" in (one.opener, one.to)])
    check(sites, "another router gone")
