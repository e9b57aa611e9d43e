# SPDX-License-Identifier: Apache-2.0
"""One node of a Neutron cloud on this machine: its routers as NeutronFixture makes them, its VMs, and a host outside.

    with FixtureLab(cloud, "node1") as lab:
        lab.vms["vm1"].run(["ping", "-c", "1", lab.outside.address])

The node is a namespace; `eth1` is its NIC on the external network, with the outside host, which has that network's gateway
address, at the other end. VMs are namespaces with a veth to the node, on the bridge of their network. As with a Lab,
leaving the `with` block, an exception, SIGINT and SIGTERM remove everything, and what a killed process left behind goes
with the next lab.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import threading
from pathlib import Path
from types import MappingProxyType
from typing import Mapping

from namespaces import LabError, Namespace, StateDirectory, remove_lab, remove_leftovers
from neutron_cloud import Cloud, VmPort
from neutron_drivers import Driver, LinuxBridgeDriver, OpenVSwitchDriver
from neutron_fixture import NeutronFixture
from neutron_node import Script
from open_vswitch import NeutronBridges

EXTERNAL_DEVICE = "eth1"


class FixtureNode:
    """A node without an agent of ours: what NeutronFixture and the tests need of a LabNode."""

    def __init__(self, state: StateDirectory, name: str):
        self.name = name
        self.namespace = Namespace(state, name)
        self.run = self.namespace.run
        self.start = self.namespace.start

    def netns_path(self, name: str) -> str:
        """A namespace below this node's /run/netns, as the machine sees it."""
        return f"/proc/{self.namespace.pid}/root/run/netns/{name}"

    def command_in(self, netns: str, *argv: str | Path) -> list[str | Path]:
        """For run() and start(): the same, in a router's namespace."""
        return ["nsenter", f"--net=/run/netns/{netns}", "--", *argv]

    def run_in(self, netns: str, command: str, *, check: bool = True) -> str:
        """What a shell command prints in a router's namespace. Not by `ip netns exec`, which hides bpffs."""
        return self.run(self.command_in(netns, "sh", "-ec", command), check=check).stdout


class FixtureVm:
    """A VM that is there as soon as the node has its port's tap."""

    def __init__(self, state: StateDirectory, port: VmPort):
        self.port = port
        self.name = port.name
        self.address = port.address
        self.namespace = Namespace(state, port.name)
        self.run = self.namespace.run
        self.start = self.namespace.start

    def plug(self, fixture: NeutronFixture) -> None:
        port = self.port
        fixture.plug_vm(port.network_id, port.id, port.mac, port.mtu, self.namespace.pid)
        self.run(
            "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6\n"
            f"ip link set eth0 up; ip address add {port.address}/{port.prefix_length} dev eth0\n"
            f"ip route add default via {port.gateway}"
        )


class FixtureOutside:
    """The gateway of an external network, by its interface eth0."""

    def __init__(self, state: StateDirectory, name: str, address: str, prefix_length: int, mtu: int):
        self.name = name
        self.address = address
        self._prefix_length = prefix_length
        self._mtu = mtu
        self.namespace = Namespace(state, name)
        self.run = self.namespace.run
        self.start = self.namespace.start

    def connect(self, node: FixtureNode) -> None:
        mtu = f"mtu {self._mtu}"
        node.run(
            f"ip link add {EXTERNAL_DEVICE} {mtu} type veth peer name eth0 {mtu} netns {self.namespace.pid}\n"
            f"echo 1 > /proc/sys/net/ipv6/conf/{EXTERNAL_DEVICE}/disable_ipv6; ip link set {EXTERNAL_DEVICE} up"
        )
        self.run(
            "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6\n"
            f"ip link set eth0 up; ip address add {self.address}/{self._prefix_length} dev eth0"
        )


