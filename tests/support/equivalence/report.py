# SPDX-License-Identifier: Apache-2.0
"""A difference as a person reads it: which packet, both outputs dissected, the first differing field, how to repeat."""

from __future__ import annotations

from collections import Counter

from equivalence.runner import Difference, Output
from frames import Ether, dissect, field_at

SHOWN = 3


def describe(difference: Difference, repeat: str) -> str:
    lines = [difference.case.describe()]
    for shot in [*difference.case.prime, *difference.case.shots]:
        lines.append(f"  sent at {shot.device}{' with ' + str(shot.header) if shot.header else ''}: {shot.frame.hex()}")
    missing, extra = list(difference.missing.elements()), list(difference.extra.elements())
    lines.append(f"  Linux sent {_places(difference.off)}; the fast path {_places(difference.on)}")
    for name, frame in missing[:SHOWN]:
        twin = next((other for place, other in extra if place == name), None)
        if twin is None:
            lines.append(f"--- missing at {name}\n{dissect(frame)}")
            continue
        extra.remove((name, twin))
        at = next((i for i, (a, b) in enumerate(zip(frame, twin)) if a != b), min(len(frame), len(twin)))
        lines.append(
            f"--- first difference at {name}, byte {at}: {field_at(Ether(frame), at)}; "
            f"lengths {len(frame)} (Linux), {len(twin)} (fast path)"
        )
        lines.append(f"--- Linux\n{dissect(frame)}\n--- fast path\n{dissect(twin)}")
    lines.extend(f"--- only with the fast path at {name}\n{dissect(frame)}" for name, frame in extra[:SHOWN])
    lines.append(f"repeat: {repeat} --only {difference.case.number}")
    return "\n".join(lines)


def summary_line(difference: Difference) -> str:
    line = f"{difference.case.describe()} | Linux {_places(difference.off)} | fast path {_places(difference.on)}"
    return line + "".join(f" | {name}: {changes(off, on)}" for name, off, on in _pairs(difference))


def changes(off: bytes, on: bytes) -> str:
    """Runs of bytes that differ: "offset: Linux > fast path"."""
    if len(off) != len(on):
        return f"{len(off)} > {len(on)} bytes"
    out, at = [], 0
    while at < len(off):
        end = at
        while end < len(off) and off[end] != on[end]:
            end += 1
        if end > at:
            out.append(f"{at}: {off[at:end].hex()} > {on[at:end].hex()}")
        at = end + 1
    return ", ".join(out)


def _pairs(difference: Difference) -> list[tuple[str, bytes, bytes]]:
    """What Linux sent with what the fast path sent in its place, where there is such a frame."""
    extra, out = list(difference.extra.elements()), []
    for name, frame in difference.missing.elements():
        twin = next((other for place, other in extra if place == name), None)
        if twin is not None:
            extra.remove((name, twin))
            out.append((name, frame, twin))
    return out


def _places(outputs: list[Output]) -> str:
    if not outputs:
        return "nothing"
    counts = Counter(name for name, _ in outputs)
    return ", ".join(f"{count} frame{'s' if count > 1 else ''} at {name}" for name, count in sorted(counts.items()))
