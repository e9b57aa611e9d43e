# SPDX-License-Identifier: Apache-2.0
"""Differences from Linux that are known and documented (docs/datapath.md, KNOWN DIFFERENCES FROM LINUX).

Each names exactly which cases it is about and exactly how the outputs may differ. They are counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable

if TYPE_CHECKING:
    from equivalence.runner import Difference


@dataclass(frozen=True)
class Exempt:
    name: str
    trait: str  # of the case
    allowed: "Callable[[Difference], bool]"

    def covers(self, difference: "Difference") -> bool:
        return self.trait in difference.case.traits and self.allowed(difference)


EXCEPTIONS: tuple[Exempt, ...] = ()
