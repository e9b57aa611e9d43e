# SPDX-License-Identifier: Apache-2.0
"""The cloud of one node that tests of Neutron's namespaces share."""

from __future__ import annotations

from neutron_cloud import DVR, LEGACY, Agent, Cloud, FloatingIp, Network, Router, Vm

HOST = "node1"
PUBLIC = Network("public", "203.0.113.0/24", external=True, mtu=1500)
AGENT_ADDRESS = "203.0.113.10"  # of fg-
GATEWAYS = {"r1": "203.0.113.20", "r2": "203.0.113.21"}  # of qg-
FIPS = {"red1": "203.0.113.101", "blue1": "203.0.113.102", "green1": "203.0.113.103"}


def cloud(mode: str) -> Cloud:
    """Two routers on one node, one of them with two networks and a VM that has no floating IP."""
    distributed = mode != LEGACY
    host = None if mode == DVR else HOST  # else somebody else's node has the SNAT
    return Cloud(
        agents=[Agent(HOST, mode, {"public": AGENT_ADDRESS} if distributed else {})],
        networks=[
            PUBLIC,
            Network("red", "10.1.0.0/24"),
            Network("blue", "10.2.0.0/24"),
            Network("green", "10.3.0.0/24"),
        ],
        vms=[
            Vm("red1", "red", "10.1.0.11", HOST),
            Vm("red2", "red", "10.1.0.12", HOST),
            Vm("blue1", "blue", "10.2.0.11", HOST),
            Vm("green1", "green", "10.3.0.11", HOST),
        ],
        routers=[
            Router("r1", ["red", "blue"], "public", GATEWAYS["r1"], distributed, host=host),
            Router("r2", ["green"], "public", GATEWAYS["r2"], distributed, host=host),
        ],
        floating_ips=[FloatingIp(address, vm) for vm, address in FIPS.items()],
    )
