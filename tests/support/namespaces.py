# SPDX-License-Identifier: Apache-2.0
"""Processes that hold namespaces, and the book-keeping that lets nothing of a lab outlive it.

A lab keeps one directory below STATE_BASE. It holds the owner's identity, logs, keys and state files. Every process of
a lab carries the directory's name in its environment, and every holder's network namespace is noted by pid and start
time, so a later run finds and ends what a killed run left behind, and only that: by the name, and by the holders' network
and mount namespaces.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path
from typing import Callable, Iterable, Iterator, Sequence

from timing import scaled

STATE_BASE = Path("/var/lib/fiplane-lab")
ENVIRONMENT = "FIPLANE_LAB"
CLONE_NEWNET = 0x40000000
ETH_P_ALL = 3
SO_RCVBUFFORCE = 33
SOL_PACKET, PACKET_AUXDATA = 263, 8
TP_STATUS_VLAN_VALID = 1 << 4
# struct tpacket_auxdata: status, lengths, offsets, the tag and its protocol.
AUXDATA = struct.Struct("=IIIHHHH")

_libc = ctypes.CDLL(None, use_errno=True)
_hop_lock = threading.Lock()


class LabError(RuntimeError):
    """Something about the test bed, not about the system under test, went wrong."""


class CommandError(LabError):
    """A command in a namespace failed; the text has the command, its exit code and its output."""

    def __init__(self, where: str, result: subprocess.CompletedProcess[str]):
        self.result = result
        super().__init__(
            f"on {where}: {' '.join(map(str, result.args))}\nexit code {result.returncode}\n"
            f"{result.stdout}{result.stderr}"
        )


def start_time(pid: int) -> int | None:
    """Clock ticks from boot to the start of a living process (a zombie is dead). Tells a process from a later one that
    has the same number."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


def alive(pid: int, started: int) -> bool:
    return start_time(pid) == started


def end_processes(pids: Sequence[int], patience: float = 3.0) -> None:
    """SIGTERM, then SIGKILL for what is still there after `patience` seconds (scaled)."""
    wanted = {pid: started for pid in pids if (started := start_time(pid)) is not None}
    for pid in wanted:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + scaled(patience)
    while time.monotonic() < deadline:
        wanted = {pid: started for pid, started in wanted.items() if alive(pid, started)}
        if not wanted:
            return
        time.sleep(0.02)
    for pid, started in wanted.items():
        if alive(pid, started):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class StateDirectory:
    """A lab's directory: <STATE_BASE>/<name>. Only root may look inside, for it holds a private key."""

    def __init__(self, name: str):
        STATE_BASE.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = STATE_BASE / name
        self.path.mkdir(mode=0o700)
        self._holders: dict[int, int] = {}
        self._keep = False
        self._write()

    def note_holder(self, pid: int) -> None:
        started = start_time(pid)
        if started is not None:
            self._holders[pid] = started
        self._write()

    def keep(self) -> None:
        """From now on the lab outlives its owner; remove_lab() ends it."""
        self._keep = True
        self._write()

    def _write(self) -> None:
        me = os.getpid()
        data = {"owner": [me, start_time(me)], "holders": self._holders, "keep": self._keep}
        temporary = self.path / "lab.json.new"
        temporary.write_text(json.dumps(data))
        temporary.rename(self.path / "lab.json")


def remove_lab(path: Path) -> None:
    """Ends every process of the lab kept in `path` and removes the directory. LabError: some do not end within 30 s (scaled).

    Holders go last: by their namespaces a process is known in the moment of its exec(), when its environment is empty.
    """
    data = _read_state(path)
    holders = {int(pid): started for pid, started in data.get("holders", {}).items()}
    _end_all(path, lambda: [pid for pid in _members(path, holders) if pid not in holders])
    _end_all(path, lambda: _members(path, holders))
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        STATE_BASE.rmdir()


def _members(path: Path, holders: dict[int, int]) -> list[int]:
    """The lab's living processes. The kernel gives the number of a namespace to another one as soon as it is gone: it means
    something while a holder lives."""
    before = _namespaces_of_holders(holders)
    found = {pid: set(_namespaces_of(pid)) for pid in _processes()}
    named = {pid for pid in found if _is_named(pid, path)}
    namespaces = before & _namespaces_of_holders(holders)
    return [pid for pid, own in found.items() if pid in named or own & namespaces]


def _namespaces_of_holders(holders: dict[int, int]) -> set[str]:
    """A holder that has no namespace of its own yet is still in its owner's, with everything else there."""
    namespaces = {ns for pid, started in holders.items() for ns in list(_namespaces_of(pid)) if alive(pid, started)}
    return namespaces - {*_namespaces_of(os.getpid()), *_namespaces_of(1)}


def _end_all(path: Path, members: Callable[[], list[int]]) -> None:
    """Until there are none: a process that forks after it was listed, and before it is ended, has a child that was not."""
    deadline = time.monotonic() + scaled(30)
    while pids := members():
        if time.monotonic() > deadline:
            raise LabError(f"processes of {path.name} do not end: {' '.join(map(str, pids))}")
        end_processes(pids)


def remove_leftovers() -> list[str]:
    """Removes labs whose owner is dead and that were not meant to stay. Returns their names."""
    removed = []
    for path in _lab_paths():
        data = _read_state(path)
        owner = data.get("owner")
        if data.get("keep") or not owner or alive(*owner):
            continue
        with contextlib.suppress(LabError):  # what cannot be ended now is for a later one, and in nobody's way
            remove_lab(path)
            removed.append(path.name)
    return removed


def kept_labs() -> list[Path]:
    return [path for path in _lab_paths() if _read_state(path).get("keep")]


