# SPDX-License-Identifier: Apache-2.0
"""The resolved topology as values: what `fiplane validate FILE -o json` prints."""

from __future__ import annotations

import ipaddress
import json
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from timing import scaled

VM_OWNER = "compute"


class TopologyError(RuntimeError):
    """fiplane refused the file; the text is what it said."""


@dataclass(frozen=True)
class Encapsulation:
    """What a type of tunnel is known by, whatever fiplane says."""

    prefix: str  # of its devices' names
    protocol: int  # in the outer IP header
    mtu: int  # of a network, if the underlay's is 1500

    @property
    def overhead(self) -> int:
        """What a tunnel takes of the underlay's MTU."""
        return 1500 - self.mtu


ENCAPSULATIONS = {
    "vxlan": Encapsulation("vxlan-", 17, 1450),
    "gre": Encapsulation("gre-", 47, 1458),
    "geneve": Encapsulation("gnv-", 17, 1450),
}
IPV6_EXTRA = 20  # bytes by which the outer header is longer than IPv4's


@dataclass(frozen=True)
class Node:
    name: str
    underlay_device: str
    underlay_address: str
    addresses: dict[str, str]  # network name -> "172.24.4.1/23", the node's own on the network's bridge
    macs: dict[str, str]  # network name -> MAC of that bridge
    physical_networks: dict[str, str]  # name -> device
    vif_type: str  # "bridge" or "macvtap": how VMs are attached


@dataclass(frozen=True)
class Network:
    name: str
    id: str
    external: bool
    bridge: str
    type: str  # "vxlan", "gre", "geneve", "vlan" or "flat"
    shape: str | None  # "mesh" or "star"; None: no tunnels
    hub: str | None
    segmentation_id: int | None  # None: flat
    physical_network: str | None  # of vlan and flat
    provider_devices: dict[str, str]  # of vlan and flat: node -> the bridge's port to the physical network, or the device
    # that macvtaps are on
    port: int | None  # UDP, of its tunnels; none of the other types
    device: str | None  # the one that leads to all other nodes
    tunnels: dict[tuple[str, str], tuple[str, int]]  # else from node to node: device, and VNI or key
    mtu: int
    gateways: tuple[str, ...]  # of its subnets: "172.24.4.1/23"
    underlay: int  # IP version between the nodes

    @property
    def encapsulation(self) -> Encapsulation:
        """KeyError for a network without tunnels."""
        over_ipv4 = ENCAPSULATIONS[self.type]
        return over_ipv4 if self.underlay == 4 else replace(over_ipv4, mtu=over_ipv4.mtu - IPV6_EXTRA)

    @property
    def vlan(self) -> int | None:
        """The tag of its frames on the physical network."""
        return self.segmentation_id if self.type == "vlan" else None

    def tunnel_id(self, node: str, peer: str) -> int:
        """VNI or key of the tunnel between two nodes; KeyError where there is none."""
        return self.tunnels[(node, peer)][1] if self.tunnels else self.segmentation_id

    def tunnel_ids(self) -> set[int]:
        if self.physical_network:
            return set()
        return {number for _, number in self.tunnels.values()} or {self.segmentation_id}

    def tunnel_devices(self, node: str) -> set[str]:
        """Those that a node may have; where the network is not, they are missing."""
        return {self.device} if self.device else {device for (at, _), (device, _) in self.tunnels.items() if at == node}

    def route(self, node: str, peer: str) -> list[tuple[str, str]]:
        """The tunnels that a frame passes from one node to another."""
        if self.hub in (None, node, peer):
            return [(node, peer)]
        return [(node, self.hub), (self.hub, peer)]


@dataclass(frozen=True)
class Port:
    name: str
    id: str
    owner: str
    network: str
    node: str | None
    router: str | None
    fixed_ip: str
    prefix_length: int
    gateway: str | None
    mac: str
    device: str | None  # None: a macvtap, which the hypervisor names
    mtu: int


@dataclass(frozen=True)
class Router:
    name: str
    id: str
    type: str  # "neutron", or "nova-network": the nodes themselves
    distributed: bool
    node: str | None
    external_network: str | None
    subnets: tuple[str, ...]

    @property
    def is_dvr(self) -> bool:
        return self.distributed and self.type == "neutron"

    @property
    def namespace(self) -> str:
        return f"qrouter-{self.id}"

    @property
    def snat_namespace(self) -> str:
        return f"snat-{self.id}"

    @property
    def rfp(self) -> str:
        return f"rfp-{self.id}"[:14]

    @property
    def fpr(self) -> str:
        return f"fpr-{self.id}"[:14]


