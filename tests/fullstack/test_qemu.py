# SPDX-License-Identifier: Apache-2.0
"""A VM that is one: QEMU with a tap device on the overlay, reached by its floating IP like any other."""

from __future__ import annotations

import hashlib
import random
import subprocess

import pytest

from lab import wait_for
from matrix import ping, ssh
from measure import all_counts
from qemu import QemuGuest

TIMEOUT = 280  # two cores emulate a PC
GUEST = "vm4"
COPY_BYTES = 20 * 1000 * 1000


@pytest.fixture(scope="module")
def guest(warm):
    """GUEST's namespace is unplugged, and a real machine gets its port."""
    vm = warm.vms[GUEST]
    node = warm.nodes[vm.node]
    vm.unplug(node.namespace)
    machine = QemuGuest(vm, node, warm.keys)
    try:
        machine.boot()
        warm.write_known_hosts()
        (fip,) = warm.topology.fips_of(GUEST)
        wait_for(f"ssh at {fip}", lambda: ssh(warm, "vm1", fip) == "ok", timeout=60, interval=1.0)
        yield machine
    finally:
        machine.close()


def test_guest_answers_everybody(warm, guest):
    (fip,) = warm.topology.fips_of(GUEST)
    for source in [*warm.nodes, *(name for name in warm.vms if name != GUEST)]:
        assert ping(warm, source, fip, 3) is not None, f"{source} -> {fip}"
        assert ssh(warm, source, fip) == "ok", f"{source} -> {fip}"


def test_guest_is_a_machine_of_its_own(warm, guest):
    """Another kernel answers, and it reaches the others by their floating IPs with its own."""
    (fip,) = warm.topology.fips_of(GUEST)
    login = warm.keys.ssh_command(fip, "uname -r; ping -c 3 -W 2 172.24.5.11; ping -c 3 -W 2 172.24.4.3")
    said = warm.vms["vm1"].run(login, timeout=60).stdout
    assert said.splitlines()[0] != subprocess.run(["uname", "-r"], capture_output=True, text=True).stdout.strip()
    assert said.count(" 3 packets received, 0% packet loss") == 2, said


@pytest.mark.parametrize("fast_path", [True, False], ids=["fast path", "Linux"])
def test_scp_of_20_megabytes_both_ways(warm, guest, tmp_path, fast_path):
    """What arrives is what was sent, there and back; with the fast path on, BPF carried it."""
    (fip,) = warm.topology.fips_of(GUEST)
    warm.set_fast_path(fast_path)
    try:
        if fast_path:
            warm.wait_until_ready()
        assert ssh(warm, "vm1", fip) == "ok"
        sent = tmp_path / "sent"
        sent.write_bytes(random.randbytes(COPY_BYTES))
        wanted = hashlib.sha256(sent.read_bytes()).hexdigest()
        before = all_counts(warm)
        scp = ["scp", "-O", "-q", *warm.keys.ssh_command(fip)[1:-1]]
        warm.vms["vm1"].run([*scp, sent, f"root@{fip}:/tmp/copy"], timeout=120)
        login = warm.keys.ssh_command(fip, "sha256sum /tmp/copy")
        assert warm.vms["vm1"].run(login, timeout=30).stdout.split()[0] == wanted
        warm.vms["vm1"].run([*scp, f"root@{fip}:/tmp/copy", tmp_path / "back"], timeout=120)
        assert hashlib.sha256((tmp_path / "back").read_bytes()).hexdigest() == wanted
        after = all_counts(warm)
        for name in {"primary", guest.vm.node}:
            spent = after[name] - before[name]
            if fast_path:
                assert spent.packets > 500 and spent.share >= 0.99, f"{name}: {spent}"
            else:
                assert spent.packets == 0, f"{name}: {spent}"
    finally:
        warm.set_fast_path(True)
