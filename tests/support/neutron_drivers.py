# SPDX-License-Identifier: Apache-2.0
"""Neutron's interface drivers: how a router's device comes into its namespace, and what is at its other end on the node."""

from __future__ import annotations

from typing import Protocol

from neutron_cloud import Dict
from neutron_node import Script
from open_vswitch import NeutronBridges


class Driver(Protocol):
    """Adds commands to a script, which its user runs. `unplug` and `remove_all` are for a state that only partly is there."""

    def plug(self, port: Dict, device: str, netns: str) -> None:
        """A router's port, as a device in a namespace of /run/netns, which is up."""

    def unplug(self, port_id: str) -> None: ...

    def plug_guest(self, network_id: str, port_id: str, mac: str, mtu: int, device: str, pid: int) -> None:
        """A VM's NIC, in the namespace of a process; it is down."""

    def attach(self, network_id: str, device: str) -> None:
        """A NIC of the node becomes the network's way out."""

    def remove_all(self) -> None: ...


def tap_name(port_id: str) -> str:
    return f"tap{port_id[:11]}"


def add_tap(script: Script, tap: str, device: str, mac: str, mtu: int, netns: str, master: str = "") -> None:
    """A veth: `tap` on the node, which is up, and `device` in a namespace, by its file or a process, which is down."""
    script.add(
        f"ip link add {tap} mtu {mtu} type veth peer name {device} address {mac} mtu {mtu} netns {netns}",
        f"echo 1 > /proc/sys/net/ipv6/conf/{tap}/disable_ipv6; ip link set {tap}{master and f' master {master}'} up",
    )


class LinuxBridgeDriver:
    """linuxbridge: a veth from the namespace to `tap` in the network's `brq` bridge."""

    def __init__(self, script: Script):
        self._script = script
        self._taps: set[str] = set()
        self._bridges: set[str] = set()

    def bridge(self, network_id: str) -> str:
        name = f"brq{network_id[:11]}"
        if name not in self._bridges:
            self._bridges.add(name)
            self._script.add(
                f"ip link show {name} >/dev/null 2>&1 || ip link add {name} type bridge forward_delay 0 stp_state 0",
                f"echo 1 > /proc/sys/net/ipv6/conf/{name}/disable_ipv6; ip link set {name} up",
            )
        return name

    def plug(self, port: Dict, device: str, netns: str) -> None:
        self._plug(port["network_id"], port["id"], port["mac_address"], port["mtu"], device, f"/run/netns/{netns}")
        self._script.ip(netns, f"link set {device} up")

    def plug_guest(self, network_id: str, port_id: str, mac: str, mtu: int, device: str, pid: int) -> None:
        self._plug(network_id, port_id, mac, mtu, device, str(pid))

    def _plug(self, network_id: str, port_id: str, mac: str, mtu: int, device: str, netns: str) -> None:
        tap, bridge = tap_name(port_id), self.bridge(network_id)
        self._taps.add(tap)
        add_tap(self._script, tap, device, mac, mtu, netns, bridge)

    def unplug(self, port_id: str) -> None:
        tap = tap_name(port_id)
        self._taps.discard(tap)
        self._script.add(f"ip link del {tap}")

    def attach(self, network_id: str, device: str) -> None:
        self._script.add(f"ip link set {device} master {self.bridge(network_id)} up")

    def remove_all(self) -> None:
        for device in (*self._taps, *self._bridges):
            self._script.add(f"ip link del {device} 2>/dev/null || true")
        self._taps, self._bridges = set(), set()


class OpenVSwitchDriver:
    """openvswitch: an internal port of br-int, which is moved into the namespace, with the network's local VLAN as its tag.
    VMs are ports of br-int, too, as they are without the iptables firewall driver."""

    def __init__(self, script: Script, bridges: NeutronBridges):
        self._script = script
        self._bridges = bridges
        self._vlans: dict[str, int] = {}
        self._ports: dict[str, str] = {}
        self._taps: list[str] = []

    def _vlan(self, network_id: str) -> int:
        return self._vlans.setdefault(network_id, len(self._vlans) + 1)

    def _add(self, port_id: str, name: str, vlan: int, *interface: str) -> None:
        self._ports[port_id] = name
        settings = [*interface, f"external_ids:iface-id={port_id}"]
        command = self._bridges.command("add-port", "br-int", name, f"tag={vlan}", "--", "set", "interface", name, *settings)
        self._script.add(command)

    def plug(self, port: Dict, device: str, netns: str) -> None:
        mac, mtu = port["mac_address"], port["mtu"]
        self._add(port["id"], device, self._vlan(port["network_id"]), "type=internal")
        self._script.add(f"ip link set {device} address {mac}; ip link set {device} netns {netns}")
        self._script.ip(netns, f"link set {device} mtu {mtu} up")

    def unplug(self, port_id: str) -> None:
        name = self._ports.pop(port_id, None)
        if name:
            self._script.add(self._bridges.command("--if-exists", "del-port", "br-int", name))

    def plug_guest(self, network_id: str, port_id: str, mac: str, mtu: int, device: str, pid: int) -> None:
        tap = tap_name(port_id)
        self._taps.append(tap)
        add_tap(self._script, tap, device, mac, mtu, str(pid))
        self._add(port_id, tap, self._vlan(network_id))

    def attach(self, network_id: str, device: str) -> None:
        self._script.run()
        self._bridges.attach_external(device, self._vlan(network_id))

    def remove_all(self) -> None:
        for port_id in list(self._ports):
            self.unplug(port_id)
        self._script.add(*(f"ip link del {tap} 2>/dev/null || true" for tap in self._taps))
        self._taps = []