@dataclass(frozen=True)
class FloatingIp:
    address: str
    network: str
    port: str | None  # None: a VM that the topology does not list
    fixed_ip: str
    router: str
    node: str | None  # where it lives: the VM's node, or the legacy router's


class Topology:
    """Everything by name, and the look-ups that tests need."""

    def __init__(self, data: dict):
        subnets = {subnet["name"]: subnet for network in data["networks"] for subnet in network["subnets"]}
        self.name: str = data["name"]
        self.vxlan_port: int = data["transport"]["port"]
        self.underlay_mtu: int = data["underlay_mtu"]
        self.physical_networks = {item["name"]: item["mtu"] for item in data["physical_networks"]}  # MTUs
        self.nodes = {node["name"]: _node(node) for node in data["nodes"]}
        (self.underlay_version,) = {ipaddress.ip_address(node.underlay_address).version for node in self.nodes.values()}
        self.networks = {item["name"]: _network(item, self.underlay_version) for item in data["networks"]}
        own_gateways = _own_gateways(data)
        self.ports = {item["name"]: _port(item, subnets, self.networks, own_gateways) for item in data["ports"]}
        self.routers = {item["name"]: _router(item) for item in data["routers"]}
        self.floating_ips = {item["floating_ip_address"]: _floating_ip(item) for item in data["floating_ips"]}

    @classmethod
    def load(cls, fiplane: Path, file: Path) -> Topology:
        result = subprocess.run(
            [str(fiplane), "validate", str(file), "-o", "json"], capture_output=True, text=True, timeout=scaled(30)
        )
        if result.returncode != 0:
            raise TopologyError(result.stderr.strip() or result.stdout.strip())
        return cls(json.loads(result.stdout))

    def vm_ports(self) -> list[Port]:
        return [port for port in self.ports.values() if port.owner == VM_OWNER and port.node is not None]

    def below_macvtap(self, port: Port) -> str | None:
        """The device of a VM's node that its macvtap is on (libvirt's source dev); None where VMs are in bridges."""
        assert port.node is not None
        if self.nodes[port.node].vif_type != "macvtap":
            return None
        return self.networks[port.network].provider_devices[port.node]

    def fips_of(self, port: str) -> list[str]:
        return [fip.address for fip in self.floating_ips.values() if fip.port == port]

    def external_networks(self) -> list[Network]:
        return [network for network in self.networks.values() if network.external]

    def router_of(self, address: str) -> Router:
        return self.routers[self.floating_ips[address].router]

    def node_of_fip(self, address: str) -> str:
        """The node whose MAC answers for a floating IP: the VM's, or the legacy router's."""
        node = self.floating_ips[address].node
        assert node is not None
        return node

    def gateway_port(self, node: str, network: str) -> Port:
        """The floating IP agent gateway (fg-) of a node."""
        for port in self.ports.values():
            if port.owner == "floatingip_agent_gateway" and port.node == node and port.network == network:
                return port
        raise KeyError(f"no agent gateway port on {node} for {network}")

    def snat_port(self, router: str, network: str) -> Port:
        """The SNAT port of a distributed router in a tenant network (sg-)."""
        for port in self.ports.values():
            if port.owner == "router_centralized_snat" and port.router == router and port.network == network:
                return port
        raise KeyError(f"router {router} has no SNAT port in {network}")

    def router_gateway(self, router: str) -> Port:
        """A router's own address outside (qg-)."""
        for port in self.ports.values():
            if port.owner == "router_gateway" and port.router == router:
                return port
        raise KeyError(f"router {router} has no gateway port")

    def router_port(self, router: str, network: str) -> Port:
        """The interface of a router in a tenant network (qr-)."""
        for port in self.ports.values():
            if port.owner.startswith("router_interface") and port.router == router and port.network == network:
                return port
        raise KeyError(f"router {router} has no interface in {network}")

    def are_joined(self, network: str, other: str) -> bool:
        """The same network, or two of which a router has an interface in each."""
        legs = [{port.network for port in self.ports.values() if port.owner.startswith("router_interface")
                 and port.router == router} for router in self.routers]
        return network == other or any({network, other} <= networks for networks in legs)

    def outside_gateways(self, network: Network) -> list[str]:
        """Gateways of a provider network, with prefix length, that no node and no router of the topology is."""
        own = {node.addresses.get(network.name) for node in self.nodes.values()}
        own |= {f"{port.fixed_ip}/{port.prefix_length}" for port in self.ports.values() if port.network == network.name}
        return [gateway for gateway in network.gateways if network.physical_network and gateway not in own]

    def underlay_prefix_length(self) -> int:
        """Of the smallest network that holds every node's underlay address, but at most what is usual: 24, or 64 of IPv6."""
        addresses = [int(ipaddress.ip_address(node.underlay_address)) for node in self.nodes.values()]
        length = 24 if self.underlay_version == 4 else 64
        while len({address >> (self.underlay_bits - length) for address in addresses}) > 1:
            length -= 1
        return length

    @property
    def underlay_bits(self) -> int:
        """Of an address: the prefix length of a single one."""
        return 32 if self.underlay_version == 4 else 128