class FixtureLab:
    """`host`: the node, whose agent and VMs the cloud describes. `sync`: whether its routers are there from the beginning.
    `allocations`: files that are in the agent's state directory from before, by name. `driver`: linuxbridge or
    openvswitch-kernel. The cloud has exactly one external network."""

    def __init__(
        self,
        cloud: Cloud,
        host: str,
        *,
        sync: bool = True,
        announce: bool = True,
        allocations: Mapping[str, str] = MappingProxyType({}),
        driver: str = "linuxbridge",
    ):
        if os.geteuid() != 0:
            raise LabError("the lab needs root: it makes namespaces")
        self.cloud = cloud
        self.host = host
        self._sync = sync
        self._announce = announce
        self._allocations = allocations
        self._driver = driver
        self._running = contextlib.ExitStack()
        self.name = f"fixture-{os.getpid()}-{random.randrange(16**4):04x}"
        self._old_handler = None
        self._handler = lambda number, frame: sys.exit(128 + number)

    def __enter__(self) -> FixtureLab:
        try:
            self.open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind, value, traceback) -> None:
        self.close()

    def open(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._old_handler = signal.signal(signal.SIGTERM, self._handler)
        remove_leftovers()
        self.state = StateDirectory(self.name)
        (external,) = [network for network in self.cloud.networks if network.external]
        self.external_id = self.cloud.id(f"network/{external.name}")
        self.node = FixtureNode(self.state, self.host)
        gateway, length, mtu = external.gateway_ip, external.prefix_length, external.mtu
        self.outside = FixtureOutside(self.state, "outside", gateway, length, mtu)
        self.vms = {port.name: FixtureVm(self.state, port) for port in self.cloud.vm_ports(self.host)}
        for item in (self.node, self.outside, *self.vms.values()):
            item.namespace.wait_until_up()
        # Bridged packets pass no netfilter on their way: on nodes where they do, that is for another layer's rules.
        self.node.run("echo 0 > /proc/sys/net/bridge/bridge-nf-call-iptables || true")
        self.state_path = self.state.path / f"neutron-{self.host}"
        self.state_path.mkdir()
        for name, text in self._allocations.items():
            (self.state_path / name).write_text(text)
        self.fixture = NeutronFixture(
            self.node, self.host, lambda subnet_id: self.cloud.ports_by_subnet(subnet_id), self.state_path,
            mode=self.cloud.agent(self.host).mode, announce=self._announce, driver=self._make_driver,
        )
        self.outside.connect(self.node)
        self.fixture.attach_device(self.external_id, EXTERNAL_DEVICE)
        for vm in self.vms.values():
            vm.plug(self.fixture)
        if self._sync:
            self.change(self.cloud)

    def _make_driver(self, script: Script) -> Driver:
        if self._driver == "linuxbridge":
            return LinuxBridgeDriver(script)
        if self._driver != "openvswitch-kernel":
            raise LabError(f"no interface driver {self._driver} here (there are: linuxbridge, openvswitch-kernel)")
        return OpenVSwitchDriver(script, self._running.enter_context(NeutronBridges(self.node.namespace)))

    def change(self, cloud: Cloud) -> None:
        """From now on the node's routers are those of this cloud. Its VMs are those of the one before."""
        self.cloud = cloud
        self.fixture.sync(cloud.sync_routers(self.host))

    def run_in(self, netns: str, command: str, *, check: bool = True) -> str:
        return self.node.run_in(netns, command, check=check)

    def netns(self, router: str, prefix: str = "qrouter") -> str:
        return f"{prefix}-{self.cloud.id(f'router/{router}')}"

    @property
    def fip_netns(self) -> str:
        return f"fip-{self.external_id}"

    def close(self) -> None:
        if hasattr(self, "state"):
            try:
                self._running.close()
            finally:
                try:
                    remove_lab(self.state.path)
                finally:
                    for item in (*getattr(self, "vms", {}).values(), getattr(self, "outside", None), getattr(self, "node", None)):
                        if item is not None:
                            item.namespace.close()
                    del self.state
        # Another lab may have come later and still be there.
        if self._old_handler is not None and signal.getsignal(signal.SIGTERM) is self._handler:
            signal.signal(signal.SIGTERM, self._old_handler)
            self._old_handler = None
