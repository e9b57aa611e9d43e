# SPDX-License-Identifier: Apache-2.0
"""What makes a node under test do the same every time: nothing that it remembers of earlier packets, nothing that ends with
time."""

from __future__ import annotations

import socket
import struct
import time
from typing import Iterable

from namespaces import inside

NETLINK_NETFILTER = 12
CONNTRACK_DELETE = 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE
REQUEST_ACK = 5
FRAGMENTS_WAIT = 1  # seconds, ipfrag_time
# Longer than any run: what is reachable when it begins stays so.
FOREVER_MS = 24 * 3600 * 1000

# For each namespace: no answer is limited, no neighbour expires, and nobody is asked for.
STILL = f"""
    echo 0 > /proc/sys/net/ipv4/icmp_ratelimit
    for key in icmp_msgs_per_sec icmp_msgs_burst; do
        [ ! -w /proc/sys/net/ipv4/$key ] || echo 1000000 > /proc/sys/net/ipv4/$key
    done
    echo {FRAGMENTS_WAIT} > /proc/sys/net/ipv4/ipfrag_time
    for file in /proc/sys/net/ipv4/neigh/*/base_reachable_time_ms; do echo {FOREVER_MS} > $file; done
    for file in /proc/sys/net/ipv4/neigh/*/mcast_solicit; do echo 0 > $file; done
    ip -4 neigh show | while read address dev name lladdr mac rest; do
        case "$rest" in
        *PERMANENT*|*NOARP*) ;;
        *) [ "$lladdr" != lladdr ] || ip neigh replace $address dev $name lladdr $mac nud reachable ;;
        esac
    done
"""


class Memory:
    """Of namespaces (`places`: their files): connections and waiting fragments."""

    def __init__(self, places: Iterable[str]):
        self._sockets: list[socket.socket] = []
        for place in places:
            with inside(place):
                self._sockets.append(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER))

    def clear(self) -> None:
        time.sleep(FRAGMENTS_WAIT + 0.2)
        for tracker in self._sockets:
            tracker.send(struct.pack("=IHHII", 20, CONNTRACK_DELETE, REQUEST_ACK, 0, 0) + struct.pack("=BBH", 2, 0, 0))
            answer = tracker.recv(4096)
            (error,) = struct.unpack_from("=i", answer, 16)
            if error not in (0, -2):
                raise OSError(-error, "cannot flush conntrack")

    def close(self) -> None:
        for tracker in self._sockets:
            tracker.close()
