# SPDX-License-Identifier: Apache-2.0
"""What has to be true of a bridge before a test may rely on it."""

from __future__ import annotations

import json

from lab import LabNode, wait_for
from namespaces import Namespace


def wait_until_forwarding(node: LabNode | Namespace, port: str, guest: Namespace) -> None:
    """Until frames pass between a guest's eth0 and the bridge of which the other end is a port. `up` returns before that: a
    kernel worker enables the port and eth0's queue (linkwatch_event), and what is sent earlier is lost."""
    def passes() -> bool:
        (near,) = json.loads(node.run(["bridge", "-j", "link", "show", "dev", port]).stdout)
        (far,) = json.loads(guest.run(["ip", "-j", "link", "show", "eth0"]).stdout)
        return (near["state"], far["operstate"]) == ("forwarding", "UP")

    wait_for(f"{port} to forward", passes, interval=0.01)
