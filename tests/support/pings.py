# SPDX-License-Identifier: Apache-2.0
"""ping(8) whose last answer is waited for."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from subprocess import CompletedProcess
from typing import Callable, Sequence

from timing import scaled

PATIENCE = 5.0  # seconds


@dataclass(frozen=True)
class Answer:
    sequence: int  # of the request, from 1
    ttl: int
    milliseconds: float  # round trip


@dataclass(frozen=True)
class Pings:
    """What became of the first `count` requests."""

    count: int
    answers: tuple[Answer, ...]
    output: str

    @property
    def complete(self) -> bool:
        """Each was answered, once."""
        return sorted(answer.sequence for answer in self.answers) == list(range(1, self.count + 1))

    @property
    def ttls(self) -> set[int]:
        return {answer.ttl for answer in self.answers}


def send_pings(
    run: Callable[..., CompletedProcess[str]],
    address: str,
    count: int,
    *,
    interval: float = 0.1,
    patience: float = PATIENCE,
    options: Sequence[str | int] = (),
) -> Pings:
    """Asks `address` from where `run` runs commands, a request each `interval` seconds. `patience`: how long the last answer
    may take, in seconds, scaled.

    ping -c alone leaves after its last request in twice the longest round trip or one interval, -W or not, as soon as one
    answer has come (iputils, ping_common.c: __schedule_exit): an answer that a busy machine has not copied yet is "lost".
    With -w it asks on until there are `count` answers; those to later requests do not count here.
    """
    # Its timer is late by a tick or two each time.
    limit = count * (interval + 0.02) + patience
    command = ["ping", "-n", "-c", count, "-i", interval, "-w", math.ceil(scaled(limit)), *options, address]
    result = run(command, check=False, timeout=limit + 10)  # which it scales
    found = re.findall(r"bytes from .* icmp_seq=(\d+) ttl=(\d+) time=([0-9.]+) ms", result.stdout)
    answers = (Answer(int(sequence), int(ttl), float(time)) for sequence, ttl, time in found)
    return Pings(count, tuple(answer for answer in answers if answer.sequence <= count), result.stdout + result.stderr)


def sent_times(output: str) -> dict[int, float]:
    """Of `ping -D`: the number of each request that was answered, and when it was sent, in seconds of the wall clock."""
    found = re.findall(r"^\[([\d.]+)\] \d+ bytes .* icmp_seq=(\d+) .* time=([\d.]+) ms$", output, re.MULTILINE)
    return {int(sequence): float(when) - float(milliseconds) / 1000 for when, sequence, milliseconds in found}
