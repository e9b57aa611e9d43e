# SPDX-License-Identifier: Apache-2.0
"""A Neutron L3 agent's routers on a node, each made from its dictionary, step by step in the agent's order.

AgentRouter has everything in one namespace (legacy). Distributed ones are in neutron_distributed.py. A highly available one
would be another subclass, which leaves addresses and routes to somebody else.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from typing import TYPE_CHECKING, Iterable

from namespaces import LabError
from neutron_cloud import Dict
from neutron_iptables import MARK_MASK, SAVE_SCOPE, SCOPE_MASK, Iptables
from neutron_node import cidr, device_name

if TYPE_CHECKING:
    from neutron_fixture import NeutronFixture

FIRST_SCOPE_MARK = 1024
METADATA4, METADATA6 = "169.254.169.254/32", "fe80::a9fe:a9fe/128"
METADATA_PORT = 9697
METADATA_MARK, EXTERNAL_MARK = f"0x1/{MARK_MASK}", f"0x2/{MARK_MASK}"


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
