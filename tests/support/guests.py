# SPDX-License-Identifier: Apache-2.0
"""VMs as network namespaces: a NIC (veth, or a tap or macvtap behind tap_relay), an address, and a real OpenSSH server. And
hosts on a physical network that are none of the cloud's."""

from __future__ import annotations

import subprocess
from pathlib import Path

from namespaces import LabError, Namespace, StateDirectory, end_processes
from timing import scaled
from topology import Network, Port

SSHD_CONFIG = """\
Port 22
AddressFamily inet
HostKey {keys}/host_{vm}
AuthorizedKeysFile {keys}/client.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
UseDNS no
PrintMotd no
PidFile none
MaxStartups 200
LogLevel INFO
"""

# The VM's own users: whether root may log in must not depend on the machine (sshd refuses a locked password).
PASSWD = "root:x:0:0:root:{home}:/bin/sh\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n"
SHADOW = "root:*:19000:0:99999:7:::\nsshd:*:19000:0:99999:7:::\n"


class Keys:
    """One client key for everybody who logs in, and one host key per VM. P-256, which libcrypto has in assembler: ed25519
    and curve25519 are portable C in OpenSSH and half of a login's time where instructions are emulated."""

    def __init__(self, directory: Path):
        self.directory = directory
        directory.mkdir(mode=0o700)
        self.make("client")

    @property
    def client(self) -> Path:
        return self.directory / "client"

    @property
    def known_hosts(self) -> Path:
        return self.directory / "known_hosts"

    def make(self, name: str) -> str:
        """Makes a key pair and returns its public half."""
        path = self.directory / name
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-C", name, "-f", str(path)], check=True, timeout=scaled(30)
        )
        return path.with_suffix(".pub").read_text().strip()

    def write_known_hosts(self, hosts: dict[str, str]) -> None:
        """Address -> the VM whose key it must show: a login at the wrong VM fails."""
        lines = []
        for address, vm in hosts.items():
            kind, key = (self.directory / f"host_{vm}.pub").read_text().split()[:2]
            lines.append(f"{address} {kind} {key}\n")
        self.known_hosts.write_text("".join(lines))

    def ssh_command(self, address: str, *remote: str, timeout: int = 5) -> list[str]:
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": str(self.known_hosts),
            "GlobalKnownHostsFile": "/dev/null",
            "IdentitiesOnly": "yes",
            "PreferredAuthentications": "publickey",
            "KexAlgorithms": "ecdh-sha2-nistp256",
            "ConnectTimeout": str(round(scaled(timeout))),
            "LogLevel": "ERROR",
        }
        words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        return ["ssh", "-F", "/dev/null", "-i", str(self.client), *words, f"root@{address}", *remote]


