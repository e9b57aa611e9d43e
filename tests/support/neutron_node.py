# SPDX-License-Identifier: Apache-2.0
"""What a Neutron L3 agent works with on a node: commands in namespaces, and two files of allocations."""

from __future__ import annotations

import ipaddress
import random
import shlex
import subprocess
from pathlib import Path
from typing import Any, Iterable, Protocol, Sequence

from namespaces import LabError
from neutron_cloud import Dict
from neutron_iptables import Iptables

DEVICE_NAME_LENGTH = 14
COMMAND_LENGTH = 100_000  # of one script on a command line; the kernel takes 128 KiB


class Place(Protocol):
    """A node: a LabNode, or anything with a network and mount namespace of its own."""

    def run(self, argv: Sequence[str | Path] | str, **options) -> subprocess.CompletedProcess[str]: ...


class Script:
    """Commands on a node, in their order: collected, and run when something needs their effect."""

    def __init__(self, node: Place):
        self._node = node
        self._lines: list[str] = []

    def add(self, *lines: str) -> None:
        self._lines += lines

    def ip(self, netns: str, command: str) -> None:
        self.add(f"ip -n {netns} {command}")

    def inside(self, netns: str, *commands: str) -> None:
        """Not by `ip netns exec`, which makes a mount namespace each time."""
        self.add(f"nsenter --net=/run/netns/{netns} sh -ec {shlex.quote('; '.join(commands))}")

    def sysctl(self, netns: str, **values: int) -> None:
        """Keys are paths below /proc/sys/net."""
        self.inside(netns, *(f"echo {value} > /proc/sys/net/{key}" for key, value in values.items()))

    def restore(self, netns: str, iptables: Iptables, whole: bool = False) -> None:
        """Writes a namespace's tables. `whole`: in place of all that is there, instead of the difference."""
        for command, text in (iptables.whole() if whole else iptables.changes()).items():
            self.run()
            self._node.run(["nsenter", f"--net=/run/netns/{netns}", *command.split()], stdin=text)

    def run(self) -> None:
        """Stops at the first command that fails; what the shell traced before is in the error."""
        lines, self._lines = self._lines, []
        while lines:
            count, length = 0, 0
            while count < len(lines) and (count == 0 or length + len(lines[count]) < COMMAND_LENGTH):
                length += len(lines[count]) + 1
                count += 1
            self._node.run("set -x\n" + "\n".join(lines[:count]))
            lines = lines[count:]


class Allocator:
    """What is given away by key and must be the same after a restart: one `key,value` on each line of a file."""

    def __init__(self, path: Path, pool: Iterable[Any], random_: random.Random):
        self._path = path
        self._random = random_
        lines = path.read_text().split() if path.exists() else []
        self._given = dict(line.split(",") for line in lines)
        self._pool = sorted(set(map(str, pool)) - set(self._given.values()))

    def allocate(self, key: str) -> str:
        if key not in self._given:
            if not self._pool:
                raise LabError(f"nothing left to allocate in {self._path}")
            self._given[key] = self._pool.pop(self._random.randrange(len(self._pool)))
            self._write()
        return self._given[key]

    def release(self, key: str) -> None:
        value = self._given.pop(key, None)
        if value is not None:
            self._pool.append(value)
            self._write()

    def _write(self) -> None:
        self._path.write_text("".join(f"{key},{value}\n" for key, value in self._given.items()))


def device_name(prefix: str, id: str) -> str:
    return f"{prefix}{id}"[:DEVICE_NAME_LENGTH]


def cidr(fixed_ip: Dict) -> str:
    return f"{fixed_ip['ip_address']}/{fixed_ip['prefixlen']}"


def link_local(mac: str) -> str:
    """The IPv6 address that the kernel makes of it (EUI-64)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + identifier))