def _lab_paths() -> list[Path]:
    return sorted(path for path in STATE_BASE.glob("*") if path.is_dir()) if STATE_BASE.is_dir() else []


def _read_state(path: Path) -> dict:
    try:
        return json.loads((path / "lab.json").read_text())
    except (OSError, ValueError):
        return {}


def _processes() -> Iterator[int]:
    return (int(entry) for entry in os.listdir("/proc") if entry.isdigit() and int(entry) != os.getpid())


def _namespaces_of(pid: int) -> Iterator[str]:
    """Those of a lab's holder that others share with it: also a process in a router's network namespace is in its node's
    mount namespace."""
    for kind in ("net", "mnt"):
        with contextlib.suppress(OSError):
            yield os.readlink(f"/proc/{pid}/ns/{kind}")


def _is_named(pid: int, path: Path) -> bool:
    """Its environment has the lab's directory."""
    with contextlib.suppress(OSError):
        return f"{ENVIRONMENT}={path}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return False


class Namespace:
    """A process that holds a network, a mount and a UTS namespace; commands run inside by nsenter.

    /run is a tmpfs of its own, so /run/netns and /run/fiplane are too, and /sys/fs/bpf is a bpffs of its own. /proc
    stays: /proc/sys/net follows the network namespace of whoever reads it.
    """

    SETUP = """
set -e
mount -t tmpfs -o mode=755 fiplane-lab /run
mkdir -m 755 /run/netns /run/fiplane /run/sshd /run/lock
mount -t bpf fiplane-lab /sys/fs/bpf
hostname "$1"
echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad || true
ip link set lo up
echo ready
exec sleep infinity
"""

    def __init__(self, state: StateDirectory, name: str):
        self.name = name
        self.state = state
        self._process = subprocess.Popen(
            ["unshare", "--net", "--mount", "--uts", "sh", "-c", self.SETUP, "sh", name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(),
            start_new_session=True,
        )
        self.pid = self._process.pid
        state.note_holder(self.pid)

    def environment(self) -> dict[str, str]:
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return {"PATH": path, "LC_ALL": "C.UTF-8", ENVIRONMENT: str(self.state.path)}

    def wait_until_up(self) -> None:
        assert self._process.stdout is not None and self._process.stderr is not None
        if self._process.stdout.readline().strip() != "ready":
            raise LabError(f"cannot make the namespaces of {self.name}: {self._process.stderr.read().strip()}")

    @property
    def netns_path(self) -> str:
        return f"/proc/{self.pid}/ns/net"

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        return ["nsenter", "-t", str(self.pid), "-n", "-m", "-u", "--", *map(str, argv)]

    def run(
        self,
        argv: Sequence[str | Path] | str,
        *,
        check: bool = True,
        timeout: float = 30.0,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command (a string: by sh -e) and returns what it printed. `check`: a failure raises CommandError.
        `timeout`: in seconds, scaled."""
        words = ["sh", "-ec", argv] if isinstance(argv, str) else list(map(str, argv))
        try:
            result = subprocess.run(
                self.command(words),
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True,
                text=True,
                timeout=scaled(timeout),
                env=self.environment(),
            )
        except subprocess.TimeoutExpired as expired:
            output = expired.stdout.decode(errors="replace") if isinstance(expired.stdout, bytes) else ""
            raise LabError(f"on {self.name}: no answer within {scaled(timeout):g} s from: {' '.join(words)}\n{output}") from None
        result.args = words
        if check and result.returncode != 0:
            raise CommandError(self.name, result)
        return result

    def start(self, argv: Sequence[str | Path], **options) -> subprocess.Popen:
        """Starts a command in the background. The lab ends it with everything else in the namespace."""
        options.setdefault("stdin", subprocess.DEVNULL)
        environment = {**self.environment(), **options.pop("environment", {})}
        return subprocess.Popen(self.command(argv), env=environment, start_new_session=True, **options)

    def packet_socket(self, device: str) -> socket.socket:
        return packet_socket(self.netns_path, device)

    def close(self) -> None:
        """Ends the holder. The namespaces go when their last process does: end those first."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def inside(netns_path: str) -> Iterator[None]:
    """This thread is in another network namespace. A socket stays in the one in which it was made."""
    with _hop_lock:
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        there = os.open(netns_path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(there)
            try:
                yield
            finally:
                _setns(home)
        finally:
            os.close(there)
            os.close(home)


def packet_socket(netns_path: str, device: str) -> socket.socket:
    """An AF_PACKET socket for every frame, both directions, of a device in another network namespace."""
    with inside(netns_path):
        packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        packet.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        packet.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        packet.bind((device, ETH_P_ALL))
        return packet


def receive_frame(packet: socket.socket) -> bytes:
    """The next frame of a packet_socket() as it is on the wire: the kernel keeps a VLAN tag beside the frame (struct
    tpacket_auxdata). Raises BlockingIOError if there is none."""
    frame, ancillary, _, _ = packet.recvmsg(70000, socket.CMSG_SPACE(AUXDATA.size), socket.MSG_DONTWAIT)
    return with_tag(frame, ancillary)


def with_tag(frame: bytes, ancillary: Iterable[tuple[int, int, bytes]]) -> bytes:
    """Puts the tag back that recvmsg() gave beside the frame (PACKET_AUXDATA), if there is one."""
    for level, kind, data in ancillary:
        if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
            status, *_, tag, protocol = AUXDATA.unpack_from(data)
            if status & TP_STATUS_VLAN_VALID:
                return frame[:12] + struct.pack("!HH", protocol, tag) + frame[12:]
    return frame


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"setns: {os.strerror(error)}")