class Vm:
    """A VM of the topology. `tap`: its NIC is attached to the node by a tap device and tap_relay, else by a veth."""

    def __init__(self, state: StateDirectory, port: Port, tap: bool):
        self.port = port
        self.tap = tap
        self.name = port.name
        self.namespace = Namespace(state, port.name)
        self.run = self.namespace.run
        self.start = self.namespace.start
        self._relay: subprocess.Popen | None = None
        self._sshd: subprocess.Popen | None = None

    @property
    def node(self) -> str:
        assert self.port.node is not None
        return self.port.node

    def plug(self, node: Namespace, tap_relay: Path) -> None:
        """Makes the port's device on the node and eth0 here; then configures eth0."""
        device = self.port.device
        if self.tap:
            self._start_relay(node, tap_relay, device)
        else:
            node.run(["ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", self.namespace.pid])
        node.run(f"echo 1 > /proc/sys/net/ipv6/conf/{device}/disable_ipv6; ip link set {device} up")
        self.configure()

    def _start_relay(self, node: Namespace, tap_relay: Path, device: str) -> None:
        command = [tap_relay, node.netns_path, device, self.namespace.netns_path, "eth0"]
        log = open(self.namespace.state.path / f"relay-{self.name}.log", "w")
        with log:
            self._relay = node.start(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._relay.stdout is not None
        if self._relay.stdout.readline().strip() != "ready":
            raise LabError(f"tap_relay of {self.name} did not start: {Path(log.name).read_text().strip()}")

    def _end_relay(self) -> None:
        if self._relay is not None:
            end_processes([self._relay.pid])
            self._relay.wait()
            self._relay = None

    def configure(self) -> None:
        port = self.port
        default = f"ip route add default via {port.gateway}" if port.gateway else ":"
        self.run(
            f"""
            echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6
            ip link set eth0 address {port.mac} mtu {port.mtu} up
            ip address add {port.fixed_ip}/{port.prefix_length} dev eth0
            {default}
            """
        )

    def unplug(self, node: Namespace) -> None:
        """Takes the NIC away, as a hypervisor does when it stops the VM."""
        if self._relay is not None:
            self._end_relay()
        else:
            node.run(["ip", "link", "del", self.port.device])

    def start_sshd(self, keys: Keys) -> None:
        keys.make(f"host_{self.name}")
        home = self.namespace.state.path / f"home-{self.name}"
        home.mkdir(mode=0o700)
        files = {"passwd": PASSWD.format(home=home), "shadow": SHADOW}
        for name, text in files.items():
            path = home / name
            path.write_text(text)
            self.run(["mount", "--bind", path, f"/etc/{name}"])
        config = home / "sshd_config"
        config.write_text(SSHD_CONFIG.format(keys=keys.directory, vm=self.name))
        with open(self.namespace.state.path / f"sshd-{self.name}.log", "w") as log:
            self._sshd = self.start(["/usr/sbin/sshd", "-D", "-e", "-f", config], stdout=log, stderr=log)


class MacvtapVm(Vm):
    """A VM whose NIC is a macvtap in mode bridge on `source`, as libvirt makes it (<interface type="direct">)."""

    def __init__(self, state: StateDirectory, port: Port, source: str):
        super().__init__(state, port, tap=True)
        self.source = source
        self.device = f"macvtap{port.id[:7]}"

    def plug(self, node: Namespace, tap_relay: Path) -> None:
        """`source` must be there."""
        # Character devices of macvtaps are numbered for the whole machine and named by the index in their namespace, so
        # /dev may have another's. sysfs shows those of the namespace in which it was mounted.
        file = f"/run/tap-{self.name}"  # on the node, which has a /run of its own
        node.run(
            f"ip link add link {self.source} name {self.device} address {self.port.mac} type macvtap mode bridge\n"
            f"ip link set {self.device} allmulticast on up\n"
            f"mkdir {file}.sys; mount -t sysfs none {file}.sys\n"
            f"number=$(cat {file}.sys/class/net/{self.device}/tap*/dev); umount {file}.sys; rmdir {file}.sys\n"
            f"rm -f {file}; mknod {file} c ${{number%:*}} ${{number#*:}}"
        )
        self._start_relay(node, tap_relay, file)
        self.configure()

    def unplug(self, node: Namespace) -> None:
        self._end_relay()
        # It went with its source if that was deleted.
        node.run(["ip", "link", "del", self.device], check=False)


class OutsideHost:
    """A host on a physical network, with an address on one network of it: tagged if that is a VLAN."""

    def __init__(self, state: StateDirectory, name: str, network: Network, address: str):
        self.name = name
        self.network = network
        self.address = address
        self.device = f"eth0.{network.vlan}" if network.vlan else "eth0"
        self.namespace = Namespace(state, name)
        self.run = self.namespace.run
        self.start = self.namespace.start

    def connect(self, wire: Namespace, bridge: str, number: int) -> None:
        port, mtu, vlan = f"outside{number}", self.network.mtu, self.network.vlan
        self.run(
            "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6\n"
            f"ip link add eth0 mtu {mtu} type veth peer name {port} mtu {mtu} netns {wire.pid}; ip link set eth0 up"
        )
        wire.run(f"ip link set {port} master {bridge} up")
        if vlan:
            self.run(f"ip link add {self.device} link eth0 type vlan id {vlan}; ip link set {self.device} up")
        self.run(["ip", "address", "add", self.address, "dev", self.device])
