# SPDX-License-Identifier: Apache-2.0
"""`fiplane survey` on a node with routers as a Neutron L3 agent makes them: what it finds fast, and what it says of what is
not. It leaves everything as it was."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import Iterator

import pytest

from fixture_cloud import FIPS, HOST, cloud
from fixture_lab import FixtureLab
from lab import in_parallel
from neutron_cloud import DVR, DVR_SNAT, LEGACY
from timing import scaled

BUILD = Path(os.environ.get("FIPLANE_BUILD", Path(__file__).resolve().parents[2] / "build" / "release"))
KINDS = {DVR: "distributed", DVR_SNAT: "distributed with SNAT", LEGACY: "legacy"}
NO_PRIVILEGE, USAGE = 4, 3


@pytest.fixture(scope="module", params=[DVR, DVR_SNAT, LEGACY])
def lab(request) -> Iterator[FixtureLab]:
    with FixtureLab(cloud(request.param), HOST) as running:
        # Neighbours that only Linux asks for: a legacy router's VMs, and the gateway.
        limit = str(round(scaled(3)))
        in_parallel([
            lambda vm=vm: running.vms[vm].run(["ping", "-c", "1", "-W", limit, running.outside.address]) for vm in FIPS
        ])
        yield running


def survey(lab: FixtureLab, *arguments: str) -> dict:
    return json.loads(lab.node.run([BUILD / "fiplane", "survey", "-o", "json", *arguments]).stdout)


def floating_ip(lab: FixtureLab, address: str) -> dict:
    (row,) = survey(lab, "--address", address)["floating_ips"]
    return row


def external_netns(lab: FixtureLab) -> str:
    """Where floating IPs come in."""
    return lab.netns("r1") if lab.cloud.agent(HOST).mode == LEGACY else lab.fip_netns


def way_out(lab: FixtureLab) -> str:
    """The device by which r1's packets leave its namespace for the world."""
    links = json.loads(lab.node.run_in(lab.netns("r1"), "ip -j link"))
    return next(link["ifname"] for link in links if link["ifname"].startswith(("rfp-", "qg-")))


@contextlib.contextmanager
def changed(lab: FixtureLab, netns: str, command: str, back: str) -> Iterator[None]:
    lab.node.run_in(netns, command)
    try:
        yield
    finally:
        lab.node.run_in(netns, back)


def everything(lab: FixtureLab) -> str:
    """What one could have changed in the routers' namespaces: without comments, and without the counters of iptables-save."""
    names = lab.node.run(["ls", "/run/netns"]).stdout.split()
    show = "ip link; ip -4 address; ip rule; ip -4 route show table all; tc qdisc; tc filter show; iptables-save; nft -s list ruleset"
    command = "{ " + show + "; } | sed 's/^#.*//; s/ .[0-9]*:[0-9]*.$//'"
    return "\n".join(name + lab.node.run_in(name, command) for name in names)


def test_routers_and_floating_ips(lab):
    mode = lab.cloud.agent(HOST).mode
    found = survey(lab)
    assert {row["id"]: row["kind"] for row in found["routers"]} == {
        lab.cloud.id("router/r1"): KINDS[mode], lab.cloud.id("router/r2"): KINDS[mode]
    }
    by_id = {row["id"]: row["floating_ips"] for row in found["routers"]}
    assert sorted(by_id[lab.cloud.id("router/r1")]) == [FIPS["red1"], FIPS["blue1"]]
    assert {(row["floating_ip"], row["state"], row["reason_in"] + row["reason_out"] + row["reason_outside"]) for row in found["floating_ips"]} == {
        (address, "fast", "") for address in FIPS.values()
    }


def test_the_walk_goes_through_the_routers_namespaces(lab):
    row = floating_ip(lab, "10.1.0.11")
    assert row["floating_ip"] == FIPS["red1"]
    steps = [step["text"] for step in row["steps_in"]]
    assert "destination becomes 10.1.0.11" in steps
    assert any(step.startswith("out of qr-") for step in steps)
    assert row["steps_in"][0]["netns"] == external_netns(lab)
    assert f"source becomes {FIPS['red1']}" in [step["text"] for step in row["steps_out"]]


def test_nothing_is_changed(lab):
    before = everything(lab)
    survey(lab)
    assert everything(lab) == before


