# SPDX-License-Identifier: Apache-2.0
"""One node with Neutron's L3 agent, its VMs and a host outside, as namespaces.

    with NeutronLab("dvr", "openvswitch") as lab:
        lab.add_fip("203.0.113.103", "vm3")
        lab.outside.run(["ping", "-c", "1", "203.0.113.103"])

The agent is the installed one; l3_agent.py answers it in neutron-server's place from a file that the lab writes. The lab does
what else a node has of Neutron: it plugs the agent's devices into their networks as the L2 agent does, and VMs as Nova does.
Everything is in namespaces; leaving the `with` block, an exception, SIGINT and SIGTERM remove it, and what a killed run left
is removed by the next lab.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from guests import Vm
from lab import uninterrupted, wait_for
from namespaces import LabError, Namespace, StateDirectory, end_processes, remove_lab, remove_leftovers
from neutron_cloud import LEGACY, Agent, Cloud, FloatingIp, Network, Router, VmPort
from neutron_cloud import Vm as CloudVm
from neutron_routers import METADATA_PORT
from open_vswitch import NeutronBridges
from timing import scaled
from topology import Port

HERE = Path(__file__).resolve().parent
PYTHON = "/usr/bin/python3"  # Debian's, for which its Neutron is
WEB_PORT = 8080
HOST = "node"
NIC = "eth1"  # of the node, on the external network
VRRP_NETWORK = "169.254.192.0/18"  # Neutron's l3_ha_net_cidr

Answers = dict[str, Any]


def example(mode: str, ha: bool = False) -> Cloud:
    """One router, two networks on it. Floating IPs for vm1 and vm2, which are on one each; vm3 is vm1's neighbour and has none.
    `mode`: of the agent: dvr (the router's central part is elsewhere), dvr_snat or legacy. `ha`: a highly available one, the
    only one of its group."""
    here = Agent(HOST, mode, {} if mode == LEGACY else {"public": "203.0.113.11"})
    elsewhere = Agent("network-node", "dvr_snat", {"public": "203.0.113.12"})
    central = elsewhere if mode == "dvr" else here
    return Cloud(
        agents=[here, elsewhere],
        networks=[
            Network("public", "203.0.113.0/24", mtu=1500, external=True),
            Network("net1", "10.1.1.0/24"),
            Network("net2", "10.1.2.0/24"),
            *([Network("vrrp", VRRP_NETWORK)] if ha else []),
        ],
        vms=[
            CloudVm("vm1", "net1", "10.1.1.11", HOST),
            CloudVm("vm2", "net2", "10.1.2.12", HOST),
            CloudVm("vm3", "net1", "10.1.1.13", HOST),
        ],
        routers=[
            Router("r1", ["net1", "net2"], "public", "203.0.113.10", distributed=mode != LEGACY, host=central.host,
                   vrrp=("vrrp", "169.254.192.10") if ha else None)
        ],
        floating_ips=[FloatingIp("203.0.113.101", "vm1"), FloatingIp("203.0.113.102", "vm2")],
    )


def answers(cloud: Cloud, change: int) -> Answers:
    """What l3_agent.py reads. A host has a port on an external network as long as one of its distributed routers does."""
    routers = cloud.sync_routers(HOST)
    ids = {network.name: cloud.id(f"network/{network.name}") for network in cloud.networks}
    subnets = [cloud.id(f"subnet/{network.name}") for network in cloud.networks]
    gateways = {port["network_id"]: port for row in routers for port in row.get("_floatingip_agent_interfaces", [])}
    return {
        "change": change,
        "routers": routers,
        "ports_by_subnet": {subnet: cloud.ports_by_subnet(subnet) for subnet in subnets},
        "agent_gateway_ports": gateways,
        "networks": [{"id": ids[net.name], "name": net.name, "mtu": net.mtu} for net in cloud.networks],
    }


@dataclass(frozen=True)
class Segment:
    """A network on the node. `vlan`: in Open vSwitch."""

    id: str
    vlan: int
    mtu: int


@dataclass(frozen=True)
class RouterPort:
    """A port that the agent may have made."""

    id: str
    segment: Segment

    @property
    def tap(self) -> str:
        """Its device on the node, where the driver makes one."""
        return f"tap{self.id}"[:14]


CONFIGURATION = """\
[DEFAULT]
host = {host}
# Between the agent and what l3_agent.py has in the server's place, in one process.
transport_url = fake:/
agent_mode = {mode}
interface_driver = {driver}
state_path = {state}
log_file = {log}
# No random wait before the first synchronization.
periodic_fuzzy_delay = 0
# Seconds between two words of an active router. Others wait for three.
ha_vrrp_advert_int = 1

[AGENT]
# The agent runs as root already. It takes sudo if there is nothing here.
root_helper = env

# Each announcement of an address takes one of these for some seconds; by default there is one per core.
[privsep]
thread_pool_size = 16

[privsep_namespace]
thread_pool_size = 16

[oslo_concurrency]
lock_path = {state}/lock
"""


class LinuxBridge:
    """Networks as bridges, as neutron-linuxbridge-agent makes them where nothing leads to other nodes."""

    driver = "linuxbridge"
    is_in_kernel = True

    def __init__(self, node: Namespace, ports: Callable[[], list[RouterPort]]):
        self._node = node
        self._ports = ports

    def __enter__(self) -> LinuxBridge:
        return self

    def __exit__(self, *exception) -> None:
        pass

    @staticmethod
    def _bridge(segment: Segment) -> str:
        return f"brq{segment.id[:11]}"

    def add_segment(self, segment: Segment, device: str | None) -> None:
        """`device`: the node's NIC on an external network."""
        bridge = self._bridge(segment)
        self._node.run(
            f"ip link add {bridge} mtu {segment.mtu} type bridge forward_delay 0 stp_state 0\n"
            f"echo 1 > /proc/sys/net/ipv6/conf/{bridge}/disable_ipv6; ip link set {bridge} up\n"
            + (f"ip link set {device} master {bridge} up" if device else "")
        )

    def plug_vm(self, device: str, segment: Segment) -> None:
        self._node.run(["ip", "link", "set", device, "master", self._bridge(segment)])

    def watch_command(self) -> list[str]:
        """Prints something whenever the agent may have made a port."""
        return ["ip", "monitor", "link"]

    def wire(self) -> None:
        """Plugs the ports that the agent made."""
        bridges = {port.tap: self._bridge(port.segment) for port in self._ports()}
        for link in json.loads(self._node.run(["ip", "-j", "link", "show"]).stdout):
            name, bridge = link["ifname"], bridges.get(link["ifname"])
            if bridge and link.get("master") != bridge:
                # The agent may take it away at any time.
                self._node.run(["ip", "link", "set", name, "master", bridge, "up"], check=False)

    def describe(self) -> str:
        return "bridge -d link; bridge fdb"


class OpenVSwitch:
    """Networks as local VLANs of br-int."""

    driver = "openvswitch"
    datapath_type = "netdev"

    def __init__(self, node: Namespace, ports: Callable[[], list[RouterPort]]):
        self._node = node
        self._ports = ports
        self.daemons = NeutronBridges(node, self.datapath_type)

    @property
    def is_in_kernel(self) -> bool:
        return self.datapath_type == "system"

    def __enter__(self) -> OpenVSwitch:
        self.daemons.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        self.daemons.__exit__(*exception)

    def add_segment(self, segment: Segment, device: str | None) -> None:
        """`device`: the node's NIC on an external network."""
        if device:
            self.daemons.attach_external(device, segment.vlan)

    def plug_vm(self, device: str, segment: Segment) -> None:
        self.daemons.vsctl("add-port", "br-int", device, f"tag={segment.vlan}")

    def watch_command(self) -> list[str]:
        """Prints something whenever the agent may have made a port."""
        return ["ovsdb-client", "monitor", self.daemons.socket, "Port", "name,tag"]

    def wire(self) -> None:
        """Gives the ports that the agent made their network's tag. They come as trunks of a VLAN that is nobody's."""
        tags = {port.id: port.segment.vlan for port in self._ports()}
        columns = ["--format=json", "--columns=name,external_ids", "list", "Interface"]
        for name, (_, identities) in json.loads(self.daemons.vsctl(*columns))["data"]:
            tag = tags.get(dict(identities).get("iface-id", ""))
            # The agent may take it away at any time.
            if tag and self.daemons.vsctl("--if-exists", "get", "port", name, "tag").strip() not in ("", str(tag)):
                words = f"clear port {name} vlan_mode -- --if-exists clear port {name} trunks -- --if-exists set port {name}"
                self.daemons.vsctl("--if-exists", *words.split(), f"tag={tag}")

    def describe(self) -> str:
        database = f"ovs-vsctl --db={self.daemons.socket} show"
        control = f"{self.daemons.directory}/ovs-vswitchd.*.ctl"
        return f"{database}; for bridge in br-int br-ex; do ovs-appctl -t $(echo {control}) fdb/show $bridge; done"


class OpenVSwitchKernel(OpenVSwitch):
    """The same in the kernel, whose module Open vSwitch needs for that."""

    datapath_type = "system"


DRIVERS = {"openvswitch": OpenVSwitch, "openvswitch-kernel": OpenVSwitchKernel, "linuxbridge": LinuxBridge}


class OutsideHost:
    """On an external network, whose gateway it is."""

    def __init__(self, state: StateDirectory, network: Network):
        self.name = "outside"
        self.network = network
        self.address = network.gateway_ip
        self.namespace = Namespace(state, self.name)
        self.run = self.namespace.run
        self.start = self.namespace.start

    def plug(self, node: Namespace, device: str) -> None:
        mtu = self.network.mtu
        self.run(
            "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6\n"
            f"ip link add eth0 mtu {mtu} type veth peer name {device} mtu {mtu} netns {node.pid}\n"
            f"ip address add {self.address}/{self.network.prefix_length} dev eth0; ip link set eth0 up"
        )


class NeutronLab:
    """`mode`: the agent's: dvr, dvr_snat or legacy. `driver`: of DRIVERS. `ha` and `cloud`: instead of example(), with
    one external network. All of its VMs on HOST are there, the agent knows all of its routers on HOST."""

    def __init__(
        self, mode: str, driver: str, *, ha: bool = False, cloud: Cloud | None = None, artefacts: Path | None = None
    ):
        if os.geteuid() != 0:
            raise LabError("the lab needs root: it makes namespaces")
        self.mode = mode
        self.driver = driver
        self.artefacts = artefacts
        self.cloud = cloud or example(mode, ha)
        self._change = 0
        self.name = f"neutron-{os.getpid()}-{random.randrange(16**4):04x}"
        self.vms: dict[str, Vm] = {}
        self.agent: subprocess.Popen | None = None
        self._running = contextlib.ExitStack()
        self._wiring: threading.Thread | None = None
        self._log_offset = 0  # where the log of the running agent begins
        self._closed = False

    def __enter__(self) -> NeutronLab:
        try:
            self.start()
        except BaseException:
            self.close(failed=True)
            raise
        return self

    def __exit__(self, kind, value, traceback) -> None:
        self.close(failed=kind is not None)

    def start(self) -> None:
        """Returns when the agent has built the router."""
        if threading.current_thread() is threading.main_thread():
            old = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
            self._running.callback(signal.signal, signal.SIGTERM, old)
        remove_leftovers()
        self.state = StateDirectory(self.name)
        self.neutron_state = self.state.path / "neutron"
        self.log = self.state.path / "l3-agent.log"
        self.neutron_state.mkdir()
        self.node = Namespace(self.state, HOST)
        external = next(network for network in self.cloud.networks if network.external)
        self.outside = OutsideHost(self.state, external)
        for port in self.cloud.vm_ports(HOST):
            self.vms[port.name] = Vm(self.state, _port(port, self.cloud.vm(port.name).network), tap=False)
        for holder in (self.node, self.outside.namespace, *(vm.namespace for vm in self.vms.values())):
            holder.wait_until_up()
        self.switch = self._running.enter_context(DRIVERS[self.driver](self.node, self._router_ports))
        self._plug()
        self._start_answerers()
        # Floating IPs come when the router is there, as they do in life. For each that a new distributed router has from
        # the beginning the agent fails once: it adds a rule to a namespace that it has not made yet.
        whole, self.cloud = self.cloud, replace(self.cloud, floating_ips=[])
        self._write()
        self._start_wiring()
        self.start_agent()
        if whole.floating_ips:
            self.change(whole)

    def _segment(self, name: str) -> Segment:
        names = [network.name for network in self.cloud.networks]
        return Segment(self.cloud.id(f"network/{name}"), names.index(name) + 1, self.cloud.network(name).mtu)

    def _router_ports(self) -> list[RouterPort]:
        segments = {segment.id: segment for segment in (self._segment(network.name) for network in self.cloud.networks)}
        ports = []
        for row in self._answers()["routers"]:
            lists = ("_interfaces", "_snat_router_interfaces", "_floatingip_agent_interfaces")
            ports += [port for key in lists for port in row.get(key, [])]
            ports += [row[key] for key in ("gw_port", "_ha_interface") if row.get(key)]
        return [RouterPort(port["id"], segments[port["network_id"]]) for port in ports]

    def _plug(self) -> None:
        self.outside.plug(self.node, NIC)
        for network in self.cloud.networks:
            self.switch.add_segment(self._segment(network.name), NIC if network.external else None)
        for vm in self.vms.values():
            vm.plug(self.node, Path("/nonexistent"))
            assert vm.port.device is not None
            self.switch.plug_vm(vm.port.device, self._segment(vm.port.network))
        # A frame that leaves Linux for a switch in user space has to be complete.
        for host in (self.outside, *self.vms.values()):
            if not self.switch.is_in_kernel:
                host.run(["ethtool", "-K", "eth0", "tx", "off"])

    def _start_answerers(self) -> None:
        answerer = [PYTHON, HERE / "answerer.py"]
        for host in (self.outside, *self.vms.values()):
            host.start([*answerer, "--port", WEB_PORT])
        self.node.start([*answerer, "--unix", self.neutron_state / "metadata_proxy"])
        for host in (self.outside, *self.vms.values()):
            wait_for(f"web server of {host.name}", lambda host=host: host.run(["ss", "-Hltn", f"sport = :{WEB_PORT}"]).stdout)

    def _start_wiring(self) -> None:
        watcher = self.node.start(self.switch.watch_command(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert watcher.stdout is not None

        def wire() -> None:
            for _ in watcher.stdout:
                # When the lab ends, what it asks is gone.
                with contextlib.suppress(LabError):
                    self.switch.wire()

        self._wiring = threading.Thread(target=wire, daemon=True)
        self._wiring.start()

        def stop() -> None:
            end_processes([watcher.pid])
            watcher.wait()
            self._wiring.join(timeout=scaled(30))

        self._running.callback(stop)

    def configuration(self) -> str:
        text = CONFIGURATION.format(
            host=HOST, mode=self.mode, driver=self.switch.driver, state=self.neutron_state, log=self.log
        )
        if isinstance(self.switch, OpenVSwitch):
            text += f"\n[OVS]\novsdb_connection = {self.switch.daemons.socket}\ndatapath_type = {self.switch.datapath_type}\n"
        return text

    # The agent

    def start_agent(self) -> None:
        """Returns when the agent has synchronized all routers."""
        file = self.state.path / "l3_agent.ini"
        file.write_text(self.configuration())
        self._log_offset = self.log.stat().st_size if self.log.exists() else 0
        command = [PYTHON, HERE / "l3_agent.py", self._cloud_file, "--config-file", file]
        with open(self.state.path / "l3-agent-output.log", "a") as output:
            # Temporary files, too, go with the lab.
            path = f"{HERE / 'bin'}:{self.node.environment()['PATH']}"
            environment = {"TMPDIR": str(self.state.path), "PATH": path}
            self.agent = self.node.start(command, stdout=output, stderr=output, environment=environment)
        self._wait("L3 agent started", [row["id"] for row in self._answers()["routers"]])

    def stop_agent(self, signal_number: int = signal.SIGTERM) -> None:
        """Ends the agent and leaves what it has built, and its metadata proxies."""
        assert self.agent is not None
        # nsenter replaces itself by the agent, so this pid is the agent's.
        self.agent.send_signal(signal_number)
        self.agent.wait(timeout=scaled(30))
        self.agent = None

    def kill_agent(self) -> None:
        self.stop_agent(signal.SIGKILL)

    def agent_log(self) -> str:
        """Of the running agent, or of the last one."""
        with open(self.log, errors="replace") as log:
            log.seek(self._log_offset)
            return log.read()

    def errors(self) -> list[str]:
        """What the agent logged as an error, without tracebacks."""
        return re.findall(r"^\S+ \S+ \d+ (?:ERROR|CRITICAL) \S+ \[.*$", self.agent_log(), re.MULTILINE)

    def _wait(self, after: str, routers: list[str]) -> None:
        """Until the agent has updated or deleted these routers after it had logged `after`, their ports are plugged, and
        those that are highly available are active."""
        what = f"routers {routers} after {after.strip()} (log: {self.log})"
        wait_for(what, lambda: self._has_done(after, routers), timeout=120)  # an agent may start for minutes
        self.switch.wire()
        for row in self._answers()["routers"]:
            if row["id"] in routers and row["ha"]:
                self.wait_until_active(row["id"])

    def wait_until_active(self, router_id: str) -> None:
        """Until the addresses on a router's ports are those that the agent wrote for keepalived, and what the agent starts when
        it hears of that answers."""
        file = self.neutron_state / "ha_confs" / router_id / "keepalived.conf"

        def is_active() -> bool:
            wanted = re.findall(r"^ +([\d.]+/\d+) dev q", file.read_text(), re.MULTILINE)
            there = self.run_in(f"qrouter-{router_id}", f"ip -4 -o address show; ss -Hltn sport = :{METADATA_PORT}")
            return "LISTEN" in there and set(wanted) == set(re.findall(r": q\S+ +inet ([\d.]+/\d+)", there))

        wait_for(f"keepalived of {router_id}", is_active)

    def _has_done(self, after: str, routers: list[str]) -> bool:
        if self.agent is None or self.agent.poll() is not None:
            raise LabError(f"the L3 agent ended:\n{self._tail()}")
        _, found, log = (self.agent_log() if self.log.exists() else "").partition(after)
        if "Hit retry limit" in log:
            raise LabError(f"the L3 agent gave up:\n{self._tail()}")
        begun = {id: re.findall(rf"Starting router update for {id}, .*? update_id (\S+)\.", log) for id in routers}
        ended = set(re.findall(r"Finished a router (?:update|delete) for \S+, update_id (\S+)\.", log))
        return bool(found) and all(ended.intersection(updates) for updates in begun.values())

    def _tail(self) -> str:
        output = (self.state.path / "l3-agent-output.log").read_text(errors="replace").splitlines()[-15:]
        return "\n".join([*output, *(self.agent_log().splitlines()[-15:] if self.log.exists() else [])])

    # Changes, as the server tells of them

    @property
    def _cloud_file(self) -> Path:
        return self.state.path / "cloud.json"

    def _answers(self) -> Answers:
        return json.loads(self._cloud_file.read_text())

    def _write(self) -> None:
        new = self._cloud_file.with_suffix(".new")
        new.write_text(json.dumps(answers(self.cloud, self._change), indent=1))
        new.rename(self._cloud_file)

    def change(self, cloud: Cloud) -> None:
        """Returns when the agent, if it runs, has updated or deleted all routers that are different."""
        before = {row["id"]: row for row in self._answers()["routers"]}
        self.cloud = cloud
        self._change += 1
        self._write()
        after = {row["id"]: row for row in self._answers()["routers"]}
        if self.agent is not None:
            different = [id for id in before | after if before.get(id) != after.get(id)]
            self._wait(f"server change {self._change}\n", different)

    def add_fip(self, fip: str, vm: str) -> None:
        self.change(self.cloud.with_floating_ip(fip, vm))

    def move_fip(self, fip: str, vm: str) -> None:
        self.change(self.cloud.with_floating_ip(fip, vm))

    def remove_fip(self, fip: str) -> None:
        self.change(self.cloud.without_floating_ip(fip))

    def delete_router(self, name: str = "r1") -> None:
        """As a user has to: floating IPs first, then the gateway, with which the agent's port on the external network goes
        if no other router has one there."""
        gone = self.cloud.router(name)
        fips = [fip for fip in self.cloud.floating_ips if self.cloud.router_of(self.cloud.vm(fip.vm)) != gone]
        self.change(replace(self.cloud, floating_ips=fips))
        self.change(self.cloud.with_router(replace(gone, external=None, gateway=None)))
        self.change(replace(self.cloud, routers=[router for router in self.cloud.routers if router.name != name]))

    # Looking at it

    def netns(self) -> list[str]:
        """Those that the agent has made."""
        return sorted(self.node.run("ls /run/netns").stdout.split())

    def run_in(self, netns: str, command: str, *, check: bool = True) -> str:
        """What a shell command prints in a router's namespace. Not by `ip netns exec`, which hides bpffs."""
        return self.node.run(["nsenter", f"--net=/run/netns/{netns}", "sh", "-ec", command], check=check).stdout

    def collect(self, directory: Path) -> None:
        """Writes logs and what the kernel holds for whoever looks at a failure."""
        directory.mkdir(parents=True, exist_ok=True)
        for file in (*self.state.path.glob("*.log"), *self.state.path.glob("*.json"), *self.state.path.glob("*.ini")):
            shutil.copy(file, directory)
        look = "ip -s -d link; ip address; ip rule; ip route show table all; ip neigh"
        tables = "iptables-save; ip6tables-save; sysctl -a 2>&1 | grep -E 'net.ipv4.(conf|ip_|neigh)'; cat /proc/net/nf_conntrack"
        script = (
            f"{look}; {self.switch.describe()}; ls /run/netns; for ns in $(ls /run/netns); do echo \"== $ns\";"
            f"nsenter --net=/run/netns/$ns sh -c '{look}; {tables.replace(chr(39), chr(34))}'; done"
        )
        for host in (self.node, self.outside, *self.vms.values()):
            with contextlib.suppress(Exception):
                what = script if host is self.node else look
                result = host.run(["sh", "-c", f"({what}) 2>&1"], check=False, timeout=20)
                (directory / f"{host.name}.txt").write_text(result.stdout)

    def close(self, failed: bool = False) -> None:
        if self._closed:
            return
        self._closed = True
        if not hasattr(self, "state"):
            self._running.close()
            return
        if failed and self.artefacts is not None:
            with contextlib.suppress(Exception):
                self.collect(self.artefacts / self.name)
        with uninterrupted():
            if self.agent is not None:
                end_processes([self.agent.pid])
                self.agent.wait()
            try:
                self._running.close()
            finally:
                try:
                    remove_lab(self.state.path)
                finally:
                    for name in ("node", "outside"):
                        holder = getattr(self, name, None)
                        if holder is not None:
                            getattr(holder, "namespace", holder).close()
                    for vm in self.vms.values():
                        vm.namespace.close()


def _port(port: VmPort, network: str) -> Port:
    return Port(
        name=port.name,
        id=port.id,
        owner="compute:nova",
        network=network,
        node=HOST,
        router=None,
        fixed_ip=port.address,
        prefix_length=port.prefix_length,
        gateway=port.gateway,
        mac=port.mac,
        device=f"tap{port.id}"[:14],
        mtu=port.mtu,
    )
