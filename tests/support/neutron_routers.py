# SPDX-License-Identifier: Apache-2.0
"""A Neutron L3 agent's routers on a node, each made from its dictionary, step by step in the agent's order.

A router's class says where things are: AgentRouter has everything in one namespace (legacy), LocalRouter adds the way by
the fip namespace (distributed, agent mode dvr), EdgeRouter adds the SNAT namespace (dvr_snat). A highly available one
would be another subclass, which leaves addresses and routes to somebody else.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from typing import TYPE_CHECKING, Iterable

from namespaces import LabError
from neutron_cloud import Dict
from neutron_iptables import MARK_MASK, SAVE_SCOPE, SCOPE_MASK, Iptables
from neutron_node import cidr, device_name, link_local

if TYPE_CHECKING:
    from neutron_fixture import NeutronFixture

FIP_TABLE = 16
FAST_PATH_EXIT_PRIORITY = 80000
FIRST_SCOPE_MARK = 1024
METADATA4, METADATA6 = "169.254.169.254/32", "fe80::a9fe:a9fe/128"
METADATA_PORT = 9697
METADATA_MARK, EXTERNAL_MARK = f"0x1/{MARK_MASK}", f"0x2/{MARK_MASK}"
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


class AgentRouter:
    """A router that is on one node alone: the external network's port, its floating IPs and SNAT are in the router's
    namespace."""

    def __init__(self, agent: NeutronFixture, router: Dict):
        self.agent = agent
        self.script = agent.script
        self.router = router
        self.id: str = router["id"]
        self.netns = f"qrouter-{self.id}"
        self.interfaces: list[Dict] = []
        self.gateway: Dict | None = None  # the gateway port that is plugged
        self.floating: dict[str, Dict] = {}  # those that have their addresses or routes, by address
        self.routes: list[Dict] = []
        self._scopes: dict[str | None, int] = {None: FIRST_SCOPE_MARK}
        self.iptables = Iptables()
        self.iptables.add_address_scopes()
        for tables, address in ((self.iptables.v4, METADATA4), (self.iptables.v6, METADATA6)):
            tables["mangle"].add("PREROUTING", f"{metadata_request(address)} -j MARK --set-xmark {METADATA_MARK}")
            tables["filter"].add("scope", f"-m mark --mark {METADATA_MARK} -j DROP")

    # Life

    def initialize(self) -> None:
        self.agent.create_namespace(self.netns)

    def process(self, router: Dict) -> None:
        """Makes this router what the dictionary says."""
        self.router = router
        self._process_interfaces()
        self._process_external()
        self._process_address_scopes()
        self._process_routes(router["routes"])
        self.gateway = router.get("gw_port")

    def add_metadata(self) -> None:
        """Once, after the rest stands: requests go to the proxy, and the proxy answers to nobody else."""
        for tables, address in ((self.iptables.v4, METADATA4), (self.iptables.v6, METADATA6)):
            tables["filter"].add("INPUT", f"-m mark --mark {METADATA_MARK} -j ACCEPT")
            tables["filter"].add("INPUT", f"-p tcp -m tcp --dport {METADATA_PORT} -j DROP")
            tables["nat"].add("PREROUTING", f"{metadata_request(address)} -j REDIRECT --to-ports {METADATA_PORT}")
        self.script.restore(self.netns, self.iptables)

    def delete(self) -> None:
        self.router = {**self.router, "gw_port": None, "_interfaces": [], "_floatingips": []}
        self._process_interfaces()
        self._process_gateway(None)
        self.script.add(f"ip netns del {self.netns}")

    def resync(self) -> None:
        """The tables once more, whole, in place of what is there."""
        for netns, iptables in self.all_iptables():
            self.script.restore(netns, iptables, whole=True)

    def all_iptables(self) -> list[tuple[str, Iptables]]:
        return [(self.netns, self.iptables)]

    # Interfaces

    def _process_interfaces(self) -> None:
        wanted = {port["id"]: port for port in self.router.get("_interfaces", []) if port["admin_state_up"]}
        present = {port["id"] for port in self.interfaces}
        for port in [port for port in self.interfaces if port["id"] not in wanted]:
            self._remove_interface(port)
            self.interfaces.remove(port)
        for port in wanted.values():
            if port["id"] not in present:
                self._add_interface(port)
                self.interfaces.append(port)

    def _add_interface(self, port: Dict) -> None:
        self._plug(port, device_name("qr-", port["id"]), self.netns)

    def _remove_interface(self, port: Dict) -> None:
        self.agent.driver.unplug(port["id"])

    def _plug(self, port: Dict, device: str, netns: str) -> None:
        self.agent.driver.plug(port, device, netns)
        for address in port["fixed_ips"]:
            self.script.ip(netns, f"addr add {cidr(address)} brd + dev {device}")
        for subnet in port["extra_subnets"] if device.startswith("qg-") else ():
            self.script.ip(netns, f"route replace {subnet['cidr']} dev {device} scope link proto static")
        self.agent.announce(netns, device, *(address["ip_address"] for address in port["fixed_ips"]))

    # External network

    def external_device(self) -> str | None:
        """What floating IPs come in by, if the router has it."""
        port = self.router.get("gw_port")
        return device_name("qg-", port["id"]) if port else None

    def _process_external(self) -> None:
        """Rules stand before addresses do, so that no packet passes without its translation."""
        port = self.router.get("gw_port")
        self._process_gateway(port)
        if port:
            self._write_floating_nat()
        self.script.restore(self.netns, self.iptables)
        if port:
            self._process_floating_addresses()

    def _process_gateway(self, port: Dict | None) -> None:
        if port and self.gateway is None:
            self._add_gateway(port)
        elif self.gateway is not None and not port:
            self._remove_gateway(self.gateway)
        elif port and self.gateway and any(port[key] != self.gateway[key] for key in ("id", "fixed_ips", "mtu")):
            raise LabError(f"the gateway port of {self.id} changed: the fixture can only add and remove it")
        self._write_snat(port)

    def _add_gateway(self, port: Dict) -> None:
        self._plug_gateway(port, self.netns)

    def _remove_gateway(self, port: Dict) -> None:
        device = device_name("qg-", port["id"])
        for address in port["fixed_ips"]:
            self.script.ip(self.netns, f"addr del {cidr(address)} dev {device}")
            self._forget_connections(self.netns, address["ip_address"])
        self.agent.driver.unplug(port["id"])
        self.floating = {}

    def _plug_gateway(self, port: Dict, netns: str) -> None:
        device = device_name("qg-", port["id"])
        self._plug(port, device, netns)
        for subnet in port["subnets"]:
            gateway = subnet["gateway_ip"]
            if gateway and ipaddress.IPv4Address(gateway) not in ipaddress.IPv4Network(subnet["cidr"]):
                self.script.ip(netns, f"route replace {gateway} dev {device} scope link proto static")
            if gateway:
                self.script.ip(netns, f"route replace default via {gateway} dev {device} proto static")
        # There is no IPv6 gateway, so routers may advertise one.
        self.script.sysctl(netns, **{f"ipv6/conf/{device}/accept_ra": 2, f"ipv6/conf/{device}/forwarding": 1})

    def _write_snat(self, port: Dict | None) -> None:
        self._write_gateway_rules(self.iptables, port)

    def _write_gateway_rules(self, iptables: Iptables, port: Dict | None) -> None:
        nat, mangle = iptables.v4["nat"], iptables.v4["mangle"]
        for table, chain in ((nat, "POSTROUTING"), (nat, "snat"), (mangle, "mark"), (mangle, "POSTROUTING")):
            table.empty(chain)
        nat.add("snat", "-j $float-snat")
        if not port:
            return
        device, address = device_name("qg-", port["id"]), port["fixed_ips"][0]["ip_address"]
        snat = f"-j SNAT --to-source {address} --random-fully"
        if self.router.get("enable_snat", True):
            mangle.add("POSTROUTING", f"-o {device} {SAVE_SCOPE}")
            scope = external_scope(port)
            if scope:
                nat.add("snat", f"-o {device} -m connmark --mark {self._scope_mark(scope)} -j ACCEPT")
            nat.add("snat", f"-o {device} {snat}")
        nat.add("POSTROUTING", f"! -o {device} -m conntrack ! --ctstate DNAT -j ACCEPT")
        nat.add("snat", f"-m mark ! --mark {EXTERNAL_MARK} -m conntrack --ctstate DNAT {snat}")
        mangle.add("mark", f"-i {device} -j MARK --set-xmark {EXTERNAL_MARK}")

    # Floating IPs

    def floating_ips(self) -> list[Dict]:
        return self.router.get("_floatingips", [])

    def _write_floating_nat(self) -> None:
        nat = self.iptables.v4["nat"]
        nat.clear("floating_ip")
        for fip in self.floating_ips():
            for chain, rule in self._floating_rules(fip):
                nat.add(chain, rule, "floating_ip")

    def _floating_rules(self, fip: Dict) -> list[tuple[str, str]]:
        return centralized_rules(fip)

    def _process_floating_addresses(self) -> None:
        wanted = {fip["floating_ip_address"]: fip for fip in self.floating_ips()}
        for address, fip in wanted.items():
            if address not in self.floating:
                self._add_floating(fip)
            elif any(self.floating[address].get(key) != fip.get(key) for key in ("fixed_ip_address", "dvr_snat_bound")):
                self._move_floating(fip)
        for address in [address for address in self.floating if address not in wanted]:
            self._remove_floating(self.floating[address])
        self.floating = wanted

    def _add_floating(self, fip: Dict) -> None:
        device = self.external_device()
        assert device is not None
        self._add_host_address(self.netns, device, fip["floating_ip_address"])

    def _move_floating(self, fip: Dict) -> None:
        """The rules have it all."""

    def _remove_floating(self, fip: Dict) -> None:
        self._remove_host_address(self.netns, self.external_device(), fip["floating_ip_address"])

    def _add_host_address(self, netns: str, device: str, address: str) -> None:
        """With itself as broadcast address, as Neutron has it."""
        self.script.ip(netns, f"addr add {address}/32 brd {address} dev {device}")
        self.agent.announce(netns, device, address)

    def _remove_host_address(self, netns: str, device: str | None, address: str) -> None:
        self.script.ip(netns, f"addr del {address}/32 dev {device}")
        self._forget_connections(netns, address)

    def _forget_connections(self, netns: str, address: str) -> None:
        for direction in ("-d", "-q"):
            # conntrack ends with 1 if there was none.
            self.script.inside(netns, f"conntrack -D {direction} {address} >/dev/null 2>&1 || test $? = 1")

    # Address scopes

    def _scope_mark(self, scope: str | None) -> str:
        if scope not in self._scopes:
            self._scopes[scope] = FIRST_SCOPE_MARK + len(self._scopes)
        return f"{self._scopes[scope] << 16:#x}/{SCOPE_MASK}"

    def _marks(self, ports: Iterable[Dict], prefix: str) -> dict[str, str]:
        return {device_name(prefix, port["id"]): self._scope_mark(port["address_scopes"]["4"]) for port in ports}

    def _device_marks(self) -> dict[str, str]:
        port = self.router.get("gw_port")
        return self._marks(self.router.get("_interfaces", []), "qr-") | self._marks([port] if port else [], "qg-")

    def _process_address_scopes(self) -> None:
        self._write_scopes(self.iptables, self._device_marks())
        self._write_floating_scopes()
        self.script.restore(self.netns, self.iptables)

    def _write_scopes(self, iptables: Iptables, marks: dict[str, str]) -> None:
        """Where no source NAT hides them, packets of one scope do not leave by a device of another."""
        port = self.router.get("gw_port")
        hidden = device_name("qg-", port["id"]) if port and self.router.get("enable_snat", True) else None
        for tables in (iptables.v4, iptables.v6):
            tables["mangle"].empty("scope")
            tables["filter"].empty("scope")
        for device, mark in marks.items():
            iptables.v4["mangle"].add("scope", f"-i {device} -j MARK --set-xmark {mark}")
            if device != hidden:
                iptables.v4["filter"].add("scope", f"-o {device} -m mark ! --mark {mark} -j DROP")

    def _write_floating_scopes(self) -> None:
        """Floating IPs lead from one scope to another."""
        mangle = self.iptables.v4["mangle"]
        mangle.clear("floating_ip")
        port = self.router.get("gw_port")
        outer = external_scope(port) if port else None
        crossing = [fip for fip in self.floating_ips() if fip.get("fixed_ip_address_scope") != outer]
        if crossing:
            mark = self._scope_mark(outer)
            for device, other in self._device_marks().items():
                if other == mark:
                    mangle.add("float-snat", f"-o {device} -j MARK --set-xmark {mark}", "floating_ip")
        for fip in crossing:
            mark = self._scope_mark(fip.get("fixed_ip_address_scope"))
            for chain, rule in self._floating_scope_rules(fip, mark):
                mangle.add(chain, rule, "floating_ip")

    def _floating_scope_rules(self, fip: Dict, mark: str) -> list[tuple[str, str]]:
        return [
            ("floatingip", f"-d {fip['floating_ip_address']}/32 -j MARK --set-xmark {mark}"),
            ("FORWARD", f"-s {fip['fixed_ip_address']}/32 -j $float-snat"),
        ]

    # Extra routes

    def _process_routes(self, routes: list[Dict]) -> None:
        """Those of one destination are one route by several next hops: in the router's namespace, and by one of them in the
        others. What the kernel refuses is no error."""
        old, new = by_destination(self.routes), by_destination(routes)
        for destination in [*old, *(key for key in new if key not in old)]:
            hops = new.get(destination, [])
            if hops == old.get(destination):
                continue
            if not hops:
                if len(old[destination]) > 1:
                    self._change_route("replace", destination, old[destination][-1])
                self._change_route("del", destination, old[destination][-1])
            elif len(hops) == 1 or destination not in old:
                self._change_route("replace", destination, hops[0])
            if len(hops) > 1:
                ways = " ".join(f"nexthop via {hop}" for hop in hops)
                self.script.ip(self.netns, f"route replace {destination} proto static {ways} || true")
        self.routes = routes

    def _change_route(self, verb: str, destination: str, hop: str) -> None:
        self.script.ip(self.netns, f"route {verb} {destination} via {hop} proto static || true")


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


def by_destination(routes: list[Dict]) -> dict[str, list[str]]:
    result: dict[str, list[str]] = defaultdict(list)
    for route in routes:
        result[route["destination"]].append(route["nexthop"])
    return dict(result)


def metadata_request(address: str) -> str:
    return f"-d {address} -i qr-+ -p tcp -m tcp --dport 80"


def centralized_rules(fip: Dict) -> list[tuple[str, str]]:
    """A floating IP's three rules where it is an address of the external device: chain and text."""
    floating, fixed = fip["floating_ip_address"], fip["fixed_ip_address"]
    return [
        ("PREROUTING", f"-d {floating}/32 -j DNAT --to-destination {fixed}"),
        ("OUTPUT", f"-d {floating}/32 -j DNAT --to-destination {fixed}"),
        ("float-snat", f"-s {fixed}/32 -j SNAT --to-source {floating} --random-fully"),
    ]


def external_scope(port: Dict) -> str | None:
    return port["address_scopes"]["4"]


def scopes_match(port: Dict, external: Dict) -> bool:
    """Whether a subnet's addresses are valid outside."""
    scope = port["address_scopes"]["4"]
    return scope is not None and scope in external["address_scopes"].values()
