# SPDX-License-Identifier: Apache-2.0
"""The namespaces that a Neutron L3 agent (21.0, Zed) makes on a node, made from the same dictionaries, without the agent.

    fixture = NeutronFixture(node, "node1", cloud.ports_by_subnet, state_path, mode="dvr")
    fixture.sync(cloud.sync_routers("node1"))
    fixture.sync(cloud.with_floating_ip("203.0.113.102", "vm2").sync_routers("node1"))
"""

from __future__ import annotations

import ipaddress
import random
import shlex
from pathlib import Path
from typing import Callable, Iterable

from namespaces import LabError
from neutron_cloud import DVR, DVR_SNAT, LEGACY, Dict
from neutron_distributed import EdgeRouter, FipNamespace, LocalRouter
from neutron_drivers import Driver, LinuxBridgeDriver
from neutron_node import Allocator, Place, Script, device_name
from neutron_routers import AgentRouter

FIRST_FIP_PRIORITY, FIP_PRIORITIES = 32768, 40000
LINK_LOCAL_POOL = ipaddress.IPv4Network("169.254.64.0/18")


class NeutronFixture:
    """An agent's work on one node, and its state.

    `ports_by_subnet`: what the server answers to RPC get_ports_by_subnet. `state_path`: where the two files of Neutron's
    allocators are, and may have been before. `announce`: whether addresses are announced by gratuitous ARP, one round of
    the agent's three, in the background."""

    def __init__(
        self,
        node: Place,
        host: str,
        ports_by_subnet: Callable[[str], list[Dict]],
        state_path: Path,
        *,
        mode: str = DVR,
        driver: Callable[[Script], Driver] = LinuxBridgeDriver,
        announce: bool = True,
        seed: int = 0,
    ):
        if mode not in (LEGACY, DVR, DVR_SNAT):
            raise LabError(f"no such agent mode here: {mode}")
        self.host = host
        self.mode = mode
        self.ports_by_subnet = ports_by_subnet
        self.script = Script(node)
        self.driver = driver(self.script)
        self.routers: dict[str, AgentRouter] = {}
        self._fip_namespaces: dict[str, FipNamespace] = {}
        self._announces = announce
        self._random = random.Random(seed)
        state_path.mkdir(exist_ok=True)
        pairs = LINK_LOCAL_POOL.subnets(new_prefix=31)
        priorities = range(FIRST_FIP_PRIORITY, FIRST_FIP_PRIORITY + FIP_PRIORITIES)
        self.link_locals = Allocator(state_path / "fip-linklocal-networks", pairs, self._random)
        self.fip_priorities = Allocator(state_path / "fip-priorities", priorities, self._random)

    # What the server has to say

    def sync(self, routers: Iterable[Dict]) -> None:
        """These routers and no others."""
        routers = list(routers)
        wanted = {router["id"] for router in routers}
        for router_id in [router_id for router_id in self.routers if router_id not in wanted]:
            self.delete_router(router_id)
        for router in routers:
            self.update(router)

    def update(self, router: Dict) -> None:
        """A router that is new, or may have changed."""
        present = self.routers.get(router["id"])
        if present is None:
            new = self.routers[router["id"]] = self._class_of(router)(self, router)
            new.initialize()
            new.process(router)
            new.add_metadata()
        else:
            present.process(router)
        self.script.run()

    def delete_router(self, router_id: str) -> None:
        """The fip namespace stays: it goes with the external network."""
        self.routers[router_id].delete()
        del self.routers[router_id]
        self.script.run()

    def delete_external_network(self, network_id: str) -> None:
        self._fip_namespaces.pop(network_id).delete()
        self.script.run()

    def add_fip(self, router_id: str, fip: Dict) -> None:
        router = self.routers[router_id].router
        self.update({**router, "_floatingips": [*router.get("_floatingips", []), fip]})

    def remove_fip(self, router_id: str, address: str) -> None:
        """First the NAT rules, then the rule, the route and what conntrack knows of the address in the fip namespace."""
        router = self.routers[router_id].router
        rest = [fip for fip in router.get("_floatingips", []) if fip["floating_ip_address"] != address]
        self.update({**router, "_floatingips": rest})

    def move_fip(self, router_id: str, address: str, fixed_ip: str, port_id: str) -> None:
        """To another VM of this node."""
        router, moved = self.routers[router_id].router, {"fixed_ip_address": fixed_ip, "port_id": port_id}
        floating_ips = [fip | moved if fip["floating_ip_address"] == address else fip for fip in router["_floatingips"]]
        self.update({**router, "_floatingips": floating_ips})

    def set_arp_entry(self, router_id: str, subnet_id: str, address: str, mac: str | None) -> None:
        """RPC add_arp_entry and del_arp_entry (`mac` None): a VM of a distributed router's subnet came or went."""
        router = self.routers[router_id]
        assert isinstance(router, LocalRouter)
        for port in router.interfaces:
            if subnet_id in {item["subnet_id"] for item in port["fixed_ips"]}:
                router.set_neighbour(device_name("qr-", port["id"]), address, mac)
        self.script.run()

    def resync(self) -> None:
        """Writes every namespace's iptables again as a whole: the same rules, all of them new to the kernel. An agent that
        finds no difference writes nothing, so this is the harder case for who follows."""
        for router in self.routers.values():
            router.resync()
        for fip_namespace in self._fip_namespaces.values():
            self.script.restore(fip_namespace.name, fip_namespace.iptables, whole=True)
        self.script.run()

    # Layer 2

    def plug_vm(self, network_id: str, port_id: str, mac: str, mtu: int, pid: int, device: str = "eth0") -> None:
        """A VM's NIC, in the network namespace of a process."""
        self.driver.plug_guest(network_id, port_id, mac, mtu, device, pid)
        self.script.run()

    def attach_device(self, network_id: str, device: str) -> None:
        """A NIC of the node leads to this network."""
        self.driver.attach(network_id, device)
        self.script.run()

    def close(self) -> None:
        """Removes all of it, in whatever state it is."""
        names = [*self._fip_namespaces, *self.routers]
        for prefix in ("qrouter", "snat", "fip"):
            for name in names:
                netns = f"{prefix}-{name}"
                self.script.add(f"test ! -e /run/netns/{netns} || ip netns del {netns}")
        self.driver.remove_all()
        self.routers, self._fip_namespaces = {}, {}
        self.script.run()

    # For routers

    def create_namespace(self, name: str) -> None:
        self.script.add(f"ip netns add {name}; ip -n {name} link set lo up")
        self.script.sysctl(
            name,
            **{
                "ipv4/conf/all/promote_secondaries": 1,
                "ipv4/ip_forward": 1,
                "ipv4/conf/all/arp_ignore": 1,
                "ipv4/conf/all/arp_announce": 2,
                "ipv6/conf/all/forwarding": 1,
            },
        )

    def fip_namespace(self, network_id: str) -> FipNamespace:
        if network_id not in self._fip_namespaces:
            self._fip_namespaces[network_id] = FipNamespace(self, network_id)
        return self._fip_namespaces[network_id]

    def announce(self, netns: str, device: str, *addresses: str) -> None:
        """In the background: it takes two seconds."""
        if not self._announces:
            return
        for address in addresses:
            words = f"-I {device} -c 1 -w 2 {address}"
            both = shlex.quote(f"arping -U {words}; arping -A {words}")
            self.script.add(f"nsenter --net=/run/netns/{netns} sh -c {both} >/dev/null 2>&1 </dev/null &")

    def random_mac(self) -> str:
        """What the kernel gives a device for which nobody has one: random, unicast, locally administered."""
        octets = self._random.randbytes(6)
        return ":".join(f"{octet:02x}" for octet in (octets[0] & 0xFC | 0x02, *octets[1:]))

    def _class_of(self, router: Dict) -> type[AgentRouter]:
        if router["ha"]:
            raise LabError(f"router {router['id']} is highly available, which the fixture has not")
        if not router["distributed"]:
            return AgentRouter
        if self.mode == LEGACY:
            raise LabError(f"router {router['id']} is distributed, which an agent in mode legacy has not")
        return EdgeRouter if self.mode == DVR_SNAT else LocalRouter
