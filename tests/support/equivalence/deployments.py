# SPDX-License-Identifier: Apache-2.0
"""Which deployments are compared, and on which of their nodes. A new deployment is a line here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Deployment:
    name: str
    topology: Path
    nodes: tuple[str, ...]  # each of another role


DEPLOYMENTS = {
    item.name: item
    for item in (
        Deployment("dvr", ROOT / "examples" / "devstack-dvr-vxlan.yaml", ("primary",)),
        Deployment("dvr-ipv6", ROOT / "examples" / "devstack-dvr-vxlan-ipv6.yaml", ("primary",)),
        Deployment("east-west", ROOT / "examples" / "devstack-dvr-east-west.yaml", ("primary",)),
        Deployment("star", ROOT / "examples" / "devstack-star-vxlan.yaml", ("primary", "subnode1")),
        Deployment("legacy", ROOT / "examples" / "devstack-legacy-vxlan.yaml", ("primary", "subnode1")),
    )
}
