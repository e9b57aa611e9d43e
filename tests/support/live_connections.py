# SPDX-License-Identifier: Apache-2.0
"""Long-lived connections between the hosts of a FixtureLab, and whether one broke (talker.py is at their ends)."""

from __future__ import annotations

import itertools
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from fixture_lab import FixtureLab
from namespaces import LabError

OUTSIDE = "outside"
TCP, UDP, PING = "tcp", "udp", "ping"
# Seconds without an answer that a machine with much else to do explains. TCP doubles the time until it sends again.
PATIENCE = {TCP: 6.0, UDP: 4.0, PING: 4.0}
MOST_LOST = 6  # messages of one connection


@dataclass(frozen=True)
class Connection:
    """`interval`: of its messages, in seconds; None if it talks only when told to."""

    id: str
    opener: str
    to: str  # the host at the other end
    protocol: str
    address: str
    interval: float | None
    size: int = 60
    far_talks: bool = False

    @property
    def talker(self) -> str:
        return self.to if self.far_talks else self.opener

    def __str__(self) -> str:
        kind = "quiet " if self.interval is None else ""
        return f"{self.id} ({kind}{self.protocol}, {self.opener} to {self.to}{', which talks' if self.far_talks else ''}, {self.size} bytes)"


class LiveConnections:
    def __init__(self, lab: FixtureLab, addresses: dict[str, str], log: Path):
        """`addresses`: by which a host is reached, by its name."""
        self.addresses = {**addresses, OUTSIDE: lab.outside.address}
        self.connections: dict[str, Connection] = {}
        self._ids = itertools.count(1)
        self._processes: dict[str, subprocess.Popen] = {}
        self._log = log
        self._broken: list[str] = []
        self._said: dict[str, dict] = {}  # by host, its last report
        for name in self.addresses:
            host = lab.outside if name == OUTSIDE else lab.vms[name]
            with open(log, "ab") as errors:
                self._processes[name] = host.start(
                    ["/usr/bin/python3", "-B", Path(__file__).with_name("talker.py")],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, bufsize=1,
                )
        for name in self._processes:
            self._answer(name)

    def _tell(self, name: str, order: dict) -> None:
        pipe = self._processes[name].stdin
        assert pipe is not None
        pipe.write(json.dumps(order) + "\n")
        pipe.flush()

    def _answer(self, name: str) -> dict:
        pipe = self._processes[name].stdout
        assert pipe is not None
        line = pipe.readline()
        if not line:
            raise LabError(f"the talker of {name} ended: see {self._log}")
        return json.loads(line)

    def _ask(self, orders: dict[str, dict]) -> dict[str, dict]:
        for name, order in orders.items():
            self._tell(name, order)
        return {name: self._answer(name) for name in orders}

    def plan(self, opener: str, to: str, protocol: str, interval: float | None, size: int = 60, far_talks: bool = False) -> Connection:
        return Connection(str(next(self._ids)), opener, to, protocol, self.addresses[to], interval, size, far_talks)

    def open(self, planned: list[Connection]) -> None:
        """Those that are to live. All are up when it returns, or broken."""
        orders: dict[str, dict] = {}
        for one in planned:
            self.connections[one.id] = one
            order = {"id": one.id, "protocol": one.protocol, "to": one.address, "interval": one.interval, "size": one.size,
                     "far_talks": one.far_talks}
            orders.setdefault(one.opener, {"open": []})["open"].append(order)
        self._ask(orders)

    def say(self, ids: list[str], count: int, interval: float) -> None:
        """Has these talk, and does not wait for it."""
        self._order("say", ids, count=count, interval=interval)

    def stop(self, ids: list[str]) -> None:
        """These do not talk by themselves any more."""
        self._order("stop", ids)

    def _order(self, word: str, ids: list[str], **more: float) -> None:
        orders: dict[str, dict] = {}
        for id in ids:
            if id in self.connections:
                orders.setdefault(self.connections[id].talker, {word: [], **more})[word].append(id)
        self._ask(orders)

    def reports(self) -> dict[str, dict]:
        """By id, what the talking ends have to say; of one that has broken, the end that says so."""
        self._said = self._ask({name: {"report": []} for name in self._processes})
        result: dict[str, dict] = {}
        for name, said in self._said.items():
            for id, report in said["talks"].items():
                if id in self.connections and (id not in result or report["broken"]):
                    result[id] = report
        return result

    def broken(self) -> list[str]:
        """One line for each that broke."""
        reports, lines = self.reports(), []
        self._broken = []
        moved = {id: addresses for said in self._said.values() for id, addresses in said["callers"].items()}
        for id, one in self.connections.items():
            report = reports.get(id)
            why = ["the other end heard nothing of it"] if report is None else []
            if report is not None:
                lost = report["sent"] - report["answered"] - report["unanswered"]
                if report["broken"]:
                    why.append(report["broken"])
                if report["wait"] > PATIENCE[one.protocol]:
                    why.append(f"no answer for {report['wait']:.1f} s")
                if one.protocol != TCP and lost > MOST_LOST:
                    why.append(f"{lost} of {report['sent']} messages were not answered")
                if len(report["seen_as"]) > 1:
                    why.append(f"seen as {', '.join(report['seen_as'])}")
                if report["answered"] == 0:
                    why.append("no answer at all")
            if id in moved:
                why.append(f"comes from {', '.join(moved[id])}")
            if why:
                self._broken.append(id)
                lines.append(f"{one}: {'; '.join(why)}")
        return lines

    def forget_broken(self) -> None:
        """Those that broken() has named last."""
        self.forget(self._broken)

    def forget(self, ids: list[str]) -> None:
        """Nothing is asked of these any more."""
        for id in ids:
            del self.connections[id]
