# SPDX-License-Identifier: Apache-2.0
"""Distributed routers of a Neutron L3 agent: LocalRouter has the way by the fip namespace (agent mode dvr), EdgeRouter the
SNAT namespace as well (dvr_snat)."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from namespaces import LabError
from neutron_cloud import Dict
from neutron_iptables import Iptables
from neutron_node import cidr, device_name, link_local
from neutron_routers import AgentRouter, centralized_rules, external_scope

if TYPE_CHECKING:
    from neutron_fixture import NeutronFixture

FIP_TABLE = 16
FAST_PATH_EXIT_PRIORITY = 80000
# They have the gateway's address, on every host, and are in nobody's ARP table.
ROUTER_INTERFACES = {"network:router_interface", "network:router_interface_distributed", "network:ha_router_replicated_interface"}


class FipNamespace:
    """The fip namespace of an external network, which all distributed routers of the node share."""

    def __init__(self, agent: NeutronFixture, network_id: str):
        self.agent = agent
        self.network_id = network_id
        self.name = f"fip-{network_id}"
        self.iptables = Iptables()
        self.port: Dict | None = None

    @property
    def device(self) -> str:
        assert self.port is not None
        return device_name("fg-", self.port["id"])

    @property
    def gateways(self) -> list[tuple[str, str]]:
        """Gateway and subnet, of those subnets in which this node has an address."""
        assert self.port is not None
        return [(subnet["gateway_ip"], subnet["cidr"]) for subnet in self.port["subnets"] if subnet["gateway_ip"]]

    def create(self, port: Dict) -> None:
        if self.port is not None:
            return
        self.port, script = port, self.agent.script
        self.agent.create_namespace(self.name)
        script.sysctl(self.name, **{"ipv4/ip_nonlocal_bind": 1})
        self.iptables.v4["raw"].add("PREROUTING", "-j CT --notrack")
        script.restore(self.name, self.iptables)
        self.agent.driver.plug(port, self.device, self.name)
        for address in port["fixed_ips"]:
            script.ip(self.name, f"addr add {cidr(address)} brd + dev {self.device}")
        for subnet in port["extra_subnets"]:
            script.ip(self.name, f"route replace {subnet['cidr']} dev {self.device} scope link proto static")
        script.sysctl(self.name, **{f"ipv4/conf/{self.device}/proxy_arp": 1})

    def connect(self, router: LocalRouter) -> None:
        """The pair rfp-/fpr- between the router and this namespace, and this router's way out."""
        script, rfp, fpr = self.agent.script, router.rfp, router.fpr
        near, far = router.pair
        table = int(far)
        mtu = router.router["gw_port"]["mtu"]
        rfp_mac, fpr_mac = self.agent.random_mac(), self.agent.random_mac()
        script.ip(router.netns, f"link add {rfp} address {rfp_mac} type veth peer name {fpr} address {fpr_mac} netns {self.name}")
        for netns, device, own, other, other_mac in (
            (router.netns, rfp, near, far, fpr_mac),
            (self.name, fpr, far, near, rfp_mac),
        ):
            script.ip(netns, f"link set {device} mtu {mtu} up")
            script.ip(netns, f"addr add {own}/31 dev {device}")
            script.ip(netns, f"neigh replace {other} lladdr {other_mac} nud permanent dev {device}")
        for gateway, subnet in self.gateways:
            if ipaddress.IPv4Address(gateway) not in ipaddress.IPv4Network(subnet):
                script.ip(self.name, f"route replace {gateway} dev {self.device} scope link proto static")
            script.ip(self.name, f"route replace default via {gateway} dev {self.device} table {table} proto static")
            self.agent.announce(self.name, self.device, *(item["ip_address"] for item in self.port["fixed_ips"]))
        script.ip(self.name, f"rule add iif {fpr} lookup {table} priority {table}")
        script.ip(router.netns, f"route replace default via {far} dev {rfp} table {FIP_TABLE} proto static")
        script.ip(router.netns, f"-6 route replace default via {link_local(fpr_mac)} dev {rfp} proto static")

    def disconnect(self, router: LocalRouter) -> None:
        script, (_, far) = self.agent.script, router.pair
        table = int(far)
        script.ip(router.netns, f"route del default via {far} dev {router.rfp} table {FIP_TABLE}")
        script.ip(self.name, f"route flush table {table}")
        script.ip(self.name, f"rule del iif {router.fpr} lookup {table} priority {table}")
        self.agent.link_locals.release(router.id)
        script.ip(self.name, f"link del {router.fpr}")

    def delete(self) -> None:
        assert self.port is not None
        for router in self.agent.routers.values():
            if isinstance(router, LocalRouter) and router.connected_to is self:
                self.agent.script.ip(self.name, f"link del {router.fpr}")
                router.connected_to = None
        self.agent.driver.unplug(self.port["id"])
        self.agent.script.add(f"ip netns del {self.name}")
        self.port = None


