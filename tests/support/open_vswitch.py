# SPDX-License-Identifier: Apache-2.0
"""Open vSwitch in a namespace: ovsdb-server and ovs-vswitchd of its own, beside what the machine may run."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from typing import Self

from lab import wait_for
from namespaces import LabError, Namespace, end_processes

OVS_SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"


class OvsDaemons:
    """Their files are in a directory of their own. `datapath_type`: of bridges. system: in the kernel. netdev: in user space,
    for kernels without Open vSwitch's module; internal ports are tun devices then."""

    def __init__(self, namespace: Namespace, datapath_type: str = "system"):
        self.namespace = namespace
        self.directory = namespace.state.path / f"ovs-{namespace.name}"
        self.datapath_type = datapath_type
        self._options = ["--disable-system"] if datapath_type == "netdev" else []
        self._daemons: list[subprocess.Popen] = []

    def __enter__(self) -> Self:
        if self.datapath_type == "system" and (missing := missing_kernel_datapath()):
            raise LabError(missing)
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
        return self.namespace.run(self._vsctl(*arguments)).stdout

    def command(self, *arguments: str) -> str:
        """The same, for a shell."""
        return shlex.join(self._vsctl(*arguments))

    def _vsctl(self, *arguments: str) -> list[str]:
        return ["ovs-vsctl", f"--db={self.socket}", "--timeout=60", *arguments]

    def ofctl(self, command: str, bridge: str, argument: str) -> None:
        self.namespace.run(["ovs-ofctl", command, f"unix:{self.directory}/{bridge}.mgmt", argument])


class NeutronBridges(OvsDaemons):
    """br-int and br-ex as neutron-openvswitch-agent has them: a network is a local VLAN, and bridges learn (NORMAL). What that
    agent's flows do beyond this is about other nodes."""

    def __enter__(self) -> Self:
        super().__enter__()
        for bridge in ("br-int", "br-ex"):
            self.vsctl("add-br", bridge, "--", "set", "bridge", bridge, f"datapath_type={self.datapath_type}")
        self.namespace.run("ip link set br-int up; ip link set br-ex up")
        return self

    def attach_external(self, device: str, vlan: int) -> None:
        """A NIC of the node leads to an external network."""
        self.namespace.run(["ip", "link", "set", device, "up"])
        patch = [
            f"add-port {bridge} {name} -- set interface {name} type=patch options:peer={peer}".split()
            for bridge, name, peer in (("br-int", "int-br-ex", "phy-br-ex"), ("br-ex", "phy-br-ex", "int-br-ex"))
        ]
        tag = ["set", "port", "int-br-ex", f"tag={vlan}"]
        self.vsctl("add-port", "br-ex", device, "--", *patch[0], "--", *patch[1], "--", *tag)


def missing_kernel_datapath() -> str:
    """Why there is none, or nothing."""
    if shutil.which("ovs-vswitchd") is None:
        return "Open vSwitch is not installed (openvswitch-switch)"
    probe = subprocess.run(["modprobe", "--dry-run", "openvswitch"], capture_output=True, text=True, check=False)
    return "" if probe.returncode == 0 else "this kernel has no openvswitch module"
