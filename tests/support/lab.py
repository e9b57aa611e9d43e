# SPDX-License-Identifier: Apache-2.0
"""A cloud on one machine: nodes and VMs as namespaces, nothing but IP between the nodes, one real agent per node.

    with Lab("examples/devstack-dvr-vxlan.yaml", "build/release") as lab:
        lab.vms["vm1"].run(["ping", "-c", "1", "172.24.5.12"])

Everything lives in namespaces of its own; the machine's network is neither used nor changed. Leaving the `with` block,
an exception, SIGINT and SIGTERM tear all of it down; what a killed process left behind is removed by the next Lab.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Collection, Iterable, TypeVar

from guests import Keys, MacvtapVm, OutsideHost, Vm
from namespaces import LabError, Namespace, StateDirectory, end_processes, remove_lab, remove_leftovers
from timing import scaled
from topology import Node, Topology

T = TypeVar("T")
Progress = Callable[[str], None]

READY_TIMEOUT = 60.0
MISSING_FEATURE = 5  # exit code of fiplane: the kernel lacks something


class MissingFeature(LabError):
    """This machine's kernel cannot carry the topology."""


def in_parallel(jobs: Iterable[Callable[[], T]], workers: int = 8) -> list[T]:
    """Results in the order of the jobs. After an exception (Ctrl-C, too) no further job is begun."""
    pool = ThreadPoolExecutor(workers)
    try:
        return [future.result() for future in [pool.submit(job) for job in jobs]]
    finally:
        pool.shutdown(cancel_futures=True)


def wait_for(what: str, condition: Callable[[], object], timeout: float = READY_TIMEOUT, interval: float = 0.05):
    """Polls until `condition` returns something true, and returns that. `timeout`: in seconds, scaled."""
    timeout = scaled(timeout)
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise LabError(f"still waiting after {timeout:g} s for: {what}")
        time.sleep(interval)


