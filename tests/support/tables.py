# SPDX-License-Identifier: Apache-2.0
"""Aligned text tables and progress lines; colours only on a terminal."""

from __future__ import annotations

import sys
import time
from typing import Sequence

CODES = {"green": "32", "red": "31", "bold": "1", "dim": "2"}


def colour(text: str, name: str) -> str:
    return f"\033[{CODES[name]}m{text}\033[0m" if sys.stdout.isatty() else text


def table(header: Sequence[str], rows: Sequence[Sequence[str]], bad: frozenset[tuple[int, int]] = frozenset()) -> str:
    """First column to the left, the others to the right. `bad`: (row, column) of cells to show in red."""
    widths = [max(len(str(row[i])) for row in (header, *rows)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> list[str]:
        return [
            str(cell).ljust(width) if i == 0 else str(cell).rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths))
        ]

    out = [colour("  ".join(line(header)).rstrip(), "bold")]
    for number, row in enumerate(rows):
        cells = [colour(cell, "red") if (number, i) in bad else cell for i, cell in enumerate(line(row))]
        out.append("  ".join(cells).rstrip())
    return "\n".join(out)


class Progress:
    """One line for each thing that happens, with the time since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, what: str) -> None:
        print(f"{colour(f'[{self.elapsed():6.1f} s]', 'dim')} {what}", flush=True)

    def elapsed(self) -> float:
        return time.monotonic() - self._start
