# SPDX-License-Identifier: Apache-2.0
"""Far ends of tunnels that are not fiplane's: devices that iproute2 makes, and Open vSwitch.

A far end lives in a node's namespace. It joins one tunnel to the peer with the devices that stand there already
(a VM's), as one L2 segment.
"""

from __future__ import annotations

import contextlib
import subprocess
from dataclasses import dataclass
from typing import Iterator

from lab import LabNode
from namespaces import LabError
from open_vswitch import OvsDaemons
from topology import Network

DEVICE = {"vxlan": "vxlan", "gre": "gretap", "geneve": "geneve"}
OPTION_CLASS, OPTION_TYPE = 0x0102, 1  # Open Virtual Networking's; a type below 0x80 may be ignored (RFC 8926)


@dataclass(frozen=True)
class Variant:
    """One way to set a tunnel up, and what its outer headers look like. `options`: iproute2's, or Open vSwitch's."""

    maker: str  # "iproute2" or "ovs"
    type: str
    options: str = ""
    checksum: bool = False  # of UDP
    df: bool = False
    inner_ttl: bool = False  # copied to the outer header; else it is 64
    sequence: bool = False  # numbers, of GRE
    option: bytes = b""  # of Geneve: one, with this data, of class OPTION_CLASS and type OPTION_TYPE
    left: str = ""  # why the programs leave the outer headers to the kernel's tunnel device; empty: they do not

    def __str__(self) -> str:
        return " ".join(filter(None, (self.maker, self.type, self.options, "with an option" if self.option else "")))


# As somebody would type it, and with what differs from that.
VARIANTS = [
    Variant("iproute2", "vxlan", "noudpcsum"),
    Variant("iproute2", "vxlan", checksum=True, left="outer_checksum"),
    Variant("iproute2", "gre", df=True, inner_ttl=True),
    Variant("iproute2", "gre", "oseq", df=True, inner_ttl=True, sequence=True, left="tunnel_header"),
    Variant("iproute2", "geneve"),
    Variant("iproute2", "geneve", "udpcsum", checksum=True, left="outer_checksum"),
    Variant("ovs", "vxlan", df=True),
    Variant("ovs", "gre", df=True),
    Variant("ovs", "geneve", df=True),
    Variant("ovs", "vxlan", "csum=true", df=True, checksum=True, left="outer_checksum"),
    Variant("ovs", "geneve", df=True, option=b"\xde\xad\xbe\xef", left="tunnel_header"),
]


def missing_kind(type: str) -> str:
    """Why the kernel cannot make a tunnel of a type; empty if it can."""
    identity = {"vxlan": "id 9 dstport 4789", "gre": "", "geneve": "id 9"}[type].split()
    probe = ["unshare", "--net", "ip", "link", "add", "probe", "type", DEVICE[type], *identity, "remote", "192.0.2.99"]
    result = subprocess.run(probe, capture_output=True, text=True, check=False)
    return "" if result.returncode == 0 else f"this kernel has no {DEVICE[type]} devices: {result.stderr.strip()}"


@contextlib.contextmanager
def iproute2_end(node: LabNode, peer: str, network: Network, variant: Variant, ports: list[str]) -> Iterator[None]:
    """A bridge and a tunnel device; no agent, no configuration of anything else."""
    local, device = node.node.underlay_address, DEVICE[variant.type]
    number = f"key {network.segmentation_id}" if variant.type == "gre" else f"id {network.segmentation_id}"
    where = f"remote {peer}" if variant.type == "geneve" else f"local {local} remote {peer}"
    port = "" if variant.type == "gre" else f"dstport {network.port}"
    node.run(
        f"ip link add far type {device} {number} {where} {port} {variant.options}\n"
        "ip link add far-br type bridge stp_state 0 mcast_snooping 0\n"
        "echo 1 > /proc/sys/net/ipv6/conf/far-br/disable_ipv6\n"
        "echo 1 > /proc/sys/net/ipv6/conf/far/disable_ipv6\n"
        f"ip link set far mtu {network.mtu} master far-br up\n"
        + "".join(f"ip link set {port} master far-br\n" for port in ports)
        + "ip link set far-br up"
    )
    try:
        yield
    finally:
        node.run("ip link del far; ip link del far-br")


class OpenVSwitch(OvsDaemons):
    """ovsdb-server and ovs-vswitchd with the kernel's datapath, in a node's namespace."""

    def __init__(self, node: LabNode):
        super().__init__(node.namespace)
        self.node = node

    @contextlib.contextmanager
    def end(self, peer: str, network: Network, variant: Variant, ports: list[str]) -> Iterator[None]:
        """A bridge that forwards as a learning switch, with a tunnel port."""
        options = [f"options:{key}={value}" for key, value in {
            "remote_ip": peer,
            "local_ip": self.node.node.underlay_address,
            "key": network.segmentation_id,
            **({} if network.port is None else {"dst_port": network.port}),
        }.items()]  # fmt: skip
        options += [f"options:{option}" for option in variant.options.split()]
        bridge = ["add-br", "far-br"]
        for port in ports:
            bridge += ["--", "add-port", "far-br", port]
        tunnel = ["--", "add-port", "far-br", "far", "--", "set", "interface", "far", f"type={variant.type}", *options]
        self.vsctl(*bridge, *tunnel)
        try:
            refused = self.vsctl("get", "interface", "far", "error").strip()
            if refused != "[]":
                raise LabError(f"Open vSwitch refuses the tunnel: {refused}")
            if variant.option:
                self._add_option("far-br", ports, variant.option)
            yield
        finally:
            self.vsctl("del-br", "far-br")

    def _add_option(self, bridge: str, ports: list[str], data: bytes) -> None:
        """To all that comes from these ports."""
        mapping = f"{{class={OPTION_CLASS:#x},type={OPTION_TYPE},len={len(data)}}}->tun_metadata0"
        self.ofctl("add-tlv-map", bridge, mapping)
        for port in ports:
            actions = f"set_field:0x{data.hex()}->tun_metadata0,NORMAL"
            self.ofctl("add-flow", bridge, f"priority=10,in_port={port},actions={actions}")