class LabNode:
    """A node: its namespaces, its underlay device and its agent."""

    def __init__(self, lab: Lab, node: Node):
        self.lab = lab
        self.node = node
        self.name = node.name
        self.namespace = Namespace(lab.state, node.name)
        self.run = self.namespace.run
        self.start = self.namespace.start
        self.agent: subprocess.Popen | None = None
        self.state_dir = lab.state.path / f"state-{node.name}"
        self.log = lab.state.path / f"agent-{node.name}.log"

    def connect(self, wire: Namespace) -> None:
        """The underlay: a veth to the wire, named as the topology says."""
        device, topology = self.node.underlay_device, self.lab.topology
        self.run(["ip", "link", "add", device, "type", "veth", "peer", "name", self.name, "netns", wire.pid])
        bridged = self.lab.wire_kind == "bridge"
        version, bits = topology.underlay_version, topology.underlay_bits
        length = topology.underlay_prefix_length() if bridged else bits
        gateway, at_once = ROUTED_GATEWAY[version], "nodad" if version == 6 else ""
        lines = [
            *(_quiet_ipv6(device) if version == 6 else []),
            f"ip link set {device} mtu {topology.underlay_mtu} up",
            f"ip address add {self.node.underlay_address}/{length} dev {device} {at_once}",
            f"echo {int(self.lab.bridge_netfilter)} > /proc/sys/net/bridge/bridge-nf-call-iptables || true",
        ]
        if not bridged:
            lines.append(f"ip -{version} route add default via {gateway} dev {device} onlink")
        self.run("\n".join(lines))
        peer = [f"ip link set {self.name} mtu {topology.underlay_mtu} up"]
        if bridged:
            peer.append(f"ip link set {self.name} master wire")
        else:
            peer.append(f"ip address add {gateway}/{bits} dev {self.name} {at_once}")
            peer.append(f"ip -{version} route add {self.node.underlay_address}/{bits} dev {self.name}")
        wire.run("\n".join(peer))

    def connect_physical(self, wire: Namespace, name: str) -> None:
        """A NIC on a physical network, unless that is reached by the underlay device."""
        device, port = self.node.physical_networks[name], self.lab.wire_port(self.name, name)
        if device == self.node.underlay_device:
            return
        mtu = self.lab.topology.physical_networks[name]
        self.run(
            f"ip link add {device} mtu {mtu} type veth peer name {port} mtu {mtu} netns {wire.pid}\n"
            f"echo 1 > /proc/sys/net/ipv6/conf/{device}/disable_ipv6; ip link set {device} up"
        )
        wire.run(f"ip link set {port} master {self.lab.physical_wire(name)} up")

    def imitate_hardware(self, wire: Namespace) -> None:
        """Makes the veth behave as a NIC and its cable do, as far as native XDP can tell.

        A wire carries complete checksums, but XDP on a veth sees frames before anybody has computed them: the sender's
        underlay device must. And what XDP transmits (XDP_TX) waits until the other end is woken by something else,
        unless that has an XDP program, too (veth_xdp_flush).
        """
        self.run(["ethtool", "-K", self.node.underlay_device, "tx", "off"])
        program = self.lab.tools / "xdp_pass.bpf.o"
        wire.run(["ip", "link", "set", "dev", self.name, "xdpdrv", "obj", program, "sec", "xdp"])

    def fiplane(self, *arguments: str | Path, check: bool = True, timeout: float = 30.0):
        return self.run([self.lab.fiplane, *arguments], check=check, timeout=timeout)

    def agent_command(self) -> list[str]:
        command = [self.lab.fiplane, "agent", "--topology", self.lab.topology_file, "--node", self.name]
        command += ["--state-dir", self.state_dir, "--fast-path", "on" if self.lab.fast_path else "off"]
        return [str(word) for word in [*command, *self.lab.agent_arguments]]

    def start_agent(self) -> None:
        with open(self.log, "a") as log:
            self.agent = self.start(self.agent_command(), stdout=log, stderr=log)

    def stop_agent(self, signal_number: int = signal.SIGTERM) -> int:
        """Ends the agent with a signal and returns its exit code (negative: the signal that killed it)."""
        assert self.agent is not None
        # nsenter replaces itself by the agent, so this pid is the agent's.
        self.agent.send_signal(signal_number)
        code = self.agent.wait(timeout=scaled(20))
        self.agent = None
        return code

    def status(self) -> dict:
        return json.loads(self.fiplane("status", "-o", "json").stdout)

    def agent_answers(self) -> dict | None:
        if self.agent is not None and self.agent.poll() is not None:
            log = self.log.read_text(errors="replace").strip().splitlines()
            if self.agent.returncode == MISSING_FEATURE:
                raise MissingFeature(log[-1].removeprefix("fiplane: "))
            raise LabError(f"the agent of {self.name} ended with {self.agent.returncode}:\n" + "\n".join(log[-15:]))
        result = self.fiplane("status", "-o", "json", check=False, timeout=READY_TIMEOUT)
        return json.loads(result.stdout) if result.returncode == 0 else None

    def set_fast_path(self, on: bool) -> None:
        self.fiplane("fast-path", "on" if on else "off")

    def netns_path(self, name: str) -> str:
        """A namespace below this node's /run/netns, as the machine sees it."""
        return f"/proc/{self.namespace.pid}/root/run/netns/{name}"

    def run_in(self, netns: str, command: str, *, check: bool = True) -> str:
        """What a shell command prints in a router's namespace. Not by `ip netns exec`, which hides bpffs."""
        return self.run(["nsenter", f"--net=/run/netns/{netns}", "sh", "-ec", command], check=check).stdout

    def mac(self, device: str) -> str:
        return json.loads(self.run(["ip", "-j", "link", "show", device]).stdout)[0]["address"]

    def links(self, *selection: str) -> dict[str, dict]:
        """By name; without those that the kernel puts into every namespace once a tunnel module is loaded."""
        rows = json.loads(self.run(["ip", "-j", "-d", "link", "show", *selection]).stdout)
        return {row["ifname"]: row for row in rows if row["ifname"] not in FALLBACK_DEVICES}

    def has_device(self, name: str) -> bool:
        return self.run(["ip", "link", "show", name], check=False).returncode == 0

    def local_fips(self) -> set[str]:
        """Floating IPs that live on this node."""
        topology = self.lab.topology
        return {fip for fip in topology.floating_ips if topology.node_of_fip(fip) == self.name}


