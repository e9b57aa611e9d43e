# SPDX-License-Identifier: Apache-2.0
"""The test bed itself: a comparison must be able to fail, and nothing of a lab may outlive it."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Ether

import namespaces
import skips
from conftest import BUILD, ROOT, over, with_ipv6_underlay
from frames import Tap, assert_same, dissect
from lab import wait_for
from measure import counts
from namespaces import Namespace, StateDirectory
from pings import send_pings
from topology import Topology, TopologyError

FRAME = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(src="192.0.2.1", dst="192.0.2.2", ttl=62) / UDP()


@pytest.mark.parametrize(
    "change,field",
    [
        (lambda frame: setattr(frame[Ether], "dst", "02:00:00:00:00:03"), "Ethernet.dst"),
        (lambda frame: setattr(frame[IP], "ttl", 61), "IP.ttl"),
        (lambda frame: setattr(frame[UDP], "chksum", 0x1234), "UDP.chksum"),
    ],
)
def test_one_wrong_field_fails_and_is_named(change, field):
    seen = FRAME.copy()
    change(seen)
    with pytest.raises(AssertionError, match=field):
        assert_same("here", bytes(seen), FRAME)


def test_wrong_length_fails():
    with pytest.raises(AssertionError, match="lengths: seen 43, expected 42"):
        assert_same("here", bytes(FRAME) + b"\0", FRAME)
    assert_same("here", bytes(FRAME), FRAME)
    assert "ttl       = 62" in dissect(FRAME)


@pytest.mark.parametrize("name,types", [("devstack-star-vxlan", {"gre"}), ("devstack-nova-multi-host", {"gre"}),
                                        ("neutron-flat", {"gre", "flat"})])  # fmt: skip
def test_tunnels_of_another_type(name, types):
    """FIPLANE_TUNNEL: with the topology's transport, without it, and on networks that say so themselves."""
    changed = Topology.load(BUILD / "fiplane", over("gre", ROOT / "examples" / f"{name}.yaml"))
    assert {network.type for network in changed.networks.values()} == types


@pytest.mark.parametrize("name", ["devstack-star-vxlan", "devstack-nova-multi-host", "devstack-dvr-gre", "neutron-flat"])
def test_tunnels_over_ipv6(name):
    """FIPLANE_TUNNEL=vxlan6: whatever the tunnels were, they are VXLAN between nodes that have IPv6."""
    before = Topology.load(BUILD / "fiplane", ROOT / "examples" / f"{name}.yaml")
    changed = Topology.load(BUILD / "fiplane", over("vxlan6", ROOT / "examples" / f"{name}.yaml"))
    assert {network.type for network in changed.networks.values()} <= {"vxlan", "flat"}
    assert {network.mtu for network in changed.networks.values()} <= {1430, 1500}
    assert [node.underlay_address.rsplit("::", 1)[0] for node in changed.nodes.values()] == ["2001:db8:ac"] * len(before.nodes)
    for node, old in zip(changed.nodes.values(), before.nodes.values()):
        assert ipaddress.ip_address(node.underlay_address).packed[-4:] == ipaddress.ip_address(old.underlay_address).packed
    assert changed.underlay_prefix_length() == 64


def test_an_mtu_that_leaves_no_room_for_ipv6_is_lowered():
    cloud = "nodes: [{underlay: {address: 192.0.2.1}}, {underlay: {address: 192.0.2.11}}]\nnetworks: [{mtu: 1450}, {mtu: 1400}]\n"
    assert with_ipv6_underlay(cloud) == (
        'nodes: [{underlay: {address: "2001:db8:ac::c000:201"}}, {underlay: {address: "2001:db8:ac::c000:20b"}}]\n'
        "networks: [{mtu: 1430}, {mtu: 1400}]\n"
    )


def test_a_topology_without_tunnels_has_none_of_another_type():
    with pytest.raises(TopologyError, match="FIPLANE_TUNNEL=gre: neutron-vlan.yaml has no tunnels"):
        over("gre", ROOT / "examples" / "neutron-vlan.yaml")


@pytest.fixture
def state():
    directory = StateDirectory(f"selftest-{os.getpid()}")
    yield directory
    namespaces.remove_lab(directory.path)


def make_wire(holder: Namespace) -> None:
    """A veth pair. What is sent before the kernel has told it of its carrier (net/core/link_watch.c) is lost."""
    holder.run("ip link add left type veth peer name right; ip link set left up; ip link set right up")
    for device in ("left", "right"):
        wait_for(f"carrier of {device}", lambda: " state UP " in holder.run(["ip", "link", "show", device]).stdout)


def test_tap_sees_what_passes_and_says_so(state):
    holder = Namespace(state, "selftest")
    holder.wait_until_up()
    make_wire(holder)
    here, there = Tap("left", holder.packet_socket("left")), Tap("right", holder.packet_socket("right"))
    here.send(FRAME)
    assert_same("right", there.one(lambda packet: UDP in packet, "datagram"), FRAME)
    with pytest.raises(AssertionError, match="there must be no datagram"):
        there.none(lambda packet: UDP in packet, "datagram", 0.1)
    with pytest.raises(AssertionError, match="no ARP within"):
        there.one(lambda packet: "ARP" in packet, "ARP", 0.1)
    holder.close()