class LocalRouter(AgentRouter):
    """A distributed router as each node has it: floating IPs of this node's VMs by the fip namespace, everything else to
    the SNAT namespace on another node."""

    def __init__(self, agent: NeutronFixture, router: Dict):
        super().__init__(agent, router)
        self.rfp = device_name("rfp-", self.id)
        self.fpr = device_name("fpr-", self.id)
        self.connected_to: FipNamespace | None = None
        self._priorities: dict[str, tuple[str, str]] = {}  # floating IP -> its rule's source and priority
        self._old_snat_ports: list[Dict] = []  # as process() left it: what goes is found there
        self._redirected: set[str] = set()  # ids of interfaces whose subnet goes to the SNAT namespace
        self._scope_rules: set[str] = set()  # subnets that are as valid outside, and so leave by the fip namespace

    @property
    def pair(self) -> tuple[ipaddress.IPv4Address, ipaddress.IPv4Address]:
        """The addresses of rfp- and fpr-."""
        network = ipaddress.IPv4Network(self.agent.link_locals.allocate(self.id))
        return network[0], network[1]

    def process(self, router: Dict) -> None:
        super().process(router)
        self._old_snat_ports = self._snat_ports()

    # Interfaces

    def _add_interface(self, port: Dict) -> None:
        super()._add_interface(port)
        device, subnets = device_name("qr-", port["id"]), {address["subnet_id"] for address in port["fixed_ips"]}
        for subnet_id in subnets:
            self._add_neighbours(device, subnet_id)
        external = self.router.get("gw_port")
        if external and scopes_match(port, external):
            self._add_scope_route(port)
        elif external:
            self._change_redirect("add", port, self._snat_ports())

    def _remove_interface(self, port: Dict) -> None:
        if self.gateway is not None and scopes_match(port, self.gateway):
            self._remove_scope_route(port)
        elif self.gateway is not None:
            self._change_redirect("del", port, self._old_snat_ports)
        super()._remove_interface(port)

    def _add_neighbours(self, device: str, subnet_id: str) -> None:
        """Nobody is asked by ARP, for each node would answer for the others' routers."""
        for port in self.agent.ports_by_subnet(subnet_id):
            if port["device_owner"] in ROUTER_INTERFACES:
                continue
            mac = port["mac_address"]
            neighbours = [(item["ip_address"], mac) for item in port["fixed_ips"] if item["subnet_id"] == subnet_id]
            for pair in port.get("allowed_address_pairs", []):
                if "/" not in pair["ip_address"].removesuffix("/32"):
                    neighbours.append((pair["ip_address"].removesuffix("/32"), pair["mac_address"]))
            for address, mac in neighbours:
                self.set_neighbour(device, address, mac)
        for port in self._snat_ports():
            for item in port["fixed_ips"]:
                if item["subnet_id"] == subnet_id:
                    self.set_neighbour(device, item["ip_address"], port["mac_address"])

    def set_neighbour(self, device: str, address: str, mac: str | None) -> None:
        """`mac`: None if there is none any more."""
        if mac is None:
            self.script.ip(self.netns, f"neigh del {address} dev {device}")
        else:
            self.script.ip(self.netns, f"neigh replace {address} lladdr {mac} nud permanent dev {device}")

    # SNAT elsewhere

    def _snat_ports(self) -> list[Dict]:
        return self.router.get("_snat_router_interfaces", [])

    def _change_redirect(self, verb: str, port: Dict, snat_ports: list[Dict]) -> None:
        snat_port = in_subnets_of(port, snat_ports)
        if snat_port is None or (verb == "add") == (port["id"] in self._redirected):
            return
        self._redirected ^= {port["id"]}
        device = device_name("qr-", port["id"])
        for address in port["fixed_ips"]:
            index = int(ipaddress.IPv4Address(address["ip_address"]))
            gateway = snat_port["fixed_ips"][0]["ip_address"]
            route = "replace" if verb == "add" else verb
            self.script.ip(self.netns, f"route {route} default via {gateway} dev {device} table {index} proto static")
            self.script.ip(self.netns, f"rule {verb} from {cidr(address)} lookup {index} priority {index}")
            if verb == "add":
                self.script.sysctl(self.netns, **{f"ipv4/conf/{device}/send_redirects": 0})

    # One address scope inside and outside

    def _add_scope_route(self, port: Dict) -> None:
        for subnet in port["subnets"]:
            self._change_scope_rule("add", subnet["cidr"])
            if self.connected_to:
                route = f"{subnet['cidr']} via {self.pair[0]} dev {self.fpr}"
                self.script.ip(self.connected_to.name, f"route replace {route} proto static")

    def _remove_scope_route(self, port: Dict) -> None:
        for subnet in port["subnets"]:
            if self.connected_to:
                self.script.ip(self.connected_to.name, f"route del {subnet['cidr']} via {self.pair[0]}")
            self._change_scope_rule("del", subnet["cidr"])

    def _change_scope_rule(self, verb: str, subnet: str) -> None:
        if (verb == "add") == (subnet in self._scope_rules):
            return
        self._scope_rules ^= {subnet}
        rule = f"from {subnet} lookup {FIP_TABLE} priority {FAST_PATH_EXIT_PRIORITY}"
        self.script.ip(self.netns, f"rule {verb} {rule}")

    # External network

    def external_device(self) -> str | None:
        return self.rfp if self.connected_to else None

    def _process_external(self) -> None:
        port = self.router.get("gw_port")
        if port:
            fip_namespace = self.agent.fip_namespace(port["network_id"])
            agent_ports = self.router.get("_floatingip_agent_interfaces", [])
            mine = next((item for item in agent_ports if item["network_id"] == port["network_id"]), None)
            if mine is None:
                raise LabError(f"router {self.id} came without this node's agent gateway port")
            fip_namespace.create(mine)
            if self.connected_to is None:
                fip_namespace.connect(self)
                self.connected_to = fip_namespace
                for interface in self.interfaces:
                    if scopes_match(interface, port):
                        self._add_scope_route(interface)
        super()._process_external()

    def _process_gateway(self, port: Dict | None) -> None:
        """The rules of subnets that were as valid outside outlive the gateway, until the next change."""
        if not port and self.gateway is None:
            for subnet in sorted(self._scope_rules):
                self._change_scope_rule("del", subnet)
        super()._process_gateway(port)

    def _add_gateway(self, port: Dict) -> None:
        self.script.sysctl(self.netns, **{"ipv4/conf/all/send_redirects": 0})
        for interface in self.interfaces:
            if not scopes_match(interface, port):
                self._change_redirect("add", interface, self._snat_ports())
            snat_port = in_subnets_of(interface, self._snat_ports())
            for address in snat_port["fixed_ips"] if snat_port else ():
                device = device_name("qr-", interface["id"])
                self.set_neighbour(device, address["ip_address"], snat_port["mac_address"])

    def _remove_gateway(self, port: Dict) -> None:
        self._write_floating_nat()
        self.script.restore(self.netns, self.iptables)
        for fip in self.floating.values():
            self._remove_floating(fip)
        self.floating = {}
        if self.connected_to:
            self.connected_to.disconnect(self)
            self.connected_to = None
        for interface in self.interfaces:
            if not scopes_match(interface, port):
                self._change_redirect("del", interface, self._old_snat_ports)

    def _write_snat(self, port: Dict | None) -> None:
        """A router that has floating IPs here translates what goes to the fip namespace, and nothing else."""
        nat = self.iptables.v4["nat"]
        nat.empty("POSTROUTING")
        nat.empty("snat")
        if port and self.connected_to and self.floating_ips():
            nat.add("snat", "-j $float-snat")
            nat.add("POSTROUTING", f"! -o {self.rfp} -m conntrack ! --ctstate DNAT -j ACCEPT")

    # Floating IPs

    def _floating_rules(self, fip: Dict) -> list[tuple[str, str]]:
        if fip.get("dvr_snat_bound"):
            return []
        inward, _, outward = centralized_rules(fip)
        return [(inward[0], inward[1].replace(" -j ", f" -i {self.rfp} -j ")), outward]

    def _add_floating(self, fip: Dict) -> None:
        if fip.get("dvr_snat_bound") or self.agent.host not in (fip.get("host"), fip.get("dest_host")):
            return
        assert self.connected_to is not None
        address = fip["floating_ip_address"]
        self._add_rule(address, fip["fixed_ip_address"])
        self.script.ip(self.connected_to.name, f"route replace {address} via {self.pair[0]} dev {self.fpr} proto static")
        self.agent.announce(self.connected_to.name, self.connected_to.device, address)

    def _move_floating(self, fip: Dict) -> None:
        address = fip["floating_ip_address"]
        self._remove_rule(address)
        self._add_rule(address, fip["fixed_ip_address"])

    def _remove_floating(self, fip: Dict) -> None:
        address = fip["floating_ip_address"]
        if address not in self._priorities:
            return
        assert self.connected_to is not None
        self._remove_rule(address)
        self.script.ip(self.connected_to.name, f"route del {address} via {self.pair[0]} dev {self.fpr}")
        self._forget_connections(self.connected_to.name, address)

    def _add_rule(self, address: str, fixed: str) -> None:
        priority = self.agent.fip_priorities.allocate(address)
        self._priorities[address] = fixed, priority
        self.script.ip(self.netns, f"rule add from {fixed} lookup {FIP_TABLE} priority {priority}")

    def _remove_rule(self, address: str) -> None:
        fixed, priority = self._priorities.pop(address)
        self.script.ip(self.netns, f"rule del from {fixed} lookup {FIP_TABLE} priority {priority}")
        self.agent.fip_priorities.release(address)

    # Address scopes

    def _device_marks(self) -> dict[str, str]:
        marks, port = self._marks(self.router.get("_interfaces", []), "qr-"), self.router.get("gw_port")
        if port and self.connected_to:
            marks[self.rfp] = self._scope_mark(external_scope(port))
        return marks

    def _floating_scope_rules(self, fip: Dict, mark: str) -> list[tuple[str, str]]:
        inward, outward = super()._floating_scope_rules(fip, mark)
        return [(inward[0], inward[1].replace(" -j ", f" -i {self.rfp} -j ")), outward]

    # Extra routes

    def _change_route(self, verb: str, destination: str, hop: str) -> None:
        """Also for what comes from the router into the fip namespace, if the next hop is outside."""
        fip_namespace = self.connected_to
        if fip_namespace and fip_namespace.port:
            networks = [ipaddress.IPv4Interface(cidr(item)).network for item in fip_namespace.port["fixed_ips"]]
            if any(ipaddress.IPv4Address(hop) in network for network in networks):
                table = int(self.pair[1])
                self.script.ip(fip_namespace.name, f"route {verb} {destination} via {hop} table {table} proto boot || true")
        super()._change_route(verb, destination, hop)


