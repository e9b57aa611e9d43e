# SPDX-License-Identifier: Apache-2.0
"""Open vSwitch in a namespace: ovsdb-server and ovs-vswitchd of its own, beside what the machine may run."""

from __future__ import annotations

import subprocess
from typing import Self

from lab import wait_for
from namespaces import Namespace, end_processes

OVS_SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"


class OvsDaemons:
    """Their files are in a directory of their own. `userspace`: there is no datapath in the kernel, so each bridge has to
    have datapath_type=netdev."""

    def __init__(self, namespace: Namespace, userspace: bool = False):
        self.namespace = namespace
        self.directory = namespace.state.path / f"ovs-{namespace.name}"
        self._options = ["--disable-system"] if userspace else []
        self._daemons: list[subprocess.Popen] = []

    def __enter__(self) -> Self:
        self.directory.mkdir(mode=0o700)
        database = self.directory / "conf.db"
        self.namespace.run(["ovsdb-tool", "create", database, OVS_SCHEMA])
        self._start("ovsdb-server", database, f"--remote=p{self.socket}")
        wait_for("ovsdb-server", (self.directory / "db.sock").exists)
        self.vsctl("--no-wait", "init")
        self._start("ovs-vswitchd", self.socket, *self._options)
        wait_for("ovs-vswitchd", lambda: list(self.directory.glob("ovs-vswitchd.*.ctl")))
        return self

    def __exit__(self, *exception) -> None:
        end_processes([daemon.pid for daemon in self._daemons])
        for daemon in self._daemons:
            daemon.wait()

    @property
    def socket(self) -> str:
        """The database's, as programs take it on their command line."""
        return f"unix:{self.directory}/db.sock"

    def _start(self, daemon: str, *arguments) -> None:
        environment = {"OVS_RUNDIR": str(self.directory), "OVS_LOGDIR": str(self.directory)}
        # Its log is one of the lab's, which are kept when a test fails.
        log = self.namespace.state.path / f"{daemon}-{self.namespace.name}.log"
        with open(log, "w") as file:
            self._daemons.append(
                self.namespace.start([daemon, *arguments], environment=environment, stdout=file, stderr=file)
            )

    def vsctl(self, *arguments: str) -> str:
        """Waits until ovs-vswitchd has done it (unless --no-wait)."""
        return self.namespace.run(["ovs-vsctl", f"--db={self.socket}", "--timeout=60", *arguments]).stdout

    def ofctl(self, command: str, bridge: str, argument: str) -> None:
        self.namespace.run(["ovs-ofctl", command, f"unix:{self.directory}/{bridge}.mgmt", argument])
