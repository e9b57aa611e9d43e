# SPDX-License-Identifier: Apache-2.0
"""A node whose routers somebody else built, and fiplane follows: the same for the Runner as a Site. VMs and the outside host
are played."""

from __future__ import annotations

import json
from dataclasses import dataclass

from equivalence.site import Entry, Journey, Station, ip_bytes, mac_bytes
from equivalence.sockets import Capture, Injector
from equivalence.stillness import STILL, Memory
from fixture_lab import FixtureLab
from follower import Follower
from lab import wait_for
from neutron_cloud import LEGACY

OUTSIDE = "outside"


@dataclass(frozen=True)
class _FloatingIp:
    fixed_ip: str


@dataclass(frozen=True)
class _Topology:
    """What a comparison asks of a topology."""

    floating_ips: dict[str, _FloatingIp]
    vxlan_port: int = 0  # nothing leaves by a tunnel


class FollowedSite:
    """Enter it as a context; afterwards the node is cut off for good. `lab`: all of its routers are there, and neighbours
    resolved."""

    follows = True

    def __init__(self, lab: FixtureLab, follower: Follower):
        self.lab, self.node = lab, follower
        self.cloud = lab.cloud
        fixed = {name: vm.address for name, vm in lab.vms.items()}
        self.topology = _Topology({fip.address: _FloatingIp(fixed[fip.vm]) for fip in self.cloud.floating_ips})
        self.guests: dict = {}
        self.vm_names = set(lab.vms)
        self.announced: set[bytes] = set()

    def __enter__(self) -> FollowedSite:
        self.namespaces = self.lab.node.run(["ls", "/run/netns"]).stdout.split()
        self._make_deterministic()
        self._open_sockets()
        self.fips = {fip.vm: ip_bytes(fip.address) for fip in self.cloud.floating_ips}
        self.stations = self._stations()
        self.local_addresses = self._local_addresses()
        self.own_fips = set(self.fips.values())
        self.own_addresses = self.local_addresses - self.own_fips
        # Where Linux chooses the port, BPF keeps it.
        self.snat_addresses = self.own_addresses | self.own_fips
        self.journeys = self._journeys()
        return self

    def __exit__(self, *exception) -> None:
        for item in (*self.injectors.values(), *self.captures.values(), self._memory):
            item.close()

    def network(self, name: str):
        return self.cloud.network(name)

    def _make_deterministic(self) -> None:
        """Nothing expires, nothing is limited, nobody is asked for, and bridges learn nothing new. No ICMP redirects, of which
        Linux sends a peer nine in its life."""
        ours = """
            echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6
            for file in /proc/sys/net/ipv4/conf/*/send_redirects; do echo 0 > $file; done
        """
        for name in self.namespaces:
            self.lab.run_in(name, ours + STILL)
        entries = json.loads(self.lab.node.run(["bridge", "-j", "fdb", "show"]).stdout)
        for entry in entries:
            if entry.get("state") not in ("permanent", "static") and "master" in entry:
                self.lab.node.run(["bridge", "fdb", "replace", entry["mac"], "dev", entry["ifname"], "master", "static"])
        for link in json.loads(self.lab.node.run(["ip", "-j", "-d", "link", "show"]).stdout):
            if link.get("linkinfo", {}).get("info_slave_kind") == "bridge":
                self.lab.node.run(["bridge", "link", "set", "dev", link["ifname"], "learning", "off", "flood", "off"])
        for host in (self.lab.outside, *self.lab.vms.values()):
            host.run("ip address flush dev eth0; ip link set eth0 mtu 3000")

    def _open_sockets(self) -> None:
        self.injectors, self.captures = {}, {}
        for host in (self.lab.outside, *self.lab.vms.values()):
            place = host.namespace.netns_path
            self.injectors[host.name] = Injector(place, "eth0")
            self.captures[host.name] = Capture(host.name, place, "eth0")
        self._memory = Memory(self.lab.node.netns_path(name) for name in self.namespaces)

    def forget(self) -> None:
        """Removes what Linux remembers of earlier packets: connections and waiting fragments. What BPF does goes with its
        maps whenever the fast path is switched off."""
        self._memory.clear()

    def set_fast_path(self, on: bool) -> None:
        self.node.switch("off")
        if not on:
            return
        self.node.switch("on")
        wait_for("fast floating IPs", lambda: set(self.node.states().values()) == {"fast"}, 10)

    # Who and where

    def _stations(self) -> list[Station]:
        macs = {name: mac_bytes(vm.port.mac) for name, vm in self.lab.vms.items()}
        found = [
            Station(name, self.cloud.vm(name).network, macs[name], ip_bytes(vm.address), name)
            for name, vm in self.lab.vms.items()
        ]
        (external,) = [network.name for network in self.cloud.networks if network.external]
        (link,) = json.loads(self.lab.outside.run(["ip", "-j", "link", "show", "eth0"]).stdout)
        return [*found, Station(OUTSIDE, external, mac_bytes(link["address"]), ip_bytes(self.lab.outside.address), OUTSIDE)]

    def _local_addresses(self) -> set[bytes]:
        """Of devices: a legacy router's floating IPs are among them."""
        found = set()
        for name in self.namespaces:
            for link in json.loads(self.lab.run_in(name, "ip -j address")):
                found |= {ip_bytes(address["local"]) for address in link["addr_info"] if address["family"] == "inet"}
        return found

    def _router_macs(self) -> dict[str, bytes]:
        """By network that a router is the gateway of, and by router on the external network."""
        macs: dict[str, bytes] = {}
        by_address = {}
        for name in self.namespaces:
            links = json.loads(self.lab.run_in(name, "ip -j address"))
            for link in links:
                for address in (item for item in link["addr_info"] if item["family"] == "inet"):
                    by_address[address["local"]] = mac_bytes(link["address"])
        for network in self.cloud.networks:
            if not network.external:
                macs[network.name] = by_address[network.gateway_ip]
        for fip in self.cloud.floating_ips:
            agent = self.cloud.agent(self.lab.host)
            own = agent.mode == LEGACY
            macs[fip.vm] = by_address[fip.address if own else next(iter(agent.gateways.values()))]
        return macs

    def _journeys(self) -> list[Journey]:
        macs = self._router_macs()
        by_name = {station.name: station for station in self.stations}
        outside = by_name[OUTSIDE]
        external = Entry(OUTSIDE, outside.network)
        journeys = []
        for vm, fip in self.fips.items():
            station = by_name[vm]
            inside_ = Entry(vm, station.network)
            router = macs[station.network]
            into = Journey("fip_in", external, outside.mac, macs[vm], outside.ip, fip, vm)
            # Of what a VM begins, Linux chooses the port: nobody can complain of it with the right one.
            out = Journey("fip_out", inside_, station.mac, router, station.ip, outside.ip, OUTSIDE, answer=into)
            journeys += [into, out]
            for other, target in self.fips.items():
                if other != vm and self._is_one_journey(vm, other):
                    journeys.append(Journey("hairpin", inside_, station.mac, router, station.ip, target, other))
        for one in self.stations:
            for other in self.stations:
                if OUTSIDE not in (one.name, other.name) and one.network != other.network and self._same_router(one, other):
                    journeys.append(Journey("routed", Entry(one.name, one.network), one.mac, macs[one.network], one.ip,
                                            other.ip, other.name))  # fmt: skip
        return journeys

    def _same_router(self, one: Station, other: Station) -> bool:
        return self.cloud.router_of(self.cloud.vm(one.name)) == self.cloud.router_of(self.cloud.vm(other.name))

    def _is_one_journey(self, vm: str, other: str) -> bool:
        """On one L2 between two legacy routers, it is two."""
        routers = {self.cloud.router_of(self.cloud.vm(name)).name for name in (vm, other)}
        return self.cloud.agent(self.lab.host).mode != LEGACY or len(routers) == 1
