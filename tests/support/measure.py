# SPDX-License-Identifier: Apache-2.0
"""Rates through floating IPs, and the fast path compared with plain Linux in one interleaved run."""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Callable, Sequence

from guests import Vm
from lab import Lab, LabError

UDP_PORT = 20001
IPERF_PORT = 20002
UDP_BYTES = 64


@dataclass(frozen=True)
class Counts:
    """Unicast packets of the overlay that a node's programs saw, those of them that they finished themselves, and why
    not the others, by hook and reason."""

    packets: int
    fast: int
    others: Counter = field(default_factory=Counter)

    @property
    def share(self) -> float:
        return self.fast / self.packets if self.packets else 0.0

    def __sub__(self, earlier: Counts) -> Counts:
        others = self.others - earlier.others
        return Counts(self.packets - earlier.packets, self.fast - earlier.fast, others)

    def __str__(self) -> str:
        others = ", ".join(f"{count} {why}" for why, count in self.others.most_common())
        return f"{self.fast} of {self.packets} packets in BPF ({self.share:.2%}); {others or 'no others'}"


def counts(status: dict) -> Counts:
    """From `fiplane status -o json`: by class, as the agent counts its share (PASS and FLOOD do not count)."""
    total = Counter()
    others = Counter()
    for row in status["counters"]:
        total[row["class"]] += row["packets"]
        if row["class"] in ("slow", "drop"):
            others[f"{row['hook']} {row['reason']}"] += row["packets"]
    return Counts(total["fast"] + total["slow"] + total["drop"], total["fast"], others)


def all_counts(lab: Lab) -> dict[str, Counts]:
    return {name: counts(node.status()) for name, node in lab.nodes.items()}


def udp_rate(lab: Lab, sender: Vm, floating_ip: str, seconds: float) -> float:
    """Datagrams of UDP_BYTES per second that arrive at the receiver's socket while the sender sends all it can."""
    tool, receiver = lab.tools / "udp_rate", lab.vm_of(floating_ip)
    sink = receiver.start([tool, "receive", UDP_PORT, seconds], stdout=subprocess.PIPE, text=True)
    assert sink.stdout is not None
    sink.stdout.readline()
    sender.run([tool, "send", floating_ip, UDP_PORT, UDP_BYTES, seconds + 0.3], timeout=seconds + 20)
    result = json.loads(sink.communicate(timeout=3 * seconds + 10)[0])
    return result["packets"] / result["seconds"]


def tcp_throughput(lab: Lab, sender: Vm, floating_ip: str, seconds: float) -> float:
    """Gbit/s of one TCP stream, as the receiver saw it."""
    receiver = lab.vm_of(floating_ip)
    server = receiver.start(
        ["iperf3", "-s", "-1", "-p", IPERF_PORT], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _wait_for_listener(receiver, IPERF_PORT)
    try:
        command = ["iperf3", "-c", floating_ip, "-p", IPERF_PORT, "-t", seconds, "-O", 0.3, "-J"]
        result = sender.run(command, timeout=seconds + 20, check=False)
        report = json.loads(result.stdout)
        if "error" in report:
            raise LabError(f"iperf3 from {sender.name} to {floating_ip}: {report['error']}")
        return report["end"]["sum_received"]["bits_per_second"] / 1e9
    finally:
        server.terminate()
        server.wait(timeout=5)


def _wait_for_listener(vm: Vm, port: int) -> None:
    for _ in range(100):
        if vm.run(["ss", "-Hltn", f"sport = :{port}"]).stdout:
            return
        time.sleep(0.02)
    raise LabError(f"nobody listens on port {port} in {vm.name}")


@dataclass(frozen=True)
class Figure:
    """Something to measure with the fast path off and on."""

    what: str
    unit: str
    measure: Callable[[float], float]


@dataclass
class Comparison:
    figure: Figure
    linux: list[float]
    fiplane: list[float]

    @property
    def ratio(self) -> float:
        """Median of the rounds' ratios: each round compares what ran next to each other."""
        return statistics.median(ours / theirs if theirs else 0.0 for theirs, ours in zip(self.linux, self.fiplane))

    def as_json(self) -> dict:
        return {
            "what": self.figure.what,
            "unit": self.figure.unit,
            "linux": round(statistics.median(self.linux), 2),
            "fiplane": round(statistics.median(self.fiplane), 2),
        }


def figures(lab: Lab) -> list[Figure]:
    """Small packets between veth VMs of two nodes; TCP between veth VMs, and between tap VMs, of two nodes."""
    out: list[Figure] = []
    for tap in (False, True):
        pair = vm_pair(lab, tap)
        if pair is None:
            continue
        sender, fip = pair
        kind = "tap" if tap else "veth"
        if not tap or not out:
            out.append(
                Figure(
                    f"UDP {UDP_BYTES} B, {kind} VM to floating IP",
                    "packets/s",
                    lambda seconds, sender=sender, fip=fip: udp_rate(lab, sender, fip, seconds),
                )
            )
        out.append(
            Figure(
                f"TCP, {kind} VM to floating IP",
                "Gbit/s",
                lambda seconds, sender=sender, fip=fip: tcp_throughput(lab, sender, fip, seconds),
            )
        )
    return out


def vm_pair(lab: Lab, tap: bool) -> tuple[Vm, str] | None:
    """A VM with a floating IP and the floating IP of a VM on another node, both attached alike."""
    owners = [vm for vm in lab.vms.values() if vm.tap == tap and lab.topology.fips_of(vm.name)]
    for sender, receiver in itertools.combinations(owners, 2):
        if sender.node != receiver.node:
            return sender, lab.topology.fips_of(receiver.name)[0]
    return None


def compare(
    lab: Lab,
    wanted: Sequence[Figure],
    *,
    rounds: int = 3,
    seconds: float = 2.0,
    progress: Callable[[str], None] = lambda what: None,
) -> list[Comparison]:
    """Each figure with the fast path off and on, next to each other, in changing order, `rounds` times."""
    results = [Comparison(figure, [], []) for figure in wanted]
    before = lab.fast_path
    for number in range(rounds):
        for on in ((False, True), (True, False))[number % 2]:
            lab.set_fast_path(on)
            progress(f"round {number + 1} of {rounds}, fast path {'on' if on else 'off'}")
            for result in results:
                (result.fiplane if on else result.linux).append(result.figure.measure(seconds))
    lab.set_fast_path(before)
    return results
