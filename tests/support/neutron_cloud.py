# SPDX-License-Identifier: Apache-2.0
"""A Neutron cloud in a few lines, and what the server of Neutron 21.0 (Zed) tells an L3 agent about it by RPC.

    cloud = Cloud(
        agents=[Agent("node1", "dvr", {"public": "203.0.113.10"})],
        networks=[Network("public", "203.0.113.0/24", external=True, mtu=1500), Network("red", "10.1.0.0/24")],
        vms=[Vm("vm1", "red", "10.1.0.11", "node1")],
        routers=[Router("r1", ["red"], "public", "203.0.113.20")],
        floating_ips=[FloatingIp("203.0.113.101", "vm1")],
    )
    cloud.sync_routers("node1")

Ids and MACs follow from the names and `seed`: the same description has the same ones every time. Clouds do not change;
`with_floating_ip()` and its like make others.
"""

from __future__ import annotations

import ipaddress
import uuid
from dataclasses import dataclass, field, replace
from typing import Any, Mapping, Sequence

Dict = dict[str, Any]

LEGACY, DVR, DVR_SNAT, DVR_NO_EXTERNAL = "legacy", "dvr", "dvr_snat", "dvr_no_external"
ROUTER_INTERFACE = "network:router_interface"
DISTRIBUTED_INTERFACE = "network:router_interface_distributed"
ROUTER_GATEWAY = "network:router_gateway"
CENTRALIZED_SNAT = "network:router_centralized_snat"
VRRP_INTERFACE = "network:router_ha_interface"
AGENT_GATEWAY = "network:floatingip_agent_gateway"
UNBOUND_HOST = "FLOATING_IP_HOST_UNBOUND"
NEEDS_BINDING = "FLOATING_IP_HOST_NEEDS_BINDING"


class CloudError(ValueError):
    """A description that no cloud can have."""