class EdgeRouter(LocalRouter):
    """A distributed router on a node that may have its SNAT: then with the namespace in which the gateway port is, and
    floating IPs that no node of their VMs could have."""

    def __init__(self, agent: NeutronFixture, router: Dict):
        super().__init__(agent, router)
        self.snat_netns = f"snat-{self.id}"
        self.snat_iptables: Iptables | None = None
        self._has_netns = False
        self._sg_ports: list[str] = []  # ids of those that are plugged
        self._centralized: dict[str, str] = {}  # floating IPs on qg- -> its device

    @property
    def has_snat(self) -> bool:
        return self.router.get("gw_port_host") == self.agent.host

    def all_iptables(self) -> list[tuple[str, Iptables]]:
        here = super().all_iptables()
        return [*here, (self.snat_netns, self.snat_iptables)] if self.snat_iptables else here

    def initialize(self) -> None:
        if self.has_snat:
            self._create_snat_namespace()
        super().initialize()

    def _create_snat_namespace(self) -> None:
        if not self._has_netns:
            self.agent.create_namespace(self.snat_netns)
            self.script.sysctl(self.snat_netns, **{"ipv4/ip_nonlocal_bind": 0, "netfilter/nf_conntrack_tcp_loose": 0})
            self._has_netns = True

    def delete(self) -> None:
        super().delete()
        self._remove_snat_namespace()

    def _add_interface(self, port: Dict) -> None:
        super()._add_interface(port)
        snat_port = in_subnets_of(port, self._snat_ports())
        if self.has_snat and self._has_netns and snat_port:
            self._plug_snat_port(snat_port)

    def _remove_interface(self, port: Dict) -> None:
        super()._remove_interface(port)
        snat_port = in_subnets_of(port, self._old_snat_ports)
        if snat_port and snat_port["id"] in self._sg_ports:
            self._sg_ports.remove(snat_port["id"])
            self.agent.driver.unplug(snat_port["id"])

    def _plug_snat_port(self, port: Dict) -> None:
        if port["id"] not in self._sg_ports:
            self._sg_ports.append(port["id"])
            self._plug(port, device_name("sg-", port["id"]), self.snat_netns)

    def _add_gateway(self, port: Dict) -> None:
        super()._add_gateway(port)
        if not self.has_snat:
            return
        self._create_snat_namespace()
        for snat_port in self._snat_ports():
            self._plug_snat_port(snat_port)
        self._plug_gateway(port, self.snat_netns)
        self.snat_iptables = Iptables()
        self.snat_iptables.add_address_scopes()

    def _remove_gateway(self, port: Dict) -> None:
        super()._remove_gateway(port)
        if self._has_netns:
            self.agent.driver.unplug(port["id"])
            self._remove_snat_namespace()

    def _remove_snat_namespace(self) -> None:
        if not self._has_netns:
            return
        for port_id in self._sg_ports:
            self.agent.driver.unplug(port_id)
        self.script.add(f"ip netns del {self.snat_netns}")
        self._sg_ports, self._has_netns, self.snat_iptables, self._centralized = [], False, None, {}

    def _write_snat(self, port: Dict | None) -> None:
        super()._write_snat(port)
        if port and self.snat_iptables:
            self._write_gateway_rules(self.snat_iptables, port)
            self.script.restore(self.snat_netns, self.snat_iptables)

    def _write_floating_nat(self) -> None:
        if self.snat_iptables:
            self._write_centralized()
        super()._write_floating_nat()

    def _write_centralized(self) -> None:
        assert self.snat_iptables is not None
        nat = self.snat_iptables.v4["nat"]
        nat.clear("floating_ip")
        for fip in self.floating_ips():
            if fip.get("dvr_snat_bound"):
                for chain, rule in centralized_rules(fip):
                    nat.add(chain, rule, "floating_ip")
        self.script.restore(self.snat_netns, self.snat_iptables)

    def _add_floating(self, fip: Dict) -> None:
        port = self.router.get("gw_port")
        if fip.get("dvr_snat_bound") and self.snat_iptables and port:
            address, device = fip["floating_ip_address"], device_name("qg-", port["id"])
            self._centralized[address] = device
            self._add_host_address(self.snat_netns, device, address)
        else:
            super()._add_floating(fip)

    def _move_floating(self, fip: Dict) -> None:
        """Between the two ways, it is removed and added; an agent leaves parts of the old way behind then."""
        was, is_ = fip["floating_ip_address"] in self._centralized, bool(fip.get("dvr_snat_bound"))
        if was or is_:
            if was != is_:
                self._remove_floating(fip)
                self._add_floating(fip)
        else:
            super()._move_floating(fip)

    def _remove_floating(self, fip: Dict) -> None:
        device = self._centralized.pop(fip["floating_ip_address"], None)
        if device:
            self._remove_host_address(self.snat_netns, device, fip["floating_ip_address"])
        else:
            super()._remove_floating(fip)

    def _process_address_scopes(self) -> None:
        super()._process_address_scopes()
        port = self.router.get("gw_port")
        if self.snat_iptables and port:
            self._write_scopes(self.snat_iptables, self._marks(self._snat_ports(), "sg-") | self._marks([port], "qg-"))
            self.script.restore(self.snat_netns, self.snat_iptables)

    def _change_route(self, verb: str, destination: str, hop: str) -> None:
        if self._has_netns and self.router.get("gw_port"):
            self.script.ip(self.snat_netns, f"route {verb} {destination} via {hop} proto static || true")
        super()._change_route(verb, destination, hop)


def in_subnets_of(port: Dict, others: list[Dict]) -> Dict | None:
    """The first of the other ports that has an address in a subnet of this one."""
    subnets = {address["subnet_id"] for address in port["fixed_ips"]}
    for other in others:
        if subnets & {address["subnet_id"] for address in other["fixed_ips"]}:
            return other
    return None


def scopes_match(port: Dict, external: Dict) -> bool:
    """Whether a subnet's addresses are valid outside."""
    scope = port["address_scopes"]["4"]
    return scope is not None and scope in external["address_scopes"].values()