@pytest.mark.parametrize("late, silent, answered", [(3, None, [1, 2, 3]), (None, 2, [1, 3]), (None, 3, [1, 2])])
def test_pings_that_are_late_count_and_lost_ones_do_not(state, late, silent, answered):
    """An answer that takes longer than ping's interval, as from a relay that has to wait for a CPU, is none that is lost.
    One that is lost stays so, though ping goes on asking."""
    holder = Namespace(state, "selftest")
    holder.wait_until_up()
    make_wire(holder)
    holder.run("ip address add 192.0.2.1/24 dev left; ip neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev left nud permanent")
    wire, over = holder.packet_socket("right"), threading.Event()
    wire.settimeout(0.05)

    def answer() -> None:
        while not over.is_set():
            try:
                request = Ether(wire.recv(2000))
            except TimeoutError:
                continue
            if ICMP not in request or request[ICMP].type != 8 or request[ICMP].seq == silent:
                continue
            if request[ICMP].seq == late:
                time.sleep(0.3)
            echo = ICMP(type=0, id=request[ICMP].id, seq=request[ICMP].seq) / request[ICMP].payload
            wire.send(bytes(Ether(src=request.dst, dst=request.src) / IP(src=request[IP].dst, dst=request[IP].src) / echo))

    far_end = threading.Thread(target=answer)
    far_end.start()
    try:
        sent = send_pings(holder.run, "192.0.2.2", 3, interval=0.1, patience=2)
    finally:
        over.set()
        far_end.join()
        wire.close()
        holder.close()
    assert sorted(answer.sequence for answer in sent.answers) == answered, sent.output
    assert sent.complete == (silent is None) and sent.ttls == {64}


def test_nothing_is_left_of_a_killed_lab():
    """A process that holds a lab is killed by SIGKILL; the next one finds and ends what it left, and only that."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from namespaces import Namespace, StateDirectory\n"
        "state = StateDirectory(sys.argv[2])\n"
        "holder = Namespace(state, 'orphan'); holder.wait_until_up()\n"
        "child = holder.start(['sleep', '1000'])\n"
        "print(holder.pid, child.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    name = f"orphan-{os.getpid()}"
    owner = subprocess.Popen(
        [sys.executable, "-c", script, ROOT / "tests" / "support", name],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )
    pids = [int(word) for word in owner.stdout.readline().split()]
    assert len(pids) == 2
    assert name not in namespaces.remove_leftovers(), "the owner is alive"
    assert all(namespaces.start_time(pid) is not None for pid in pids)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert name in namespaces.remove_leftovers()
    assert all(namespaces.start_time(pid) is None for pid in pids)
    assert not (namespaces.STATE_BASE / name).exists()


HEIR = "trap 'sleep 1000 >/dev/null & echo $!; exit' TERM; echo ready; while :; do sleep 0.01; done"


def test_what_begins_while_a_lab_is_ended_ends_with_it(state):
    """A shell that starts another process in the moment in which it is ended. `apart` is as in a router's namespace, and
    its environment does not say that it is the lab's."""
    holder = Namespace(state, "selftest")
    holder.wait_until_up()
    commands = {"known": ["sh", "-c", HEIR], "apart": ["env", "-i", "/usr/bin/unshare", "--net", "/bin/sh", "-c", HEIR]}
    shells = {name: holder.start(words, stdout=subprocess.PIPE, text=True) for name, words in commands.items()}
    try:
        assert {name: shell.stdout.readline() for name, shell in shells.items()} == {"known": "ready\n", "apart": "ready\n"}
        namespaces.remove_lab(state.path)
        heirs = {name: int(shell.communicate(timeout=5)[0]) for name, shell in shells.items()}
        assert {name for name, pid in heirs.items() if namespaces.start_time(pid) is not None} == set()
    finally:
        for shell in shells.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
        holder.close()


def test_a_lab_ends_nothing_in_namespaces_that_came_after_its_own(state):
    """The kernel gives their numbers to the next ones."""
    other = Namespace(state, "selftest")
    other.wait_until_up()
    script = "while :; do unshare --net --mount sleep 0.02 || echo ended by somebody; done"
    busy = other.start(["sh", "-c", script], stdout=subprocess.PIPE, text=True)
    for number in range(20):
        lab = StateDirectory(f"{state.path.name}-{number}")
        holders = [Namespace(lab, f"selftest{i}") for i in range(3)]
        for holder in holders:
            holder.wait_until_up()
        namespaces.remove_lab(lab.path)
        for holder in holders:
            holder.close()
    assert busy.poll() is None
    os.killpg(busy.pid, signal.SIGKILL)
    assert busy.communicate(timeout=5)[0] == ""
    other.close()


