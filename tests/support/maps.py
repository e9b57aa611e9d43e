# SPDX-License-Identifier: Apache-2.0
"""The pinned BPF maps of a node, read with bpftool as an operator would."""

from __future__ import annotations

import ipaddress
import json
from typing import Any, Collection, Iterable

from lab import LabNode, wait_for

PINS = "/sys/fs/bpf/fiplane/maps"
# Seconds, scaled, after which a change of which the kernel tells must be in the tables on a machine that stalls. Much less
# than until the agent's next full dump, which finds out by itself.
TOLD = 10
TABLES = (
    "fl_config", "fl_sources", "fl_tunnels", "fl_fdb", "fl_arp", "fl_fip_in", "fl_vms", "fl_senders", "fl_dests", "fl_routes",
)  # fmt: skip


def bpftool_dump(node: LabNode, table: str) -> list[dict[str, Any]]:
    """The map's rows as bpftool prints them, with BTF: {"key": ..., "value": ...}."""
    rows = json.loads(node.run(["bpftool", "-j", "map", "dump", "pinned", f"{PINS}/{table}"]).stdout)
    return [row.get("formatted", row) for row in rows if not _vanished(row)]


def _vanished(row: dict[str, Any]) -> bool:
    """A row removed after bpftool had read its key: bpftool prints the key's bytes, and why there is no value."""
    return isinstance(row["value"], dict) and "error" in row["value"]


def _without_stamps(value: Any) -> Any:
    """last_use is written by the programs all the time."""
    if isinstance(value, dict):
        return {key: _without_stamps(item) for key, item in value.items() if key != "last_use"}
    return [_without_stamps(item) for item in value] if isinstance(value, list) else value


def dump(node: LabNode) -> dict[str, list]:
    """All tables that the agent writes, without the programs' own stamps, in a fixed order."""
    return {
        table: sorted((_without_stamps(row) for row in bpftool_dump(node, table)), key=json.dumps) for table in TABLES
    }


def pinned_ids(node: LabNode) -> dict[str, int]:
    """Pin -> kernel id: the same id is the same map."""
    return {
        table: json.loads(node.run(["bpftool", "-j", "map", "show", "pinned", f"{PINS}/{table}"]).stdout)["id"]
        for table in TABLES
    }


def octets(address: str) -> list[int]:
    return [int(part) for part in address.split(".")]


def underlay_octets(address: str) -> list[int]:
    """An underlay address as the maps have it: 16 bytes, IPv4 in IPv4-mapped form (::ffff:a.b.c.d)."""
    packed = ipaddress.ip_address(address).packed
    return list(packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed)


def fip_in(node: LabNode, address: str) -> list[dict[str, Any]]:
    """Rows of fl_fip_in for a floating IP, in any segment."""
    return [row for row in bpftool_dump(node, "fl_fip_in") if row["key"]["fip"] == octets(address)]


def fdb_outs(node: LabNode) -> dict[str, dict[str, Any]]:
    """MAC -> where the fast path sends what is for it; of one that several segments have, in one of them."""
    return {":".join(f"{byte:02x}" for byte in row["key"]["mac"]): row["value"]["out"] for row in bpftool_dump(node, "fl_fdb")}


def wait_until_known(nodes: Iterable[LabNode], macs: Collection[str]) -> None:
    """Until the fast path of all these nodes knows where to send what is for these MACs."""
    def are_known(node: LabNode) -> bool:
        outs = fdb_outs(node)
        return all(mac in outs and outs[mac]["kind"] != "FL_OUT_NONE" for mac in macs)

    for node in nodes:
        wait_for(f"{', '.join(macs)} in the tables of {node.name}", lambda node=node: are_known(node), TOLD)


def has_way(node: LabNode, fip: str, address: str) -> bool:
    """Does the fast path know the way to an address of what the owner of a floating IP sends?"""
    domains = {row["value"]["domain"] for row in bpftool_dump(node, "fl_vms") if row["value"]["fip"] == octets(fip)}
    found = {row["key"]["domain"] for row in bpftool_dump(node, "fl_dests") if row["key"]["ip"] == octets(address)}
    return bool(domains) and domains <= found


def mtus_to(node: LabNode, peer: str) -> dict[str, set[int]]:
    """By table, the MTUs of the rows that lead into a tunnel to an underlay address."""
    rows = {table: bpftool_dump(node, table) for table in ("fl_fdb", "fl_dests")}
    return {table: {row["value"]["out"]["mtu"] for row in found if row["value"]["out"]["remote"] == underlay_octets(peer)}
            for table, found in rows.items()}
