# SPDX-License-Identifier: Apache-2.0
"""Sends cases through a site, with the fast path off and on, and tells which outputs differ."""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Callable, Iterable, Iterator

from equivalence import freedom
from equivalence.build import TCP, UDP, eth, ipv4, tcp, udp
from equivalence.case import SENTINEL, Case, Shot, ident, idents_in, number_in
from equivalence.exceptions import EXCEPTIONS
from equivalence.site import Journey, Site
from equivalence.sockets import wait_readable

CHUNK = 128
BATCH = 4096
QUIET = 0.002
PATIENCE = 10.0
UNREPEATED = "outputs without a number differ in the chunk that begins here, but no case alone shows it"
# (name of the capture, frame without what Linux chooses freely)
Output = tuple[str, bytes]


class Lost(RuntimeError):
    """Sentinels did not come through: the node carries nothing, so there is nothing to compare."""


@dataclass
class Difference:
    case: Case
    off: list[Output]
    on: list[Output]

    @property
    def missing(self) -> Counter[Output]:
        return Counter(self.off) - Counter(self.on)

    @property
    def extra(self) -> Counter[Output]:
        return Counter(self.on) - Counter(self.off)


@dataclass
class Outcome:
    cases: int = 0
    frames: int = 0  # outputs compared
    silent: int = 0  # cases without any output
    differences: list[Difference] = field(default_factory=list)
    exempted: Counter[str] = field(default_factory=Counter)
    fast: int = 0  # verdicts of class fast with the fast path on
    slow: int = 0


