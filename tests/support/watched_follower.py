# SPDX-License-Identifier: Apache-2.0
"""A Follower, and what it and its programs hold in the kernel, also where there is no agent to ask."""

from __future__ import annotations

import json
import os
from pathlib import Path

from follower import Follower
from lab import wait_for
from namespaces import LabError

PINS = "/sys/fs/bpf/fiplane"
DEVICE_PROGRAM = "tc_router_port"


class WatchedFollower(Follower):
    """Agents may come one after the other; all of them write one log."""

    def wait_until_fast(self, floating_ips: set[str]) -> None:
        """These are carried by the programs, and no others."""
        def are_fast() -> bool:
            return floating_ips == {address for address, state in self.states().items() if state == "fast"}

        wait_for(f"{sorted(floating_ips)} to be fast", are_fast, 30)

    def reasons(self) -> dict[str, int]:
        """Packets by reason, at the routers' ports."""
        rows = json.loads(self.node.run(["bpftool", "-j", "map", "dump", "pinned", f"{PINS}/maps/fl_counters"]).stdout)
        result: dict[str, int] = {}
        for row in rows:
            values = [value["value"] for value in row["formatted"]["values"]]
            if values[0]["hook"] == "FL_HOOK_TC_ROUTER":
                reason = values[0]["reason"].removeprefix("FL_REASON_").lower()
                result[reason] = sum(value["packets"] for value in values)
        return result

    def rows(self) -> dict[str, int]:
        """How many each pinned map has."""
        maps = self.node.run(["ls", f"{PINS}/maps"]).stdout.split()
        command = "\n".join(f"bpftool -j map dump pinned {PINS}/maps/{name}" for name in maps)
        return {name: len(json.loads(line)) for name, line in zip(maps, self.node.run(command).stdout.splitlines(), strict=True)}

    def pins(self) -> list[str]:
        return sorted(self.node.run(["find", PINS]).stdout.split())

    def is_pinned(self) -> bool:
        """Is anything of fiplane left there?"""
        return self.node.run(["ls", PINS], check=False).returncode == 0

    def programs(self) -> tuple[int, int]:
        """Programs at devices, and links that hold them there: of this node alone, for other labs have some, too. They are
        those that call by this node's fl_stages."""
        stages = json.loads(self.node.run(["bpftool", "-j", "map", "show", "pinned", f"{PINS}/maps/fl_stages"]).stdout)["id"]
        programs = {program["id"] for program in json.loads(self.node.run(["bpftool", "-j", "prog", "show"]).stdout)
                    if program.get("name") == DEVICE_PROGRAM and stages in program.get("map_ids", ())}
        links = json.loads(self.node.run(["bpftool", "-j", "link", "show"]).stdout)
        return len(programs), sum(link.get("prog_id") in programs for link in links)

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self._pid}/fd"))

    def memory(self) -> int:
        """KiB in RAM."""
        status = Path(f"/proc/{self._pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))

    @property
    def _pid(self) -> int:
        if self.agent is None or self.agent.poll() is not None:
            raise LabError(f"there is no agent: see {self.log}")
        return self.agent.pid

    def complaints(self) -> list[str]:
        """What its log has of warnings and errors."""
        words = (" warning ", " error ", " critical ")
        return [line for line in self.log.read_text().splitlines() if any(word in line for word in words)]