FALLBACK_DEVICES = {"tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "sit0", "ip6tnl0", "ip6gre0", "ip6_vti0"}
ROUTED_GATEWAY = {4: "169.254.1.1", 6: "fe80::1"}  # by IP version; the same at the end of each cable


def _quiet_ipv6(device: str) -> list[str]:
    """Commands for a node's IPv6 underlay: it is used at once, by static addresses, which survive that the device goes down
    as IPv4's do. It keeps its link-local address: the kernel asks from there whether a neighbour is still reachable."""
    values = {"accept_dad": 0, "accept_ra": 0, "router_solicitations": 0, "keep_addr_on_down": 1, "disable_ipv6": 0}
    return [f"echo {value} > /proc/sys/net/ipv6/conf/{device}/{key}" for key, value in values.items()]


class Lab:
    """`xdp`: auto, native, generic or off. `wire`: "bridge" puts all nodes on one L2, "routed" puts a router between
    them. `bridge_netfilter`: bridged IPv4 passes netfilter (br_netfilter loaded), as on nodes of linuxbridge clouds.
    `foreign`: nodes of the topology that somebody else runs; they have an underlay and VM devices, and no agent.
    `all_taps`: every VM hangs on a tap, not one for each node. `sshd`: one in each VM. `joins`: a running lab with which
    this one shares the physical networks that both have, and nothing else. It has to outlive this one."""

    def __init__(
        self,
        topology_file: Path | str,
        build_dir: Path | str,
        *,
        fast_path: bool = True,
        xdp: str = "auto",
        wire: str = "bridge",
        bridge_netfilter: bool = False,
        foreign: Collection[str] = (),
        all_taps: bool = False,
        sshd: bool = True,
        joins: Lab | None = None,
        name: str | None = None,
        artefacts: Path | None = None,
        progress: Progress = lambda what: None,
    ):
        if os.geteuid() != 0:
            raise LabError("the lab needs root: it makes namespaces")
        self.build_dir = Path(build_dir).resolve()
        self.fiplane = self.build_dir / "fiplane"
        self.tools = self.build_dir / "tests" / "support"
        self.topology = Topology.load(self.fiplane, Path(topology_file))
        self.fast_path = fast_path
        self.xdp = xdp
        self.wire_kind = wire
        self.bridge_netfilter = bridge_netfilter
        self.all_taps = all_taps
        self.sshd = sshd
        self.name = name or f"lab-{os.getpid()}-{random.randrange(16**4):04x}"
        self.agent_arguments = ["--xdp", xdp]
        self.artefacts = artefacts
        self.progress = progress
        self.nodes: dict[str, LabNode] = {}
        self.foreign: dict[str, LabNode] = {}
        self.vms: dict[str, Vm] = {}
        self.outside: dict[str, OutsideHost] = {}
        self._foreign_names = foreign
        self._joins = joins
        self._source_file = Path(topology_file)
        self._old_handler = None
        self._closed = False

    def __enter__(self) -> Lab:
        try:
            self.open()
        except BaseException:
            self.close(failed=True)
            raise
        return self

    def __exit__(self, kind, value, traceback) -> None:
        self.close(failed=kind is not None)

    def open(self) -> None:
        """Brings everything up, in this order: wire, nodes, VMs, agents, VMs with a macvtap, which needs a device that the
        agent makes; returns when the network carries traffic."""
        self._catch_sigterm()
        for leftover in remove_leftovers():
            self.progress(f"removed what a killed run left behind: {leftover}")
        self.state = StateDirectory(self.name)
        self.topology_file = self.state.path / "topology.yaml"
        shutil.copyfile(self._source_file, self.topology_file)
        self.keys = Keys(self.state.path / "keys")
        self.progress(f"namespaces for {len(self.topology.nodes)} nodes and {len(self.topology.vm_ports())} VMs")
        self._make_namespaces()
        self._connect_nodes()
        if self._joins is not None:
            self._join_physical_networks(self._joins)
        for vm in self.vms.values():
            if not isinstance(vm, MacvtapVm):
                self.plug(vm)
        self.progress("one agent per node, one OpenSSH server per VM")
        for node in self.nodes.values():
            node.start_agent()
        if self.sshd:
            self._start_sshd()
        self.progress("waiting for the agents")
        for node in self.nodes.values():
            wait_for(f"agent of {node.name} (log: {node.log})", node.agent_answers)
        for vm in self.vms.values():
            if isinstance(vm, MacvtapVm):
                self.plug(vm)
        # Now that the agents have not refused it, the kernel has VLAN devices where hosts outside need one.
        self._add_gateways()
        self.wait_until_ready()

    def _make_namespaces(self) -> None:
        self.wire = Namespace(self.state, "wire")
        for node in self.topology.nodes.values():
            where = self.foreign if node.name in self._foreign_names else self.nodes
            where[node.name] = LabNode(self, node)
        with_tap: set[str] = set()
        # The last VM of each node gets the tap, so that a node with several has both kinds.
        for port in reversed(self.topology.vm_ports()):
            assert port.node is not None
            source = self.topology.below_macvtap(port)
            if source:
                self.vms[port.name] = MacvtapVm(self.state, port, source)
                continue
            self.vms[port.name] = Vm(self.state, port, tap=self.all_taps or port.node not in with_tap)
            with_tap.add(port.node)
        self.vms = dict(reversed(self.vms.items()))
        for holder in (self.wire, *(item.namespace for item in (*self.sites(), *self.vms.values()))):
            holder.wait_until_up()

    def _connect_nodes(self) -> None:
        if self.wire_kind == "bridge":
            self.wire.run(
                "ip link add wire type bridge stp_state 0 mcast_snooping 0; ip link set wire up\n"
                "echo 0 > /proc/sys/net/bridge/bridge-nf-call-iptables || true"
            )
        else:
            self.wire.run("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding || true")
        # auto: XDP is native where packets go from tunnel to tunnel, as they do on a legacy router's node and at a hub.
        relays = any(not router.distributed for router in self.topology.routers.values()) or any(
            network.hub for network in self.topology.networks.values()
        )
        xdp_likely = self.xdp == "native" or (self.xdp == "auto" and relays)
        for node in self.sites():
            node.connect(self.wire)
            if xdp_likely:
                node.imitate_hardware(self.wire)

        for name in self.topology.physical_networks:
            bridge = self.physical_wire(name)
            if bridge != "wire":
                self.wire.run(f"ip link add {bridge} type bridge stp_state 0 mcast_snooping 0; ip link set {bridge} up")
            for node in self.nodes.values():
                if name in node.node.physical_networks:
                    node.connect_physical(self.wire, name)

    def _join_physical_networks(self, other: Lab) -> None:
        """A cable for each physical network that both have, from bridge to bridge."""
        shared = self.topology.physical_networks.keys() & other.topology.physical_networks.keys()
        for number, name in enumerate(sorted(shared)):
            near, far = f"join{number}", f"{self.name[-8:]}-{number}"
            mtu = f"mtu {self.topology.physical_networks[name]}"
            self.wire.run(
                f"ip link add {near} {mtu} type veth peer name {far} {mtu} netns {other.wire.pid}\n"
                f"ip link set {near} master {self.physical_wire(name)} up"
            )
            other.wire.run(f"ip link set {far} master {other.physical_wire(name)} up")

    def physical_wire(self, physical_network: str) -> str:
        """The bridge in the wire's namespace that is this physical network. It passes VLAN tags as they are."""
        for node in self.topology.nodes.values():
            if node.physical_networks.get(physical_network) == node.underlay_device:
                return "wire"
        return f"phys{list(self.topology.physical_networks).index(physical_network)}"

    def wire_port(self, node: str, physical_network: str | None = None) -> str:
        """The wire's end of a node's cable: to a physical network, or the underlay."""
        here = self.topology.nodes[node]
        if physical_network is None or here.physical_networks[physical_network] == here.underlay_device:
            return node
        position = list(self.topology.nodes).index(node)
        return f"{self.physical_wire(physical_network)}-{position}"

    def plug(self, vm: Vm) -> None:
        """As the hypervisor of its node does."""
        node = self.site(vm.node)
        if isinstance(vm, MacvtapVm):
            wait_for(f"{vm.source} of {vm.node}", lambda: node.has_device(vm.source))
        vm.plug(node.namespace, self.tools / "tap_relay")

    def add_outside_host(self, name: str, network: str, address: str) -> OutsideHost:
        """Somebody on a provider network whom the topology does not list. `address`: with prefix length."""
        on = self.topology.networks[network]
        host = self.outside[name] = OutsideHost(self.state, name, on, address)
        host.namespace.wait_until_up()
        host.connect(self.wire, self.physical_wire(on.physical_network), len(self.outside))
        return host

    def _add_gateways(self) -> None:
        """The hosts that external provider networks have as gateway."""
        for network in self.topology.external_networks():
            for address in self.topology.outside_gateways(network):
                self.add_outside_host(f"outside{len(self.outside) or ''}", network.name, address)

    def _start_sshd(self) -> None:
        in_parallel([lambda vm=vm: vm.start_sshd(self.keys) for vm in self.vms.values()], workers=4)
        self.write_known_hosts()
        for vm in self.vms.values():
            wait_for(f"sshd of {vm.name}", lambda vm=vm: vm.run(["ss", "-Hltn", "sport = :22"]).stdout)

    def write_known_hosts(self) -> None:
        self.keys.write_known_hosts({address: vm.name for address, vm in self._vms_by_address().items()})

    def _vms_by_address(self) -> dict[str, Vm]:
        """By floating IP, and by fixed IP where only one VM has it."""
        fixed = Counter(vm.port.fixed_ip for vm in self.vms.values())
        owners = {vm.port.fixed_ip: vm for vm in self.vms.values() if fixed[vm.port.fixed_ip] == 1}
        for fip in self.topology.floating_ips.values():
            if fip.port in self.vms:
                owners[fip.address] = self.vms[fip.port]
        return owners

    def site(self, name: str) -> LabNode:
        """A node of the topology, whoever runs it."""
        return self.nodes.get(name) or self.foreign[name]

    def sites(self) -> list[LabNode]:
        return [*self.nodes.values(), *self.foreign.values()]

    def wait_until_ready(self) -> None:
        """Every node knows its floating IPs, and the fast path carries those of Neutron's distributed routers where it
        is on."""
        for node in self.nodes.values():
            wait_for(f"floating IPs of {node.name}", lambda node=node: self._is_ready(node))

    def _is_ready(self, node: LabNode) -> bool:
        status = node.agent_answers()
        if status is None:
            return False
        states = {row["floating_ip"]: row["state"] for row in status["floating_ips"]}
        wanted = node.local_fips()
        fast = {fip for fip in wanted if self.topology.router_of(fip).is_dvr} if self.fast_path else set()
        return wanted <= states.keys() and all(states[fip] == "fast" for fip in fast)

    def set_fast_path(self, on: bool) -> None:
        for node in self.nodes.values():
            node.set_fast_path(on)
        self.fast_path = on

    def vm_of(self, address: str) -> Vm:
        return self._vms_by_address()[address]

    def reload(self, change: Callable[[str], str], nodes: Iterable[str] | None = None) -> None:
        """Rewrites the topology file by `change(text)` and has the agents re-read it. A file that is wrong changes
        nothing."""
        new = self.topology_file.with_suffix(".new")
        new.write_text(change(self.topology_file.read_text()))
        self.topology = Topology.load(self.fiplane, new)
        new.rename(self.topology_file)
        if self.sshd:
            self.write_known_hosts()
        for name in nodes or self.nodes:
            self.nodes[name].fiplane("reload")

    def keep(self) -> None:
        """Leaves everything running when the process ends."""
        self.state.keep()
        self._closed = True
        self._restore_sigterm()

    def collect(self, directory: Path) -> None:
        """Writes logs and what the kernel holds, per node, for whoever looks at a failure."""
        directory.mkdir(parents=True, exist_ok=True)
        for log in self.state.path.glob("*.log"):
            shutil.copy(log, directory)
        script = (
            "ip -s -d link; ip address; ip rule; ip route show table all; ip neigh; bridge -d fdb; nft list ruleset;"
            "ls /run/netns; for ns in $(ls /run/netns); do echo \"== $ns\";"
            "nsenter --net=/run/netns/$ns sh -c"
            " 'ip -s -d link; ip address; ip rule; ip route show table all; ip neigh; nft list ruleset;"
            "  cat /proc/net/nf_conntrack'; done;"
            f"{self.fiplane} status; {self.fiplane} status -o json;"
            "for map in /sys/fs/bpf/fiplane/maps/*; do echo \"== $map\"; bpftool map dump pinned $map; done"
        )
        for node in self.sites():
            with contextlib.suppress(Exception):
                result = node.run(["sh", "-c", script + " 2>&1"], check=False, timeout=20)
                (directory / f"node-{node.name}.txt").write_text(result.stdout)
        for vm in self.vms.values():
            with contextlib.suppress(Exception):
                result = vm.run(["sh", "-c", "ip -s -d link; ip address; ip route; ip neigh"], check=False, timeout=20)
                (directory / f"vm-{vm.name}.txt").write_text(result.stdout)

    def close(self, failed: bool = False) -> None:
        if self._closed or not hasattr(self, "state"):
            return
        self._closed = True
        if failed and self.artefacts is not None:
            with contextlib.suppress(Exception):
                self.collect(self.artefacts / self.name)
        with uninterrupted():
            agents = [node.agent.pid for node in self.nodes.values() if node.agent is not None]
            end_processes(agents)
            try:
                remove_lab(self.state.path)
            finally:
                for item in (*self.sites(), *self.vms.values(), *self.outside.values()):
                    item.namespace.close()
                if hasattr(self, "wire"):
                    self.wire.close()
                self._restore_sigterm()

    def _catch_sigterm(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._old_handler = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))

    def _restore_sigterm(self) -> None:
        if self._old_handler is not None:
            signal.signal(signal.SIGTERM, self._old_handler)
            self._old_handler = None


@contextlib.contextmanager
def uninterrupted():
    """A second Ctrl-C must not stop the clean-up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    old = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, old):
            signal.signal(number, handler)