class Runner:
    """`tamper`: for tests of the suite itself, changes the outputs of the second pass of a chunk."""

    def __init__(self, site: Site, tamper: Callable[[list[Output]], list[Output]] | None = None):
        self.site = site
        self.tamper = tamper
        self.sentinels = self._choose_sentinels()
        self._round = 0

    # One pass

    def _choose_sentinels(self) -> list[Journey]:
        """One journey for each pair of entry and exit: what it carries comes out behind everything before it."""
        chosen: dict[tuple, Journey] = {}
        for journey in self.site.journeys:
            chosen.setdefault((journey.entry.device, journey.entry.vni, journey.kind, journey.exit), journey)
        return list(chosen.values())

    def _settle(self, collected: list[Output]) -> None:
        """Returns when everything that was sent before has come out, into `collected`."""
        self._round += 1
        awaited: set[bytes] = set()
        for number, journey in enumerate(self.sentinels):
            for protocol in (UDP, TCP):
                mark = SENTINEL + struct.pack("!IHB", self._round, number, protocol)
                awaited.add(mark)
                port = 1024 + (self._round * 7 + number) % 8000
                build = udp if protocol == UDP else tcp
                packet = ipv4(journey.src, journey.dst, protocol, build(journey.src, journey.dst, port, 7, mark))
                frame = eth(journey.eth_dst, journey.eth_src, 0x0800, packet)
                self.site.injectors[journey.entry.device].send(journey.entry.wrap(frame))
        deadline = time.monotonic() + PATIENCE
        captures = list(self.site.captures.values())
        while True:
            for capture in captures:
                for frame in capture.read():
                    at = frame.find(SENTINEL)
                    if at < 0:
                        collected.append((capture.name, frame))
                    else:
                        awaited.discard(frame[at : at + 11])
            if not wait_readable(captures, QUIET):
                if not awaited:
                    return
                if time.monotonic() > deadline:
                    raise Lost(self._who_is_missing(awaited))

    def _who_is_missing(self, awaited: Iterable[bytes]) -> str:
        lines = []
        for mark in sorted(awaited):
            _, number, protocol = struct.unpack("!IHB", mark[4:])
            journey = self.sentinels[number]
            lines.append(f"{journey.kind}, protocol {protocol}: {journey.entry.device} -> {journey.exit}")
        return "lost sentinels:\n" + "\n".join(lines)

    def _send(self, shots: Iterable[Shot]) -> None:
        for shot in shots:
            try:
                self.site.injectors[shot.device].send(shot.frame, shot.header)
            except OSError as error:
                raise OSError(error.errno, f"{error.strerror}: {len(shot.frame)} bytes at {shot.device}") from error

    def run_chunk(self, cases: list[Case]) -> list[Output]:
        collected: list[Output] = []
        primes = [shot for case in cases for shot in case.prime]
        if primes:
            self._send(primes)
            self._settle(collected)
        self._send(shot for case in cases for shot in case.shots)
        self._settle(collected)
        return [
            (name, freedom.normalised(name, frame, self.site))
            for name, frame in collected
            if not freedom.is_from_a_clock(name, frame, self.site)
        ]

    def _pass(self, cases: list[Case], fast_path: bool, size: int) -> list[list[Output]]:
        self.site.set_fast_path(fast_path)
        self.site.forget()
        self._round = 0  # what sentinels cause is the same in both passes
        self._settle([])
        return [self.run_chunk(cases[at : at + size]) for at in range(0, len(cases), size)]

    # Both

    def run(self, cases: Iterable[Case], outcome: Outcome | None = None) -> Outcome:
        outcome = outcome or Outcome()
        cases = list(cases)
        off = self._pass(cases, False, CHUNK)
        before = self._verdicts()
        on = self._pass(cases, True, CHUNK)
        spent = self._verdicts()
        outcome.fast += spent["fast"] - before["fast"]
        outcome.slow += spent["slow"] - before["slow"]
        unclear: list[tuple[list[Case], Difference]] = []
        for index, (expected, seen) in enumerate(zip(off, on)):
            if self.tamper:
                seen = self.tamper(seen)
            chunk = cases[index * CHUNK : (index + 1) * CHUNK]
            rest = self._compare(chunk, expected, seen, outcome)
            if rest.missing or rest.extra:
                unclear.append((chunk, rest))
        if unclear:
            self._find(unclear, outcome)
        return outcome

    def _find(self, chunks: list[tuple[list[Case], Difference]], outcome: Outcome) -> None:
        """Outputs that carry no number differed: each case of those chunks alone tells who made them. What none of
        them shows is reported for the chunk as a whole."""
        known = {difference.case.number for difference in outcome.differences}
        cases = [case for chunk, _ in chunks for case in chunk]
        alone = iter(zip(cases, self._pass(cases, False, 1), self._pass(cases, True, 1)))
        for chunk, whole in chunks:
            missing, extra = whole.missing, whole.extra
            for case, off, on in itertools.islice(alone, len(chunk)):
                difference = Difference(case, off, on)
                if difference.missing or difference.extra:
                    missing, extra = missing - difference.missing, extra - difference.extra
                    self._judge(difference, outcome, again=case.number in known)
            if missing or extra:
                outcome.differences.append(Difference(whole.case, list(missing.elements()), list(extra.elements())))

    def _verdicts(self) -> Counter[str]:
        out: Counter[str] = Counter()
        for row in self.site.node.status()["counters"]:
            out[row["class"]] += row["packets"]
        return out

    def _compare(self, cases: list[Case], off: list[Output], on: list[Output], outcome: Outcome) -> Difference:
        """Returns the outputs that do not say which case they belong to."""
        outcome.cases += len(cases)
        outcome.frames += len(off)
        port = self.site.topology.vxlan_port
        by_case_off, by_case_on = attribute(cases, off, port), attribute(cases, on, port)
        for case in cases:
            expected, seen = by_case_off.pop(case.number, []), by_case_on.pop(case.number, [])
            outcome.silent += not expected
            if Counter(expected) != Counter(seen):
                self._judge(Difference(case, expected, seen), outcome)
        return Difference(Case(cases[0].number, [], traits=[UNREPEATED]), by_case_off[None], by_case_on[None])

    def _judge(self, difference: Difference, outcome: Outcome, again: bool = False) -> None:
        """`again`: the case has been counted already."""
        exempt = next((rule for rule in EXCEPTIONS if rule.covers(difference, self.site)), None)
        if exempt is not None:
            outcome.exempted[exempt.name] += 1
        elif not again:
            outcome.differences.append(difference)


def attribute(cases: list[Case], outputs: list[Output], tunnel_port: int) -> dict[int | None, list[Output]]:
    """Outputs by the number of the case that caused them; None: they do not say."""
    numbers = {case.number for case in cases}
    by_ident = {ident(number): number for number in numbers}
    out: dict[int | None, list[Output]] = {None: []}
    for output in outputs:
        number = number_in(output[1])
        if number not in numbers:
            values = reversed(idents_in(output[1], tunnel_port))
            number = next((by_ident[value] for value in values if value in by_ident), None)
        out.setdefault(number, []).append(output)
    return out


def batches(numbers: Iterable[int], size: int = BATCH) -> Iterator[list[int]]:
    batch: list[int] = []
    for number in numbers:
        batch.append(number)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


@contextlib.contextmanager
def on_one_cpu() -> Iterator[None]:
    """The softirq of a frame that is sent runs on the sender's CPU: on one CPU, frames stay in order."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
