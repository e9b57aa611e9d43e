# SPDX-License-Identifier: Apache-2.0
"""A real VM for the lab: QEMU, Debian's kernel, busybox and dropbear, its NIC a tap device that QEMU makes itself.

The other guests of the lab are namespaces, and tap_relay stands in for QEMU; this one is what they stand for. It has no
disk: everything it needs is in an initramfs that is made from the machine's own binaries.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from guests import Keys, Vm
from lab import LabNode, wait_for
from namespaces import LabError, end_processes

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "vmtests"))

import kernels  # noqa: E402

# Debian 12's own kernel: its modules are not compressed, so busybox can load them.
SERIES = "6.1"
MODULES = ("virtio_pci", "virtio_net")
BINARIES = ("/usr/sbin/dropbear", "/usr/bin/scp")
MEMORY_MIB = 256

INIT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /tmp /run
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /tmp
for module in {modules}; do insmod /modules/$module; done
hostname {name}
ip link set lo up
ip link set eth0 mtu {mtu} up
ip address add {address}/{length} dev eth0
ip route add default via {gateway}
echo guest: up
exec dropbear -F -E -s -m -p 22 -r /etc/dropbear/host
"""


class QemuGuest:
    """Takes the place of a VM of the lab: same port, MAC, address and floating IP. Close it before the lab."""

    def __init__(self, vm: Vm, node: LabNode, keys: Keys):
        self.vm = vm
        self.node = node
        self.keys = keys
        self.directory = vm.namespace.state.path / f"qemu-{vm.name}"
        self.console = vm.namespace.state.path / f"qemu-{vm.name}.log"
        self._qemu: subprocess.Popen | None = None

    def boot(self) -> None:
        """Returns when the guest's kernel has come up and its SSH server listens; software emulation takes its time."""
        self.directory.mkdir(mode=0o700)
        kernel = kernels.cached(SERIES) or kernels.fetch(SERIES)
        image = self._initramfs(kernel)
        device = self.vm.port.device
        command = [
            "qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "max", "-m", str(MEMORY_MIB), "-nodefaults",
            "-no-user-config", "-display", "none", "-no-reboot", "-serial", f"file:{self.console}",
            "-kernel", str(kernel.image), "-initrd", str(image),
            "-append", "console=ttyS0 quiet panic=-1 net.ifnames=0 random.trust_cpu=on ipv6.disable=1",
            "-netdev", f"tap,id=net,ifname={device},script=no,downscript=no",
            "-device", f"virtio-net-pci,netdev=net,mac={self.vm.port.mac}",
        ]  # fmt: skip
        with open(self.directory / "qemu.log", "w") as log:
            self._qemu = self.node.start(command, stdout=log, stderr=log)
        wait_for(f"tap device {device} of QEMU", lambda: self._device_exists(device), timeout=20)
        self.node.run(f"echo 1 > /proc/sys/net/ipv6/conf/{device}/disable_ipv6; ip link set {device} up")
        wait_for(f"boot of {self.vm.name} (console: {self.console})", self._is_up, timeout=90, interval=0.5)

    def close(self) -> None:
        if self._qemu is not None:
            end_processes([self._qemu.pid])
            self._qemu.wait()
            self._qemu = None

    def _device_exists(self, device: str) -> bool:
        return self.node.run(["ip", "link", "show", device], check=False).returncode == 0

    def _is_up(self) -> bool:
        assert self._qemu is not None
        text = self.console.read_text(errors="replace") if self.console.exists() else ""
        if self._qemu.poll() is not None:
            said = (self.directory / "qemu.log").read_text() + text
            raise LabError(f"QEMU ended with {self._qemu.returncode}: {said[-2000:]}")
        return "guest: up" in text

    def _initramfs(self, kernel: kernels.Kernel) -> Path:
        tree = self.directory / "root"
        for name in ("bin", "proc", "sys", "dev", "modules", "etc/dropbear", "root/.ssh"):
            (tree / name).mkdir(parents=True)
        shutil.copy("/bin/busybox", tree / "bin/busybox")
        for binary in BINARIES:
            _copy_with_libraries(tree, Path(binary))
        modules = _copy_modules(tree, kernel)
        port = self.vm.port
        init = INIT.format(modules=" ".join(modules), name=self.vm.name, mtu=port.mtu, address=port.fixed_ip, length=port.prefix_length,
                           gateway=port.gateway)  # fmt: skip
        (tree / "init").write_text(init)
        (tree / "init").chmod(0o755)
        (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (tree / "etc/shadow").write_text("root:*:19000:0:99999:7:::\n")
        (tree / "etc/shells").write_text("/bin/sh\n")
        (tree / "etc/profile").write_text("PATH=/bin:/usr/bin:/usr/sbin\n")
        self._make_keys(tree)
        image = self.directory / "initramfs"
        packed = subprocess.run(
            "find . -mindepth 1 | cpio --quiet -o -H newc -R 0:0 > ../initramfs", cwd=tree, shell=True, check=False
        )
        if packed.returncode != 0:
            raise LabError(f"cannot pack the initramfs of {self.vm.name}")
        return image

    def _make_keys(self, tree: Path) -> None:
        """The lab's client may log in, and expects this host key from now on."""
        host = tree / "etc/dropbear/host"
        subprocess.run(["dropbearkey", "-t", "ed25519", "-f", str(host)], check=True, capture_output=True, timeout=30)
        shown = subprocess.run(
            ["dropbearkey", "-y", "-f", str(host)], check=True, capture_output=True, text=True, timeout=30
        )
        public = next(line for line in shown.stdout.splitlines() if line.startswith("ssh-ed25519 "))
        (self.keys.directory / f"host_{self.vm.name}.pub").write_text(public + "\n")
        authorized = tree / "root/.ssh/authorized_keys"
        shutil.copy(self.keys.client.with_suffix(".pub"), authorized)
        authorized.chmod(0o600)
        authorized.parent.chmod(0o700)
        (tree / "root").chmod(0o700)


def _copy_with_libraries(tree: Path, binary: Path) -> None:
    """A program and what the dynamic linker loads for it, at the same paths."""
    listed = subprocess.run(["ldd", str(binary)], check=True, capture_output=True, text=True, timeout=10)
    words = [word for line in listed.stdout.splitlines() for word in line.split()]
    for path in [str(binary), *(word for word in words if word.startswith("/"))]:
        target = tree / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def _copy_modules(tree: Path, kernel: kernels.Kernel) -> list[str]:
    """The NIC's driver and what it depends on, in the order in which they must be loaded."""
    names: list[str] = []
    for module in MODULES:
        listed = subprocess.run(
            ["/sbin/modprobe", "-S", kernel.release, "-d", str(kernel.folder), "--show-depends", module],
            check=True, capture_output=True, text=True, timeout=10,
        )  # fmt: skip
        for line in listed.stdout.splitlines():
            kind, _, path = line.partition(" ")
            if kind == "insmod" and Path(path.strip()).name not in names:
                shutil.copy(path.strip(), tree / "modules")
                names.append(Path(path.strip()).name)
    return names
