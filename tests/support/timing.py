# SPDX-License-Identifier: Apache-2.0
"""How long tests wait, on a machine that is slower than real ones: an emulated VM."""

from __future__ import annotations

import os

SCALE = float(os.environ.get("FIPLANE_TIME_SCALE", "1"))


def scaled(seconds: float) -> float:
    """A limit that fits a real machine, times FIPLANE_TIME_SCALE: how many times slower than one this machine is."""
    return seconds * SCALE
