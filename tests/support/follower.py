# SPDX-License-Identifier: Apache-2.0
"""fiplane's agent on a node with routers that somebody else built.

    with Follower(lab.node, build, directory) as follower:
        before = follower.counters()
        ...
        assert follower.share(before) >= 0.99
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

from lab import wait_for
from namespaces import LabError
from timing import scaled

COUNTED = ("fast", "slow", "drop")


class Follower:
    """`node`: has run() and start(), like a Namespace. `directory`: for the agent's log."""

    def __init__(self, node, build: Path, directory: Path):
        self.node = node
        self.fiplane = build / "fiplane"
        self.log = directory / "fiplane-agent.log"
        self.agent: subprocess.Popen | None = None

    def __enter__(self) -> Follower:
        self.start()
        return self

    def __exit__(self, *exception) -> None:
        if self.agent is not None:
            self.stop()

    def start(self, *arguments: str) -> None:
        """Returns when programs are attached and the tables are written."""
        command = [self.fiplane, "agent", "--follow", "neutron", "--log-level", "debug", *arguments]
        with open(self.log, "a") as log:
            self.agent = self.node.start(command, stdout=log, stderr=log)
        wait_for("fiplane's agent", self._is_ready)

    def _is_ready(self) -> bool:
        assert self.agent is not None
        if self.agent.poll() is not None:
            raise LabError(f"fiplane's agent ended:\n{self.log.read_text()[-2000:]}")
        return self.node.run([self.fiplane, "status", "-o", "json"], check=False).returncode == 0

    def stop(self, number: int = signal.SIGTERM) -> None:
        assert self.agent is not None
        self.agent.send_signal(number)
        self.agent.wait(timeout=scaled(30))
        self.agent = None

    def ask(self, *words: str) -> dict[str, Any]:
        return json.loads(self.node.run([self.fiplane, *words, "-o", "json"]).stdout)

    def status(self) -> dict[str, Any]:
        return self.ask("status")

    def states(self) -> dict[str, str]:
        """Of floating IPs: "fast", or the reasons."""
        rows = self.status()["floating_ips"]
        return {row["floating_ip"]: row["state"] if row["state"] == "fast" else _reasons(row) for row in rows}

    def switch(self, state: str) -> None:
        self.node.run([self.fiplane, "fast-path", state])

    def counters(self) -> Counter[str]:
        """Packets by reason, of those that count: fast, slow and dropped ones."""
        rows = self.status()["counters"]
        return Counter({(row["class"], row["reason"]): row["packets"] for row in rows if row["class"] in COUNTED})

    def share(self, before: Counter[str]) -> float:
        """Of packets that BPF finished since then."""
        gone = self.counters() - before
        fast = sum(packets for (kind, _), packets in gone.items() if kind == "fast")
        return fast / gone.total() if gone else 0.0

    def collect(self, directory: Path) -> None:
        """Writes the log and what `status` and every `explain` say for whoever looks at a failure."""
        directory.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.log, directory)
        text = self.node.run([self.fiplane, "status"], check=False).stdout
        if self.agent is not None:
            for fip in self.states():
                text += self.node.run([self.fiplane, "explain", fip], check=False).stdout
        (directory / "fiplane.txt").write_text(text)


def _reasons(row: dict[str, Any]) -> str:
    return " | ".join(text for text in (row["reason_in"], row["reason_out"]) if text)
