# SPDX-License-Identifier: Apache-2.0
"""What Neutron's L3 agent builds carries traffic with Linux alone, and follows what the server says."""

from __future__ import annotations

import json
import signal
from dataclasses import replace

import pytest

from conftest import BUILD, DRIVER, MODE
from guests import Vm
from lab import wait_for
from neutron_cloud import Vm as CloudVm
from neutron_lab import HOST, WEB_PORT, NeutronLab, OutsideHost
from pings import send_pings
from timing import scaled

FIP1, FIP2 = "203.0.113.101", "203.0.113.102"
GATEWAY = "203.0.113.10"  # of the router
METADATA = "169.254.169.254"
FIXED = {"vm1": "10.1.1.11", "vm2": "10.1.2.12", "vm3": "10.1.1.13"}

Host = Vm | OutsideHost


def pings(host: Host, address: str, count: int = 3) -> int:
    """How many of them are answered."""
    return len(send_pings(host.run, address, count, interval=0.2, patience=2).answers)


def get(host: Host, address: str, port: int = WEB_PORT) -> dict | None:
    """What the web server there saw; None if there is no answer."""
    limit = str(round(scaled(3)))
    command = ["curl", "-s", "--max-time", limit, f"http://{address}:{port}/latest/meta-data"]
    result = host.run(command, check=False)
    return json.loads(result.stdout) if result.returncode == 0 else None


def reached(host: Host, address: str) -> tuple[str, str] | None:
    """Who answers over TCP, and whom it takes the client for."""
    answer = get(host, address)
    return (answer["host"], answer["client"]) if answer else None


@pytest.fixture
def original(lab: NeutronLab):
    """The cloud as it was, again after the test."""
    cloud = lab.cloud
    yield
    if lab.cloud != cloud:
        lab.change(cloud)


def test_the_agent_has_no_errors_to_tell(lab: NeutronLab):
    """The first test: an agent that removes things may tell of some that were gone already."""
    assert lab.errors() == []


def test_namespaces_and_devices(lab: NeutronLab):
    router, external = lab.cloud.id("router/r1"), lab.cloud.id("network/public")
    wanted = {f"qrouter-{router}": {"qr-": 2, "rfp": 1}, f"fip-{external}": {"fg-": 1, "fpr": 1}}
    if MODE == "dvr_snat":
        wanted[f"snat-{router}"] = {"sg-": 2, "qg-": 1}
    if MODE == "legacy":
        wanted = {f"qrouter-{router}": {"qr-": 2, "qg-": 1}}
    assert lab.netns() == sorted(wanted)
    plugged = "tun" if DRIVER == "openvswitch" else "veth"
    for netns, devices in wanted.items():
        links = json.loads(lab.run_in(netns, "ip -j -d link show"))
        kinds = {link["ifname"]: link["linkinfo"]["info_kind"] for link in links if link["ifname"] != "lo"}
        assert {prefix: sum(name.startswith(prefix) for name in kinds) for prefix in devices} == devices
        for name, kind in kinds.items():
            assert kind == ("veth" if name.startswith(("rfp-", "fpr-")) else plugged), name
        assert ":neutron-l3-agent-PREROUTING " in lab.run_in(netns, "iptables-save")


def test_fiplane_understands_all_of_it(lab: NeutronLab):
    """Whatever this agent has built: both floating IPs are fast both ways once their neighbours are known."""
    for name in ("vm1", "vm2"):
        assert pings(lab.vms[name], lab.outside.address) == 3
    found = json.loads(lab.node.run([BUILD / "fiplane", "survey", "-o", "json"]).stdout)
    (router,) = found["routers"]
    assert router["id"] == lab.cloud.id("router/r1")
    assert sorted(router["floating_ips"]) == [FIP1, FIP2]
    assert [row["state"] for row in found["floating_ips"]] == ["fast", "fast"], found["floating_ips"]
    assert [row["reason_outside"] for row in found["floating_ips"]] == ["", ""]


@pytest.mark.parametrize("fip", [FIP1, FIP2])
def test_outside_pings_a_floating_ip(lab: NeutronLab, fip: str):
    assert pings(lab.outside, fip) == 3


def test_outside_reaches_floating_ips_over_tcp(lab: NeutronLab):
    assert reached(lab.outside, FIP1) == ("vm1", lab.outside.address)
    assert reached(lab.outside, FIP2) == ("vm2", lab.outside.address)


