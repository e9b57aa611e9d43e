# SPDX-License-Identifier: Apache-2.0
"""A node under test, cut off from the rest of its cloud: who there is on its segments, where their frames enter, and
where they leave. All of it follows from the topology; a deployment is data.

The node's underlay device leads to this process and to nobody else. Other nodes and VMs are played: what they would
send is injected, what the node sends them is captured, and nobody answers. So every output has its cause in the test.
"""

from __future__ import annotations

import itertools
import json
import socket
import struct
from dataclasses import dataclass, field

from equivalence.build import ETH_IPV4, ETH_IPV6, UDP, eth, ipv4, ipv6, udp, vxlan
from equivalence.sockets import Capture, Injector
from equivalence.stillness import FOREVER_MS, FRAGMENTS_WAIT, STILL, Memory
from lab import Lab, LabNode, wait_for
from maps import bpftool_dump
from namespaces import Namespace
from topology import Network, Topology

WIRE = "wire"
# Strangers on an external segment: known to the node's neighbour tables, answering nothing. Host parts of the subnet.
STRANGERS = 3
# Guests that no topology lists, plugged into each external bridge: it learns where they are.
GUESTS = 2


def mac_bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ip_bytes(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


@dataclass(frozen=True)
class Station:
    """Somebody on a segment. `at`: a VM's name, a guest's, "host" for the node itself, or the name of another node."""

    name: str
    network: str
    mac: bytes
    ip: bytes
    at: str


@dataclass(frozen=True)
class Entry:
    """Where a frame comes in. `device` is an injector; with a VNI the frame is put into a tunnel packet of a peer."""

    device: str
    network: str
    vni: int = 0
    outer_src_mac: bytes = b""
    outer_dst_mac: bytes = b""
    outer_src: bytes = b""
    outer_dst: bytes = b""
    port: int = 4789

    @property
    def tunnelled(self) -> bool:
        return self.vni != 0

    def wrap(self, frame: bytes, sport: int = 40000) -> bytes:
        if not self.tunnelled:
            return frame
        payload = vxlan(self.vni, frame)
        datagram = udp(self.outer_src, self.outer_dst, sport, self.port, payload, check=0)
        if len(self.outer_src) == 16:
            kind, packet = ETH_IPV6, ipv6(self.outer_src, self.outer_dst, UDP, datagram)
        else:
            kind, packet = ETH_IPV4, ipv4(self.outer_src, self.outer_dst, UDP, datagram, ident=sport)
        return eth(self.outer_dst_mac, self.outer_src_mac, kind, packet)


@dataclass(frozen=True)
class Journey:
    """A way through the node that its Linux knows: frame addresses on entry, IP addresses, where it comes out."""

    kind: str  # fip_in, fip_out, hairpin, own, routed, l2
    entry: Entry
    eth_src: bytes
    eth_dst: bytes
    src: bytes
    dst: bytes
    exit: str  # name of a capture
    # The same flow seen from its far end, for ICMP errors about it. None if the node may not know the way there.
    answer: "Journey | None" = field(default=None, compare=False)


class Site:
    """`lab` must be warm. Enter it as a context; afterwards the node is cut off for good."""

    follows = False  # routers that somebody else built
    _plugged: dict[tuple[str, str], dict[str, Namespace]] = {}  # guests by lab and node

    def __init__(self, lab: Lab, node: str):
        self.lab = lab
        self.node: LabNode = lab.nodes[node]
        self.name = node
        self.topology: Topology = lab.topology
        self.vms = [port for port in self.topology.vm_ports() if port.node == node]
        self.vm_names = {port.name for port in self.vms}
        self.injectors: dict[str, Injector] = {}
        self.captures: dict[str, Capture] = {}
        self.vtep = ip_bytes(self.node.node.underlay_address)

    def __enter__(self) -> Site:
        self.namespaces = self.node.run(["ls", "/run/netns"]).stdout.split()
        self._cut_off()
        self._plug_guests()
        self._make_deterministic()
        self._open_sockets()
        self.stations = self._stations()
        self.journeys = self._journeys()
        self.local_addresses = self._local_addresses()
        # What the node's stack and routers send from these has an IPv4 ID of Linux's choice; what others send from a
        # floating IP, which a legacy router has on its device, has not.
        self.own_fips = {ip_bytes(fip) for fip in self.local_fips()}
        self.own_addresses = self.local_addresses - {ip_bytes(fip) for fip in self.topology.floating_ips}
        self.snat_addresses = {ip_bytes(port.fixed_ip) for port in self.topology.ports.values()
                               if port.owner == "router_gateway"}  # fmt: skip
        self.announced = {mac_bytes(self.fip_mac(fip)) + ip_bytes(fip) for fip in self.local_fips()}
        return self

    def __exit__(self, kind, value, traceback) -> None:
        for item in (*self.injectors.values(), *self.captures.values(), self._memory):
            item.close()

    # Preparation

    def _cut_off(self) -> None:
        wire = self.lab.wire
        self.underlay_mac = mac_bytes(self.node.mac(self.node.node.underlay_device))
        self.peer_macs = {name: mac_bytes(node.mac(node.node.underlay_device)) for name, node in self.lab.nodes.items()}
        wire.run(
            f"ip link set {self.name} nomaster; ip link set {self.name} mtu 3000;"
            f"ethtool -K {self.name} gro off; echo 1 > /proc/sys/net/ipv6/conf/{self.name}/disable_ipv6"
        )
        for port in self.vms:
            self.lab.vms[port.name].run("ip address flush dev eth0; ip link set eth0 mtu 3000")

    def _plug_guests(self) -> None:
        """Once for each node of a lab: a second site finds the guests of the first."""
        state = self.lab.state
        known = self._plugged.setdefault((self.lab.name, self.name), {})
        self.guests = known
        if known:
            return
        known.update({station.at: Namespace(state, f"{self.name}-{station.at}") for station in self._guests()})
        for number, station in enumerate(self._guests()):
            guest, port = self.guests[station.at], f"gst-{number}"
            guest.wait_until_up()
            self.node.run(
                f"ip link add {port} type veth peer name eth0 netns {guest.pid}\n"
                f"ip link set {port} master {self.network(station.network).bridge} up"
            )
            guest.run(
                "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6\n"
                f"ip link set eth0 address {station.mac.hex(':')} mtu 3000 up"
            )

    def _make_deterministic(self) -> None:
        """Nothing expires, nothing is limited, and nobody is asked for: frames come out only because others came in."""
        device = self.node.node.underlay_device
        everywhere = STILL + "echo 67108864 > /proc/sys/net/ipv4/ipfrag_high_thresh\n"
        no_ipv6 = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6\n"
        node_ipv6 = no_ipv6 if self.topology.underlay_version == 4 else self._only_ipv6_underlay()
        self.node.run(f"ethtool -K {device} tx off tso off gso off\n" + node_ipv6 + everywhere)
        for name in self.namespaces:
            self.node.run_in(name, no_ipv6 + everywhere)
        for name, other in self.topology.nodes.items():
            if name != self.name:
                mac = self.peer_macs[name].hex(":")
                self.node.run(["ip", "neigh", "replace", other.underlay_address, "lladdr", mac, "dev", device,
                               "nud", "reachable"])  # fmt: skip
        self._introduce_external_stations()

    def _only_ipv6_underlay(self) -> str:
        """Commands that leave IPv6 to the underlay device alone, where nothing expires, nothing is limited, and nobody is asked
        for either."""
        device = self.node.node.underlay_device
        return f"""
            for place in /proc/sys/net/ipv6/conf/*; do
                case $place in */all|*/lo|*/{device}) ;; *) echo 1 > $place/disable_ipv6 ;; esac
            done
            echo 0 > /proc/sys/net/ipv6/icmp/ratelimit
            echo {FRAGMENTS_WAIT} > /proc/sys/net/ipv6/ip6frag_time
            for file in /proc/sys/net/ipv6/neigh/*/base_reachable_time_ms; do echo {FOREVER_MS} > $file; done
            for file in /proc/sys/net/ipv6/neigh/*/mcast_solicit; do echo 0 > $file; done
        """

    def _introduce_external_stations(self) -> None:
        """Whoever is on an external segment is a reachable neighbour of this node's routers there."""
        stations = [*self._external_stations(), *self._strangers(), *self._guests()]
        for netns, network, device in self._external_devices():
            mine = {station.ip for station in stations if station.at == "host"} if not netns else set()
            script = "".join(
                f"ip neigh replace {socket.inet_ntoa(station.ip)} lladdr {station.mac.hex(':')} dev {device}"
                " nud reachable\n"
                for station in stations
                if station.network == network and station.ip not in mine
            )
            self.node.run_in(netns, script) if netns else self.node.run(script)

    def _external_devices(self) -> list[tuple[str, str, str]]:
        """(namespace, network, device) of each interface of this node and its routers in an external network."""
        found = []
        for port in self.topology.ports.values():
            if port.owner == "floatingip_agent_gateway" and port.node == self.name:
                found.append((f"fip-{self.topology.networks[port.network].id}", port.network, port.device))
            if port.owner == "router_gateway" and port.router:
                router = self.topology.routers[port.router]
                if router.node == self.name and not router.distributed:
                    found.append((router.namespace, port.network, port.device))
        found = [item for item in found if item[0] in self.namespaces]
        own = self.topology.nodes[self.name].addresses
        return found + [("", network, self.network(network).bridge) for network in own]

    def _open_sockets(self) -> None:
        node = self.node.namespace
        self.injectors[WIRE] = Injector(self.lab.wire.netns_path, self.name)
        self.captures[WIRE] = Capture(WIRE, self.lab.wire.netns_path, self.name)
        for port in self.vms:
            place = self.lab.vms[port.name].namespace.netns_path
            self.injectors[port.name] = Injector(place, "eth0")
            self.captures[port.name] = Capture(port.name, place, "eth0")
        for name, guest in self.guests.items():
            self.injectors[name] = Injector(guest.netns_path, "eth0")
            self.captures[name] = Capture(name, guest.netns_path, "eth0")
        for network in self.topology.networks.values():
            device = network.bridge
            if self.node.run(["ip", "link", "show", device], check=False).returncode == 0:
                name = f"host:{network.name}"
                self.injectors[name] = Injector(node.netns_path, device)
                self.captures[name] = Capture(name, node.netns_path, device)
        self._memory = Memory(self.node.netns_path(name) for name in self.namespaces)
        self._bridges = [network.bridge for network in self.topology.networks.values()
                         if f"host:{network.name}" in self.captures]  # fmt: skip

    def forget(self) -> None:
        """Removes what Linux remembers of earlier packets: connections, learned MACs, waiting fragments."""
        self._memory.clear()
        self.node.run("\n".join(f"ip link set dev {bridge} type bridge fdb_flush" for bridge in self._bridges))
        # A row outlives the entry that it came from for a moment, and what it carries teaches Linux nothing.
        wait_for("the fast path to forget what the bridges had learned", lambda: not self._learned_rows())

    def _learned_rows(self) -> list[dict]:
        """Of fl_fdb, FL_FDB_LEARNED."""
        if not self.node.status()["fast_path"]:
            return []
        return [row for row in bpftool_dump(self.node, "fl_fdb") if row["value"]["flags"] & 1]

    def set_fast_path(self, on: bool) -> None:
        self.node.set_fast_path(on)

    # Who and where

    def network(self, name: str) -> Network:
        return self.topology.networks[name]

    def entry(self, station: Station) -> Entry:
        if station.at == "host":
            return Entry(f"host:{station.network}", station.network)
        if station.at not in self.topology.nodes:
            return Entry(station.at, station.network)
        return self.tunnel(station.network, station.at)

    def tunnel(self, network: str, peer: str) -> Entry:
        """What comes from a node, by the hub if the network is a star."""
        sender, _ = self.network(network).route(peer, self.name)[-1]
        return Entry(
            WIRE,
            network,
            self.network(network).tunnel_id(self.name, sender),
            self.peer_macs[sender],
            self.underlay_mac,
            ip_bytes(self.topology.nodes[sender].underlay_address),
            self.vtep,
            self.topology.vxlan_port,
        )

    def exit(self, station: Station) -> str:
        if station.at == "host":
            return f"host:{station.network}"
        return WIRE if station.at in self.topology.nodes else station.at

    def _external_stations(self) -> list[Station]:
        out = []
        for name, node in self.topology.nodes.items():
            for network, address in node.addresses.items():
                at = "host" if name == self.name else name
                out.append(
                    Station(f"node {name}", network, mac_bytes(node.macs[network]), ip_bytes(address.split("/")[0]), at)
                )
        for fip, row in self.topology.floating_ips.items():
            owner = self.topology.node_of_fip(fip)
            if owner != self.name:
                out.append(
                    Station(f"fip {fip}", row.network, mac_bytes(self.fip_mac(fip)), ip_bytes(fip), owner)
                )
        return out

    def _strangers(self) -> list[Station]:
        """The last addresses of each external network's nodes' subnets, behind the first peer."""
        peer = next(name for name in self.topology.nodes if name != self.name)
        return [
            Station(f"stranger {number}", network, b"\x02\x5e" + ip, ip, peer)
            for network, addresses in self._last_addresses(STRANGERS).items()
            for number, ip in enumerate(addresses, 1)
        ]

    def _guests(self) -> list[Station]:
        """The addresses before those, each on a port of this node."""
        return [
            Station(f"guest {number} on {network}", network, b"\x02\x5d" + ip, ip, f"guest{number}-{network}")
            for network, addresses in self._last_addresses(STRANGERS + GUESTS).items()
            for number, ip in enumerate(addresses[STRANGERS:], 1)
        ]

    def _last_addresses(self, count: int) -> dict[str, list[bytes]]:
        """Of those that nobody has in the nodes' subnets on each external network, the last one first."""
        taken = {ip_bytes(address) for address in (*self.topology.floating_ips,
                                                   *(port.fixed_ip for port in self.topology.ports.values()))}  # fmt: skip
        out = {}
        for network in self.topology.external_networks():
            addresses = [node.addresses[network.name] for node in self.topology.nodes.values()
                         if network.name in node.addresses]  # fmt: skip
            if not addresses:
                continue
            address, length = addresses[0].split("/")
            broadcast = struct.unpack("!I", ip_bytes(address))[0] | (1 << (32 - int(length))) - 1
            free = (ip for number in itertools.count(1) if (ip := struct.pack("!I", broadcast - number)) not in taken)
            out[network.name] = list(itertools.islice(free, count))
        return out

    def _stations(self) -> list[Station]:
        out = self._external_stations() + self._strangers() + self._guests()
        for port in self.topology.vm_ports():
            assert port.node is not None
            at = port.name if port.node == self.name else port.node
            out.append(Station(port.name, port.network, mac_bytes(port.mac), ip_bytes(port.fixed_ip), at))
        return out

    def fip_mac(self, fip: str) -> str:
        """Whose MAC answers for a floating IP on its external segment."""
        row = self.topology.floating_ips[fip]
        router = self.topology.router_of(fip)
        if router.distributed:
            return self.topology.gateway_port(self.topology.node_of_fip(fip), row.network).mac
        return next(port.mac for port in self.topology.ports.values()
                    if port.owner == "router_gateway" and port.router == router.name)  # fmt: skip

    def _local_addresses(self) -> set[bytes]:
        """Of this node's stack and routers."""
        out = set()
        for place in ("", *self.namespaces):
            command = "ip -j -4 address"
            text = self.node.run_in(place, command) if place else self.node.run(command).stdout
            for row in json.loads(text):
                out.update(ip_bytes(info["local"]) for info in row.get("addr_info", []))
        return out

    # Ways through the node

    def local_fips(self) -> list[str]:
        return [fip for fip in self.topology.floating_ips if self.topology.node_of_fip(fip) == self.name]

    def _vm(self, name: str) -> Station:
        return next(station for station in self.stations if station.name == name)

    def _router_mac(self, fip: str) -> bytes:
        row = self.topology.floating_ips[fip]
        return mac_bytes(self.topology.router_port(row.router, self.topology.ports[row.port].network).mac)

    def _journeys(self) -> list[Journey]:
        local = self.local_fips()
        out: list[Journey] = []
        for fip in local:
            row = self.topology.floating_ips[fip]
            vm, address, mac = self._vm(row.port), ip_bytes(fip), mac_bytes(self.fip_mac(fip))
            for other in self.stations:
                if other.network != row.network:
                    continue
                coming = Journey("fip_in", self.entry(other), other.mac, mac, other.ip, address, self.exit(vm))
                going = Journey("fip_out", self.entry(vm), vm.mac, self._router_mac(fip), vm.ip, other.ip,
                                self.exit(other))  # fmt: skip
                stranger = other.name.startswith("stranger")
                out.append(coming if stranger else _with_answer(coming, going))
                out.append(going if stranger else _with_answer(going, coming))
            for second in local:
                if self.topology.floating_ips[second].router != row.router:
                    continue
                target = self._vm(self.topology.floating_ips[second].port)
                there = Journey("own" if second == fip else "hairpin", self.entry(vm), vm.mac, self._router_mac(fip),
                                vm.ip, ip_bytes(second), self.exit(target))  # fmt: skip
                back = Journey(there.kind, self.entry(target), target.mac, self._router_mac(second), target.ip,
                               address, self.exit(vm))  # fmt: skip
                out.append(_with_answer(there, back))
        out += self._routed_journeys()
        for source in self.stations:
            for target in self.stations:
                ends_here = source.at not in self.topology.nodes or target.at not in self.topology.nodes
                here = ends_here or self.network(source.network).hub == self.name
                if source.network == target.network and source is not target and here and source.at != target.at:
                    out.append(Journey("l2", self.entry(source), source.mac, target.mac, source.ip, target.ip,
                                       self.exit(target)))  # fmt: skip
        return out


    def _routed_journeys(self) -> list[Journey]:
        """By fixed IP from one network of a router to another, where the sender's router is this node's."""
        out = []
        vms = {port.name: port for port in self.topology.vm_ports()}
        for router in self.topology.routers.values():
            legs = {port.network: port for port in self.topology.ports.values()
                    if port.owner.startswith("router_interface") and port.router == router.name}  # fmt: skip
            for source, target in ((a, b) for a in vms.values() for b in vms.values() if a.network != b.network):
                served = source.node == self.name if router.distributed else router.node == self.name
                if not served or not {source.network, target.network} <= legs.keys():
                    continue
                here, there = self._vm(source.name), self._vm(target.name)
                out.append(Journey("routed", self.entry(here), here.mac, mac_bytes(legs[source.network].mac), here.ip,
                                   there.ip, self.exit(there)))  # fmt: skip
        return out


def _with_answer(journey: Journey, answer: Journey) -> Journey:
    return Journey(journey.kind, journey.entry, journey.eth_src, journey.eth_dst, journey.src, journey.dst,
                   journey.exit, answer)  # fmt: skip