@dataclass(frozen=True)
class Agent:
    """An L3 agent. `gateways`: the address of its agent gateway port (fg-) on each external network."""

    host: str
    mode: str = DVR
    gateways: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Network:
    """A network with one subnet of that name. `gateway`: default is the first address. `more_subnets`: of the same network,
    in which no port of the description has an address. `address_scope`: name of the subnet pool's."""

    name: str
    cidr: str
    gateway: str | None = None
    mtu: int = 1450
    external: bool = False
    more_subnets: tuple[str, ...] = ()
    address_scope: str | None = None

    @property
    def ip_network(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network(self.cidr)

    @property
    def gateway_ip(self) -> str:
        return self.gateway or str(self.ip_network[1])

    @property
    def prefix_length(self) -> int:
        return self.ip_network.prefixlen


@dataclass(frozen=True)
class Vm:
    """A port of somebody's machine. `host`: None if it is bound to no host, as the address that several VMs share is.
    `more_addresses`: allowed address pairs with its own MAC."""

    name: str
    network: str
    address: str
    host: str | None
    more_addresses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Route:
    """An extra route."""

    destination: str
    nexthop: str


@dataclass(frozen=True)
class Router:
    """`networks`: those that it routes, with the gateway's address in each. `gateway`: its address on the external network.
    `host`: whose agent has the whole router (legacy) or its SNAT (distributed). `snat_addresses`: by network, of the ports
    of a distributed router's SNAT; default is the third address. `vrrp`: network and address of the host's port for VRRP, which
    makes a highly available router."""

    name: str
    networks: Sequence[str]
    external: str | None = None
    gateway: str | None = None
    distributed: bool = True
    enable_snat: bool = True
    host: str | None = None
    routes: Sequence[Route] = ()
    snat_addresses: Mapping[str, str] = field(default_factory=dict)
    vrrp: tuple[str, str] | None = None


@dataclass(frozen=True)
class FloatingIp:
    address: str
    vm: str


@dataclass(frozen=True)
class VmPort:
    """What a hypervisor knows of a VM's port."""

    name: str
    id: str
    network_id: str
    mac: str
    address: str
    prefix_length: int
    gateway: str
    mtu: int
    host: str | None


@dataclass(frozen=True)
class Cloud:
    """`ids` and `macs`: instead of those that follow from the seed, by key: network/NAME, subnet/NAME, router/NAME, and
    ports: vm/NAME, gateway/ROUTER, interface/ROUTER/NETWORK, snat/ROUTER/NETWORK, vrrp/ROUTER, agent/HOST/NETWORK."""

    agents: Sequence[Agent]
    networks: Sequence[Network]
    vms: Sequence[Vm]
    routers: Sequence[Router]
    floating_ips: Sequence[FloatingIp] = ()
    seed: str = "fiplane"
    ids: Mapping[str, str] = field(default_factory=dict)
    macs: Mapping[str, str] = field(default_factory=dict)

    # Changes

    def with_floating_ip(self, address: str, vm: str) -> Cloud:
        """Associates it; it moves if another VM has it."""
        others = self.without_floating_ip(address).floating_ips
        return replace(self, floating_ips=[*others, FloatingIp(address, vm)])

    def without_floating_ip(self, address: str) -> Cloud:
        return replace(self, floating_ips=[fip for fip in self.floating_ips if fip.address != address])

    def with_router(self, router: Router) -> Cloud:
        """Adds it, or has it instead of the one of that name."""
        others = [other for other in self.routers if other.name != router.name]
        return replace(self, routers=[*others, router])

    # Names

    def id(self, key: str) -> str:
        """Of the object that the key names: see `ids`. Also floatingip/ADDRESS, agent/HOST, scope/NAME, project."""
        return self.ids.get(key) or str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self.seed}/{key}"))

    def mac(self, key: str) -> str:
        digits = uuid.uuid5(uuid.NAMESPACE_OID, f"{self.seed}/mac/{key}").hex
        return self.macs.get(key) or f"fa:16:3e:{digits[0:2]}:{digits[2:4]}:{digits[4:6]}"

    def agent(self, host: str) -> Agent:
        return _named(self.agents, host, "host")

    def network(self, name: str) -> Network:
        return _named(self.networks, name)

    def router(self, name: str) -> Router:
        return _named(self.routers, name)

    def vm(self, name: str) -> Vm:
        return _named(self.vms, name)

    def vm_ports(self, host: str | None = None) -> list[VmPort]:
        """Of all VMs, or those of a host."""
        ports = []
        for vm in self.vms:
            if host in (None, vm.host):
                network, key = self.network(vm.network), f"vm/{vm.name}"
                ports.append(
                    VmPort(vm.name, self.id(key), self.id(f"network/{network.name}"), self.mac(key), vm.address,
                           network.prefix_length, network.gateway_ip, network.mtu, vm.host)
                )
        return ports

    def router_of(self, vm: Vm) -> Router:
        """The one by which a floating IP of the VM goes."""
        for router in self.routers:
            if vm.network in router.networks and router.external:
                return router
        raise CloudError(f"{vm.name} has no router with an external network")

    # What the server answers

    def sync_routers(self, host: str, router_ids: Sequence[str] | None = None) -> list[Dict]:
        """RPC sync_routers: the routers that the agent of a host is to have."""
        agent = self.agent(host)
        routers = [router for router in self.routers if self._is_for(router, agent)]
        return [self._router(router, agent) for router in routers
                if router_ids is None or self.id(f"router/{router.name}") in router_ids]

    def ports_by_subnet(self, subnet_id: str) -> list[Dict]:
        """RPC get_ports_by_subnet: all bound ports that have an address there, with their allowed address pairs."""
        ports = []
        for vm in self.vms:
            if vm.host is not None and self.id(f"subnet/{vm.network}") == subnet_id:
                ports.append(self._vm_port(vm))
        for router in self.routers:
            for name in router.networks:
                if self.id(f"subnet/{name}") == subnet_id:
                    ports.append(self._interface(router, name))
                    if router.distributed and router.external:
                        ports.append(self._snat_port(router, name))
        for port in ports:
            port.setdefault("allowed_address_pairs", [])
        return ports

    def agent_gateway_port(self, host: str, network_id: str) -> Dict:
        """RPC get_agent_gateway_port."""
        for network in self.networks:
            if self.id(f"network/{network.name}") == network_id:
                return self._agent_gateway(self.agent(host), network)
        raise CloudError(f"no network {network_id}")

    def _is_for(self, router: Router, agent: Agent) -> bool:
        if not router.distributed:
            return router.host == agent.host
        if agent.mode == LEGACY:
            return False
        serves = any(vm.host == agent.host and vm.network in router.networks for vm in self.vms)
        return serves or (agent.mode == DVR_SNAT and router.host == agent.host)

    def _router(self, router: Router, agent: Agent) -> Dict:
        project, id = self.id("project"), self.id(f"router/{router.name}")
        result: Dict = {
            "id": id,
            "name": router.name,
            "tenant_id": project,
            "project_id": project,
            "description": "",
            "admin_state_up": True,
            "status": "ACTIVE",
            "external_gateway_info": None,
            "gw_port_id": None,
            "gw_port_host": None,
            "distributed": router.distributed,
            "ha": router.vrrp is not None,
            "ha_vr_id": 1 if router.vrrp else 0,
            "availability_zone_hints": [],
            "availability_zones": ["nova"],
            "flavor_id": None,
            "routes": [{"destination": route.destination, "nexthop": route.nexthop} for route in router.routes],
            "revision_number": 1,
            "tags": [],
        }
        if router.external:
            port = self._gateway(router)
            addresses = [{key: item[key] for key in ("subnet_id", "ip_address")} for item in port["fixed_ips"]]
            result["external_gateway_info"] = {
                "network_id": port["network_id"],
                "external_fixed_ips": addresses,
                "enable_snat": router.enable_snat,
                "qos_policy_id": None,
            }
            result |= {"gw_port_id": port["id"], "gw_port": port, "gw_port_host": router.host,
                       "enable_snat": router.enable_snat}
            if agent.mode != LEGACY:
                snat = [self._snat_port(router, name) for name in router.networks] if router.distributed else []
                result["_snat_router_interfaces"] = snat
                result["_floatingip_agent_interfaces"] = [
                    self._agent_gateway(agent, self.network(name)) for name in agent.gateways
                ]
        if router.vrrp:
            result["_ha_interface"] = self._vrrp_port(router, *router.vrrp)
        if router.networks:
            result["_interfaces"] = [self._interface(router, name) for name in router.networks]
        floating_ips = self._floating_ips(router, agent)
        if floating_ips:
            result["_floatingips"] = floating_ips
        return result

    def _floating_ips(self, router: Router, agent: Agent) -> list[Dict]:
        """Without those of a distributed router that another agent has."""
        result = []
        for fip in self.floating_ips:
            vm = self.vm(fip.vm)
            if self.router_of(vm) != router:
                continue
            data = self._floating_ip(fip, vm, router)
            if agent.mode != LEGACY:
                data |= self._binding(vm, router, agent)
            if router.distributed:
                host = data.get("host", UNBOUND_HOST)
                centralized = data.get("dvr_snat_bound", False)
                if host == UNBOUND_HOST or (centralized and agent.mode != DVR_SNAT):
                    continue
                if host not in (NEEDS_BINDING, agent.host):
                    continue
            result.append(data)
        return result

    def _binding(self, vm: Vm, router: Router, agent: Agent) -> Dict:
        """Who is to have a floating IP: the host of its VM, or the router's SNAT if that has no agent that could."""
        if not router.distributed:
            return {"host": UNBOUND_HOST}
        if vm.host is None:
            return {"host": NEEDS_BINDING, "dvr_snat_bound": True}
        mode = self.agent(vm.host).mode
        if vm.host == agent.host:
            if mode == DVR_NO_EXTERNAL:
                return {"host": NEEDS_BINDING, "dest_host": None, "dvr_snat_bound": True}
            return {"host": vm.host, "dest_host": None}
        if mode == DVR_NO_EXTERNAL and agent.mode == DVR_SNAT:
            return {"host": NEEDS_BINDING, "dest_host": None, "dvr_snat_bound": True}
        return {"host": UNBOUND_HOST}

    def _floating_ip(self, fip: FloatingIp, vm: Vm, router: Router) -> Dict:
        project = self.id("project")
        return {
            "id": self.id(f"floatingip/{fip.address}"),
            "tenant_id": project,
            "project_id": project,
            "description": "",
            "floating_ip_address": fip.address,
            "floating_network_id": self.id(f"network/{router.external}"),
            "router_id": self.id(f"router/{router.name}"),
            "port_id": self.id(f"vm/{vm.name}"),
            "fixed_ip_address": vm.address,
            "fixed_ip_address_scope": self._scope(self.network(vm.network)),
            "status": "DOWN",
            "qos_policy_id": None,
            "revision_number": 1,
            "tags": [],
        }

    def _vm_port(self, vm: Vm) -> Dict:
        key, network = f"vm/{vm.name}", self.network(vm.network)
        port = self._port(key, network, vm.address, "compute:nova", str(uuid.uuid5(uuid.NAMESPACE_OID, key)), vm.host)
        mac = port["mac_address"]
        port["allowed_address_pairs"] = [{"ip_address": address, "mac_address": mac} for address in vm.more_addresses]
        return port

    def _gateway(self, router: Router) -> Dict:
        assert router.external is not None
        network = self.network(router.external)
        if not router.gateway:
            raise CloudError(f"{router.name} has no address on {network.name}")
        id, host = self.id(f"router/{router.name}"), router.host or ""
        return self._full(self._port(f"gateway/{router.name}", network, router.gateway, ROUTER_GATEWAY, id, host), network)

    def _interface(self, router: Router, name: str) -> Dict:
        """One port for all hosts if the router is distributed, with the same MAC on each."""
        network, id = self.network(name), self.id(f"router/{router.name}")
        owner = DISTRIBUTED_INTERFACE if router.distributed else ROUTER_INTERFACE
        host = "" if router.distributed else router.host or ""
        key = f"interface/{router.name}/{name}"
        return self._full(self._port(key, network, network.gateway_ip, owner, id, host), network)

    def _snat_port(self, router: Router, name: str) -> Dict:
        network, id = self.network(name), self.id(f"router/{router.name}")
        address = router.snat_addresses.get(name) or str(network.ip_network[3])
        port = self._port(f"snat/{router.name}/{name}", network, address, CENTRALIZED_SNAT, id, router.host or "")
        return self._full(port, network)

    def _vrrp_port(self, router: Router, name: str, address: str) -> Dict:
        network, id = self.network(name), self.id(f"router/{router.name}")
        port = self._port(f"vrrp/{router.name}", network, address, VRRP_INTERFACE, id, router.host or "")
        return self._full(port, network)

    def _agent_gateway(self, agent: Agent, network: Network) -> Dict:
        address = agent.gateways.get(network.name)
        if not address:
            raise CloudError(f"the agent of {agent.host} has no address on {network.name}")
        key = f"agent/{agent.host}/{network.name}"
        port = self._port(key, network, address, AGENT_GATEWAY, self.id(f"agent/{agent.host}"), agent.host)
        return self._full(port, network)

    def _port(self, key: str, network: Network, address: str, owner: str, device: str, host: str | None) -> Dict:
        project = self.id("project") if owner.startswith("compute:") or "interface" in owner else ""
        if ipaddress.IPv4Address(address) not in network.ip_network:
            raise CloudError(f"{key}: {address} is not in {network.cidr}")
        return {
            "id": self.id(key),
            "name": "",
            "network_id": self.id(f"network/{network.name}"),
            "tenant_id": project,
            "project_id": project,
            "mac_address": self.mac(key),
            "admin_state_up": True,
            "status": "ACTIVE",
            "device_id": device,
            "device_owner": owner,
            "fixed_ips": [{"subnet_id": self.id(f"subnet/{network.name}"), "ip_address": address}],
            "binding:host_id": host or "",
            "binding:vnic_type": "normal",
            "binding:profile": {},
            "binding:vif_type": "distributed" if owner == DISTRIBUTED_INTERFACE else "bridge",
            "binding:vif_details": {},
            "port_security_enabled": False,
            "security_groups": [],
            "description": "",
            "revision_number": 1,
            "tags": [],
        }

    def _full(self, port: Dict, network: Network) -> Dict:
        """With what the server adds for ports of routers."""
        for item in port["fixed_ips"]:
            item["prefixlen"] = network.prefix_length
        port["subnets"] = [self._subnet(network.name, network.cidr, network.gateway_ip)]
        port["extra_subnets"] = [
            self._subnet(f"{network.name}/{cidr}", cidr, str(ipaddress.IPv4Network(cidr)[1])) for cidr in network.more_subnets
        ]
        # JSON knows no other keys than strings.
        port["address_scopes"] = {"4": self._scope(network), "6": None}
        port["mtu"] = network.mtu
        return port

    def _subnet(self, key: str, cidr: str, gateway: str) -> Dict:
        return {
            "id": self.id(f"subnet/{key}"),
            "cidr": cidr,
            "gateway_ip": gateway,
            "dns_nameservers": [],
            "ipv6_ra_mode": None,
            "subnetpool_id": None,
        }

    def _scope(self, network: Network) -> str | None:
        return self.id(f"scope/{network.address_scope}") if network.address_scope else None


def _named(items: Sequence[Any], name: str, attribute: str = "name") -> Any:
    for item in items:
        if getattr(item, attribute) == name:
            return item
    raise CloudError(f"there is no {name}")