def test_a_lab_ends_nothing_of_its_owners_namespaces():
    """If it is removed before its holder has made namespaces of its own. In namespaces made for this test: whoever gets
    this wrong ends all that there is."""
    script = (
        "import os, subprocess, sys; sys.path.insert(0, sys.argv[1])\n"
        "from namespaces import StateDirectory, end_processes, remove_lab, start_time\n"
        "others = [subprocess.Popen(['sleep', '1000']) for _ in range(2)]\n"
        "state = StateDirectory(sys.argv[2])\n"
        "holder = subprocess.Popen(['sleep', '1000'], env={'FIPLANE_LAB': str(state.path)})\n"
        "state.note_holder(holder.pid)\n"
        "remove_lab(state.path)\n"
        "print(holder.wait(5), [start_time(process.pid) is not None for process in others])\n"
        "end_processes([process.pid for process in others])\n"
    )
    seen = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child",
         sys.executable, "-c", script, ROOT / "tests" / "support", f"early-{os.getpid()}"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (seen.stdout, seen.stderr) == (f"{-signal.SIGTERM} [True, True]\n", "")


def test_share_is_of_unicast_overlay_packets():
    def status(*packets: int) -> dict:
        classes = ("fast", "slow", "drop", "pass", "flood")
        rows = [{"hook": "tc_port", "reason": f"a {kind} one", "class": kind} for kind in classes]
        return {"counters": [{**row, "packets": number} for row, number in zip(rows, packets)]}

    spent = counts(status(91, 10, 2, 1000, 1000)) - counts(status(1, 1, 1, 10, 10))
    assert (spent.packets, spent.share) == (100, 0.9)
    assert str(spent) == "90 of 100 packets in BPF (90.00%); 9 tc_port a slow one, 1 tc_port a drop one"


def test_unexpected_skips_are_found(tmp_path, capsys):
    results, expected = tmp_path / "results.xml", tmp_path / "expected"
    results.write_text(
        '<testsuite><testcase name="bpf: a"><skipped message="SKIP_RETURN_CODE=4"/><system-out>x.cpp:1: SKIPPED:\n'
        "explicitly with message:\n  no tcx here\n\n</system-out></testcase>"
        '<testcase name="fullstack: b"><system-out>SKIPPED [1] test_b.py:7: needs two cores\n</system-out></testcase>'
        "<testcase name='bpf'><system-out>/x/nat_test.cpp:106: skipped: 'no skb->csum'\n</system-out></testcase>"
        "</testsuite>"
    )
    expected.write_text("# comment\nbpf: *: tcx came with 6.6\n")
    assert skips.main(str(expected), str(results)) == 1
    output = capsys.readouterr().out
    assert "skipped: bpf: a: no tcx here" in output
    assert "skipped UNEXPECTEDLY: fullstack: b test_b.py:7: needs two cores" in output
    assert "skipped UNEXPECTEDLY: bpf nat_test.cpp:106: no skb->csum" in output
    expected.write_text("bpf: *: tcx came with 6.6\nfullstack: b*: one core will do\nbpf nat*: no flag for it\n")
    assert skips.main(str(expected), str(results)) == 0


def test_a_run_without_tests_is_a_failure(tmp_path, capsys):
    """`tools/test -- -R nonsense`: each of its runs of ctest may be empty, not all of them."""
    nothing, one, expected = tmp_path / "nothing.xml", tmp_path / "one.xml", tmp_path / "expected"
    nothing.write_text("<testsuite></testsuite>")
    one.write_text('<testsuite><testcase name="bpf"/></testsuite>')
    assert skips.main(str(expected), str(nothing), str(nothing)) == 1
    assert "no test was chosen" in capsys.readouterr().out
    assert skips.main(str(expected), str(nothing), str(one)) == 0
    assert skips.main(str(expected), str(one), str(tmp_path / "absent.xml")) == 1


def test_skips_inside_a_vm_count(tmp_path, capsys):
    """What vmtests/run left of a kernel is read instead of what its test printed, and by the kernel's name."""
    results, expected = tmp_path / "results.xml", tmp_path / "expected"
    results.write_text(
        '<testsuite><testcase name="vm: 6.1"><system-out>SKIPPED [1] a.py:1: b</system-out></testcase></testsuite>'
    )
    inside = tmp_path / "vm-results" / "6.1" / "results.xml"
    inside.parent.mkdir(parents=True)
    inside.write_text(
        '<testsuite><testcase name="bpf: a"><skipped/><system-out>SKIPPED:\n  no tcx here\n\n</system-out></testcase>'
        "</testsuite>"
    )
    expected.write_text("bpf: a: only the machine's own kernel may skip it\n")
    assert skips.main(str(expected), str(results)) == 1
    assert "skipped UNEXPECTEDLY: vm: 6.1: bpf: a: no tcx here" in capsys.readouterr().out
    expected.write_text("vm: 6.1: bpf: a: tcx came with 6.6\n")
    assert skips.main(str(expected), str(results)) == 0
    assert "a.py" not in capsys.readouterr().out
