# SPDX-License-Identifier: Apache-2.0
"""Which path carried a packet: the counters of the nodes, before and after."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from typing import Iterator

from lab import Lab, LabNode
from measure import all_counts
from timing import scaled


class Handled:
    """Reasons (fast-path verdicts) that must have been counted on a node."""

    def __init__(self, *reasons: str, hook: str | None = None):
        self.reasons = reasons
        self.hook = hook


def counters(node: LabNode) -> Counter[tuple[str, str]]:
    """(hook, reason) -> packets."""
    return Counter({(row["hook"], row["reason"]): row["packets"] for row in node.status()["counters"]})


@contextlib.contextmanager
def handled(lab: Lab, wanted: dict[str, Handled]) -> Iterator[None]:
    """What happens inside must be counted as `wanted`, per node; with the fast path off, nothing may be counted."""
    before = {name: counters(lab.nodes[name]) for name in wanted}
    yield
    deadline = time.monotonic() + scaled(1.0)
    while True:
        complaints = [text for name, expected in wanted.items() for text in _check(lab, name, before[name], expected)]
        if not complaints or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    assert not complaints, "\n".join(complaints)


@contextlib.contextmanager
def carried_in_bpf(lab: Lab, packets: int) -> Iterator[None]:
    """What happens inside is more than `packets` packets of the overlay on every node, 99 % of them handled in BPF; with the
    fast path off none may be counted."""
    before = all_counts(lab)
    yield
    for name, now in all_counts(lab).items():
        spent = now - before[name]
        if lab.fast_path:
            assert spent.packets > packets and spent.share >= 0.99, f"{name}: {spent}"
        else:
            assert spent.packets == 0, f"{name}: the fast path is off, but {spent}"


def _check(lab: Lab, name: str, before: Counter, expected: Handled) -> list[str]:
    spent = counters(lab.nodes[name]) - before
    if not lab.fast_path:
        return [f"{name}: the fast path is off, but its programs counted {dict(spent)}"] if spent else []
    out = []
    for reason in expected.reasons:
        if not any(seen == reason and expected.hook in (None, hook) for hook, seen in spent):
            out.append(f"{name}: nothing was counted as {reason}; counted were {dict(spent)}")
    return out
