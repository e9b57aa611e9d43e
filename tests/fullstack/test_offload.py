# SPDX-License-Identifier: Apache-2.0
"""Large packets through tap devices: TCP must keep its segmentation offload, and UDP-GSO must arrive whole."""

from __future__ import annotations

import hashlib
import json
import statistics
import subprocess

import pytest

from lab import LabNode
from measure import Figure, compare, tcp_throughput, vm_pair
from timing import scaled

# A sender that hands the stack one large buffer to cut (UDP_SEGMENT), and a receiver that sums up what came.
GSO_SENDER = """
import socket, sys
address, port, size, count, bursts = sys.argv[1], *map(int, sys.argv[2:])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(17, 103, size)
s.connect((address, port))
for burst in range(bursts):
    s.send(b"".join((burst * count + i).to_bytes(4, "big") * (size // 4) for i in range(count)))
"""
RECEIVER = """
import hashlib, socket, sys
port, count = map(int, sys.argv[1:])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(1, 33, 16 << 20)
s.bind(("0.0.0.0", port))
s.settimeout(3)
print("ready", flush=True)
got = []
try:
    while len(got) < count:
        got.append(s.recv(65536))
except TimeoutError:
    pass
print(len(got), hashlib.sha256(b"".join(sorted(got))).hexdigest())
"""
PORT = 20010


@pytest.mark.parametrize("tap", [pytest.param(True, id="tap"), pytest.param(False, id="veth")])
@pytest.mark.parametrize("size", [1000, 1400])
def test_udp_gso_arrives_whole(warm, tap, size):
    """Pitfall: decapsulating by adjust_room loses UDP-GSO. Every datagram must arrive, in its own size."""
    pair = vm_pair(warm, tap)
    assert pair is not None
    sender, fip = pair
    count, bursts = 40, 20
    receiver = warm.vm_of(fip).start(
        ["python3", "-c", RECEIVER, PORT, count * bursts], stdout=subprocess.PIPE, text=True
    )
    assert receiver.stdout.readline().strip() == "ready"
    sender.run(["python3", "-c", GSO_SENDER, fip, PORT, size, count, bursts])
    seen, digest = receiver.communicate(timeout=scaled(30))[0].split()
    datagrams = sorted(number.to_bytes(4, "big") * (size // 4) for number in range(count * bursts))
    assert (int(seen), digest) == (count * bursts, hashlib.sha256(b"".join(datagrams)).hexdigest())


def sent_through(node: LabNode, device: str) -> tuple[int, int]:
    """Bytes and packets that a device has sent."""
    (link,) = json.loads(node.run(["ip", "-s", "-j", "link", "show", device]).stdout)
    return link["stats64"]["tx"]["bytes"], link["stats64"]["tx"]["packets"]


def test_bulk_tcp_through_taps_keeps_its_segmentation_offload(warm):
    """Pitfall: a tap VM loses its TSO when tunnel state is left on the packet. Then every segment goes by itself."""
    sender, fip = vm_pair(warm, tap=True)
    port = warm.vm_of(fip).port
    here, there = warm.nodes[sender.node], warm.nodes[port.node]
    devices = [(here, here.node.underlay_device), (there, port.device)]
    before = [sent_through(*device) for device in devices]
    assert tcp_throughput(warm, sender, fip, 1.0) > 0.1
    for (node, device), then in zip(devices, before):
        data, packets = (after - earlier for after, earlier in zip(sent_through(node, device), then))
        text = f"{device} of {node.name}: {data} bytes in {packets} packets"
        print(text)
        # A veth with an XDP program at its other end gets segments one by one, and GRO puts together as many as there are.
        if warm.xdp != "native":
            assert data > 10e6 and data / packets > 5 * port.mtu, text


def test_bulk_tcp_through_taps_is_not_slower(warm):
    """The same pitfall: 22 -> 4 Gbit/s. A tenth is noise."""
    if not warm.fast_path or warm.xdp == "native":
        return  # nothing to compare
    sender, fip = vm_pair(warm, tap=True)
    figure = Figure("TCP, tap VM", "Gbit/s", lambda seconds: tcp_throughput(warm, sender, fip, seconds))
    (result,) = compare(warm, [figure], rounds=5, seconds=1.5)
    print(f"Linux {result.linux}, fiplane {result.fiplane} Gbit/s, ratio {result.ratio:.2f}")
    assert result.ratio >= 0.9, f"Linux {result.linux}, fiplane {result.fiplane} Gbit/s"
    assert statistics.median(result.fiplane) > 1.0