DAMAGE = {
    "a dropped destination": (
        "iptables -I FORWARD -d 10.1.0.11 -j DROP", "iptables -D FORWARD -d 10.1.0.11 -j DROP",
        "reason_in", "netfilter drops it in forward: rule `ip daddr 10.1.0.11 counter drop` in ip filter FORWARD"),
    "a port that is filtered": (
        "iptables -I FORWARD -d 10.1.0.11 -p tcp --dport 25 -j REJECT",
        "iptables -D FORWARD -d 10.1.0.11 -p tcp --dport 25 -j REJECT",
        "reason_in", "-d 10.1.0.11/32 -p tcp -m tcp --dport 25 -j REJECT"),
    "a mark": (
        "iptables -t mangle -A FORWARD -d 10.1.0.11 -j MARK --set-xmark 0x7/0xff",
        "iptables -t mangle -D FORWARD -d 10.1.0.11 -j MARK --set-xmark 0x7/0xff", None, None),
    "a mark that spoils an address scope": (
        "iptables -t mangle -A FORWARD -d 10.1.0.11 -j MARK --set-mark 7",
        "iptables -t mangle -D FORWARD -d 10.1.0.11 -j MARK --set-mark 7",
        "reason_in", "netfilter drops it in forward"),
    "a forwarded port": (
        "iptables -t nat -I PREROUTING -p tcp -d 203.0.113.101 --dport 80 -j DNAT --to-destination 10.1.0.12:8080",
        "iptables -t nat -D PREROUTING -p tcp -d 203.0.113.101 --dport 80 -j DNAT --to-destination 10.1.0.12:8080",
        "reason_in", "--dport 80 -j DNAT --to-destination 10.1.0.12:8080"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_rules_of_others_make_their_traffic_slow(lab, what):
    """Exactly the floating IP that a rule is about is slow, and the rule is named; a mark that nobody asks for is not in the
    way. A legacy router asks for all of them: it tells by one what came in by qg-."""
    command, back, where, text = DAMAGE[what]
    if what == "a mark" and lab.cloud.agent(HOST).mode == LEGACY:
        where, text = "reason_in", "the source is translated on the way in"
    with changed(lab, lab.netns("r1"), command, back):
        rows = {row["floating_ip"]: row for row in survey(lab)["floating_ips"]}
    hit = rows[FIPS["red1"]]
    if where is None:
        assert hit["state"] == "fast"
    else:
        assert hit["state"] == "slow" and text in hit[where], hit[where]
    assert rows[FIPS["green1"]]["state"] == rows[FIPS["blue1"]]["state"] == "fast"
    assert floating_ip(lab, FIPS["red1"])["state"] == "fast"


@pytest.mark.parametrize("command, back, text", [
    ("tc qdisc add dev {} root handle 1: htb", "tc qdisc del dev {} root", "has qdisc htb"),
    ("tc qdisc add dev {} ingress; tc filter add dev {} ingress protocol ip u32 match ip dst 203.0.113.101/32 flowid 1:1",
     "tc qdisc del dev {} ingress", "has a foreign program: clsact ingress u32 filter"),
])
def test_limited_bandwidth_is_linuxs(lab, command, back, text):
    """As Neutron's QoS of floating IPs and gateways does it: queues and filters on rfp- or qg-."""
    device = way_out(lab)
    with changed(lab, lab.netns("r1"), command.replace("{}", device), back.replace("{}", device)):
        row = floating_ip(lab, FIPS["red1"])
    assert f"{device} {text}" in row["reason_in"], row
    assert f"{device} {text}" in row["reason_out"] + row["reason_outside"], row
    assert floating_ip(lab, FIPS["red1"])["state"] == "fast"


def test_a_floating_ip_that_is_removed_is_gone(lab):
    original = lab.cloud
    fewer = [fip for fip in original.floating_ips if fip.address != FIPS["red1"]]
    try:
        lab.change(dataclasses.replace(original, floating_ips=fewer))
        assert {row["floating_ip"] for row in survey(lab)["floating_ips"]} == {FIPS["blue1"], FIPS["green1"]}
    finally:
        lab.change(original)


def test_bad_input(lab):
    ask = [BUILD / "fiplane", "survey", "--address"]
    wrong = lab.node.run([*ask, "203.0.113"], check=False)
    assert wrong.returncode == USAGE and "203.0.113: this is no IPv4 address" in wrong.stderr
    unknown = lab.node.run([*ask, "203.0.113.199"], check=False)
    assert unknown.returncode == 1 and "neither a floating IP of a router here nor the fixed IP of one" in unknown.stderr
    unprivileged = lab.node.run(["setpriv", "--bounding-set=-all", "--inh-caps=-all", BUILD / "fiplane", "survey"], check=False)
    assert unprivileged.returncode == NO_PRIVILEGE and "missing capabilities" in unprivileged.stderr


def test_rules_of_iptables_legacy(lab):
    """The last test: their table stays in the namespace. Linux tells nobody when they change, so all of the router is
    Linux's."""
    lab.node.run_in(lab.netns("r1"), "iptables-legacy -A FORWARD -d 10.1.0.11 -j DROP")
    rows = {row["floating_ip"]: row for row in survey(lab)["floating_ips"]}
    for vm in ("red1", "blue1"):
        assert "iptables-legacy table filter cannot be read" in rows[FIPS[vm]]["reason_in"]
    assert rows[FIPS["green1"]]["state"] == "fast"