def _owner(text: str) -> str:
    """What stands behind the colon of device_owner; every compute owner is VM_OWNER."""
    kind, _, detail = text.partition(":")
    return VM_OWNER if kind == "compute" else detail or kind


def _node(item: dict) -> Node:
    entries = item["addresses"]
    return Node(
        item["name"],
        item["underlay"]["device"],
        item["underlay"]["address"],
        {entry["network"]: entry["address"] for entry in entries},
        {entry["network"]: entry["mac"] for entry in entries},
        {entry["name"]: entry["device"] for entry in item["physical_networks"]},
        item["vif_type"],
    )


def _network(item: dict, underlay: int) -> Network:
    return Network(
        name=item["name"],
        id=item["id"],
        external=item["external"],
        bridge=item["bridge"],
        type=item["network_type"],
        shape=item["shape"],
        hub=item["hub"],
        segmentation_id=item["segmentation_id"],
        physical_network=item["physical_network"],
        provider_devices={entry["node"]: entry["device"] for entry in item["provider_devices"]},
        port=item["port"],
        device=item["tunnel_device"],
        tunnels={(end["node"], end["peer"]): (end["device"], end["segmentation_id"]) for end in item["tunnels"]},
        mtu=item["mtu"],
        gateways=tuple(
            f"{subnet['gateway_ip']}/{subnet['cidr'].split('/')[1]}" for subnet in item["subnets"] if subnet["gateway_ip"]
        ),
        underlay=underlay,
    )


def _own_gateways(data: dict) -> dict[tuple[str, str], str]:
    """(subnet, node) -> gateway, where each node routes for its own VMs: nova-network's multi-host."""
    networks = {subnet["name"]: network["name"] for network in data["networks"] for subnet in network["subnets"]}
    joined = [name for router in data["routers"] if router["type"] == "nova-network" and router["distributed"]
              for name in router["subnets"]]
    return {
        (name, node["name"]): entry["address"].split("/")[0]
        for name in joined for node in data["nodes"] for entry in node["addresses"] if entry["network"] == networks[name]
    }


def _port(
    item: dict, subnets: dict[str, dict], networks: dict[str, Network], own_gateways: dict[tuple[str, str], str]
) -> Port:
    return Port(
        name=item["name"],
        id=item["id"],
        owner=_owner(item["device_owner"]),
        network=item["network"],
        node=item["node"],
        router=item["router"],
        fixed_ip=item["fixed_ip"],
        prefix_length=item["prefix_length"],
        gateway=own_gateways.get((item["subnet"], item["node"]), subnets[item["subnet"]]["gateway_ip"]),
        mac=item["mac"],
        device=item["device"],
        mtu=networks[item["network"]].mtu,
    )


def _router(item: dict) -> Router:
    return Router(item["name"], item["id"], item["type"], item["distributed"], item["node"], item["external_network"],
                  tuple(item["subnets"]))  # fmt: skip


def _floating_ip(item: dict) -> FloatingIp:
    return FloatingIp(item["floating_ip_address"], item["network"], item["port"], item["fixed_ip"], item["router"],
                      item["node"])  # fmt: skip