def test_a_vm_reaches_outside_as_its_floating_ip(lab: NeutronLab):
    for name, fip in (("vm1", FIP1), ("vm2", FIP2)):
        assert pings(lab.vms[name], lab.outside.address) == 3
        assert reached(lab.vms[name], lab.outside.address) == ("outside", fip)


def test_a_vm_without_floating_ip_reaches_outside_as_the_router(lab: NeutronLab):
    # dvr: by the router's central part, which is on another node.
    wanted = None if MODE == "dvr" else ("outside", GATEWAY)
    assert reached(lab.vms["vm3"], lab.outside.address) == wanted


def test_floating_ip_to_floating_ip(lab: NeutronLab):
    assert pings(lab.vms["vm1"], FIP2) == 3
    assert reached(lab.vms["vm1"], FIP2) == ("vm2", FIP1)
    assert reached(lab.vms["vm2"], FIP1) == ("vm1", FIP2)


def test_east_west(lab: NeutronLab):
    for source, target in (("vm1", "vm2"), ("vm2", "vm3"), ("vm3", "vm1")):
        assert pings(lab.vms[source], FIXED[target]) == 3
        assert reached(lab.vms[source], FIXED[target]) == (target, FIXED[source])


def test_metadata(lab: NeutronLab):
    for name, vm in lab.vms.items():
        answer = get(vm, METADATA, 80)
        assert answer, name
        headers = {key.lower(): value for key, value in answer["headers"].items()}
        assert headers["x-neutron-router-id"] == lab.cloud.id("router/r1")
        assert headers["x-forwarded-for"].removeprefix("::ffff:") == FIXED[name]


def test_a_removed_floating_ip_stops_and_comes_back(lab: NeutronLab, original):
    lab.remove_fip(FIP1)
    assert pings(lab.outside, FIP1) == 0
    assert reached(lab.outside, FIP1) is None
    assert reached(lab.vms["vm1"], lab.outside.address) == (None if MODE == "dvr" else ("outside", GATEWAY))
    assert reached(lab.outside, FIP2) == ("vm2", lab.outside.address)
    lab.add_fip(FIP1, "vm1")
    assert pings(lab.outside, FIP1) == 3
    assert reached(lab.vms["vm1"], lab.outside.address) == ("outside", FIP1)


def test_a_moved_floating_ip_is_another_vms(lab: NeutronLab, original):
    lab.move_fip(FIP1, "vm3")
    assert reached(lab.outside, FIP1) == ("vm3", lab.outside.address)
    assert reached(lab.vms["vm3"], lab.outside.address) == ("outside", FIP1)


def test_traffic_goes_on_without_the_agent(lab: NeutronLab, original):
    """And the next agent does what was changed while there was none."""
    before = lab.netns()
    lab.kill_agent()
    assert reached(lab.outside, FIP1) == ("vm1", lab.outside.address)
    assert get(lab.vms["vm1"], METADATA, 80)
    lab.remove_fip(FIP2)
    assert reached(lab.outside, FIP2) == ("vm2", lab.outside.address)
    lab.start_agent()
    assert reached(lab.outside, FIP1) == ("vm1", lab.outside.address)
    assert pings(lab.outside, FIP2) == 0
    assert lab.netns() == before


def test_a_stopped_agent_leaves_what_it_has_built(lab: NeutronLab):
    lab.stop_agent(signal.SIGTERM)
    assert reached(lab.outside, FIP1) == ("vm1", lab.outside.address)
    lab.start_agent()
    assert reached(lab.outside, FIP1) == ("vm1", lab.outside.address)


def test_a_distributed_router_knows_ports_that_come_and_go(lab: NeutronLab, original):
    netns, address = f"qrouter-{lab.cloud.id('router/r1')}", "10.1.2.77"

    def neighbour() -> str:
        return lab.run_in(netns, f"ip neigh show {address} nud permanent")

    cloud = lab.cloud
    lab.change(replace(cloud, vms=[*cloud.vms, CloudVm("vm4", "net2", address, HOST)]))
    if MODE == "legacy":  # asks by ARP
        assert not neighbour()
        return
    wait_for("the new port's MAC", neighbour)
    lab.change(cloud)
    wait_for("an end of it", lambda: not neighbour())


def test_a_deleted_router_leaves_nothing(lab: NeutronLab):
    """The last test, for it leaves no router to the others."""
    lab.delete_router()
    assert lab.netns() == []
    assert pings(lab.outside, FIP1) == 0
