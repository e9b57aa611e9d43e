# SPDX-License-Identifier: Apache-2.0
"""Who reaches whom, by ping and by ssh: from every node and every VM to every floating IP; from VM to VM."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Callable, Sequence

from lab import Lab, in_parallel
from pings import send_pings

PINGS = 5


@dataclass(frozen=True)
class Cell:
    source: str
    address: str
    ping_ms: float | None  # median of PINGS; None: a reply is missing
    ssh: str  # "ok", or what went wrong

    @property
    def complete(self) -> bool:
        return self.ping_ms is not None and self.ssh == "ok"

    def as_json(self) -> dict:
        return {"from": self.source, "to": self.address, "ping_ms": self.ping_ms, "ssh": self.ssh}


def sources(lab: Lab) -> list[str]:
    """Who can reach floating IPs: nodes with an address on an external network, VMs that have one themselves (others
    come as their router, by Linux), and hosts outside."""
    external = {network.name for network in lab.topology.external_networks()}
    nodes = (name for name, node in lab.topology.nodes.items() if external & node.addresses.keys())
    return [*nodes, *(name for name in lab.vms if lab.topology.fips_of(name)), *lab.outside]


def run_in(lab: Lab, name: str) -> Callable:
    return (lab.nodes.get(name) or lab.vms.get(name) or lab.outside[name]).run


def ping(lab: Lab, source: str, address: str, count: int = PINGS) -> float | None:
    """Median round trip in milliseconds, or None if any reply is missing."""
    sent = send_pings(run_in(lab, source), address, count)
    return statistics.median(answer.milliseconds for answer in sent.answers) if sent.complete else None


def ssh(lab: Lab, source: str, address: str) -> str:
    """ "ok" if the VM that owns the address lets us in, shows its own host key and says its own name."""
    result = run_in(lab, source)(lab.keys.ssh_command(address, "hostname"), check=False, timeout=30)
    if result.returncode != 0:
        return (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
    owner, answer = lab.vm_of(address).name, result.stdout.strip()
    return "ok" if answer == owner else f"reached {answer}, not {owner}"


def run_matrix(
    lab: Lab,
    floating_ips: Sequence[str] | None = None,
    *,
    pings: int = PINGS,
    with_ssh: bool = True,
    done: Callable[[int, int], None] = lambda finished, total: None,
) -> list[Cell]:
    """Every source to every floating IP, a few at a time. `done` hears of progress."""
    targets = list(floating_ips or (fip for fip, row in lab.topology.floating_ips.items() if row.port in lab.vms))
    pairs = [(source, fip) for source in sources(lab) for fip in targets]
    return try_pairs(lab, pairs, pings=pings, with_ssh=with_ssh, done=done)


def run_east_west(lab: Lab, *, pings: int = PINGS, with_ssh: bool = True) -> list[Cell]:
    """Every VM to every other VM's fixed IP in a network that a router joins to its own, or in its own."""
    pairs = [
        (source.name, target.port.fixed_ip)
        for source in lab.vms.values()
        for target in lab.vms.values()
        if source is not target and lab.topology.are_joined(source.port.network, target.port.network)
    ]
    return try_pairs(lab, pairs, pings=pings, with_ssh=with_ssh)


def try_pairs(
    lab: Lab,
    pairs: Sequence[tuple[str, str]],
    *,
    pings: int = PINGS,
    with_ssh: bool = True,
    done: Callable[[int, int], None] = lambda finished, total: None,
) -> list[Cell]:
    """From a node or VM by name to an address of a VM."""
    finished: list[Cell] = []

    def one(pair: tuple[str, str]) -> Cell:
        cell = Cell(*pair, ping(lab, *pair, pings), ssh(lab, *pair) if with_ssh else "not tried")
        finished.append(cell)
        done(len(finished), len(pairs))
        return cell

    return in_parallel((lambda pair=pair: one(pair) for pair in pairs), workers=6)


def missing(cells: Sequence[Cell]) -> list[str]:
    return [
        f"{cell.source} -> {cell.address}: ping {'ok' if cell.ping_ms is not None else 'lost'}, ssh {cell.ssh}"
        for cell in cells
        if not cell.complete
    ]
