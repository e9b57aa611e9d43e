# SPDX-License-Identifier: Apache-2.0
"""One lab per module. What it is like, the environment says:

FIPLANE_BUILD      build directory (default: build/release of this tree)
FIPLANE_FAST_PATH  on (default) or off
FIPLANE_XDP        auto (default), native, generic or off
FIPLANE_WIRE       bridge (default) or routed
FIPLANE_TOPOLOGY   examples/NAME.yaml, for the modules that name none (default: devstack-dvr-vxlan)
FIPLANE_TUNNEL     vxlan, gre or geneve: what the topology's tunnels are instead of what it says; vxlan6: VXLAN over IPv6
FIPLANE_TIME_SCALE how many times slower this machine is than a real one (default 1)
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

from frames import taps as open_taps  # noqa: E402
from lab import Lab  # noqa: E402
from matrix import run_matrix  # noqa: E402
from time_limit import pytest_runtest_protocol  # noqa: E402, F401
from topology import ENCAPSULATIONS, IPV6_EXTRA, Topology, TopologyError  # noqa: E402

BUILD = Path(os.environ.get("FIPLANE_BUILD", ROOT / "build" / "release"))
EXAMPLE = ROOT / "examples" / f"{os.environ.get('FIPLANE_TOPOLOGY', 'devstack-dvr-vxlan')}.yaml"
TUNNEL = os.environ.get("FIPLANE_TUNNEL")
UNDERLAY6 = ipaddress.IPv6Address("2001:db8:ac::")


def mode() -> dict:
    return {
        "fast_path": os.environ.get("FIPLANE_FAST_PATH", "on") == "on",
        "xdp": os.environ.get("FIPLANE_XDP", "auto"),
        "wire": os.environ.get("FIPLANE_WIRE", "bridge"),
    }


def pytest_report_header() -> str:
    values = {**mode(), "tunnel": TUNNEL or "as the topology says"}
    return "lab: " + ", ".join(f"{key}={value}" for key, value in values.items())


def with_ipv6_underlay(text: str) -> str:
    """A topology's text with each node's underlay address a.b.c.d as UNDERLAY6 and that, and no mtu for which the longer outer
    header leaves no room."""
    cloud = yaml.safe_load(text)
    most = cloud.get("underlay_mtu", 1500) - (1500 - ENCAPSULATIONS["vxlan"].mtu) - IPV6_EXTRA
    text = re.sub(r"\bmtu: (\d+)\b", lambda match: f"mtu: {min(int(match[1]), most)}", text)
    for node in cloud["nodes"]:
        old = ipaddress.ip_address(node["underlay"]["address"])
        if old.version == 4:
            text = re.sub(rf"(?<![\d.]){re.escape(str(old))}(?![\d.])", f'"{UNDERLAY6 + int(old)}"', text)
    return text


def over(tunnel: str, topology: Path) -> Path:
    """The same cloud with tunnels of another type, on their usual port, or over IPv6 (vxlan6); the rest of the text stays as
    it is written. A file in the build directory."""
    type = "vxlan" if tunnel == "vxlan6" else tunnel
    text = re.sub(r"^transport:.*\n([ \t].*\n)*", "", topology.read_text(), flags=re.MULTILINE)
    text = re.sub(rf"\bnetwork_type: ({'|'.join(ENCAPSULATIONS)})\b", f"network_type: {type}", text)
    if tunnel == "vxlan6":
        text = with_ipv6_underlay(text)
    changed = BUILD / "fullstack-topologies" / f"{topology.stem}-{tunnel}.yaml"
    changed.parent.mkdir(exist_ok=True)
    changed.write_text(f"{text}\ntransport: {{type: {type}}}\n")
    types = {network.type for network in Topology.load(BUILD / "fiplane", changed).networks.values()} & ENCAPSULATIONS.keys()
    if types != {type}:
        raise TopologyError(f"FIPLANE_TUNNEL={tunnel}: {topology.name} has {' and '.join(sorted(types)) or 'no'} tunnels")
    return changed


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Keeps logs and what the kernel held at the first failure of a test with labs, whose nodes and VMs differ in name."""
    outcome = yield
    report = outcome.get_result()
    labs = {id(value): value for value in getattr(item, "funcargs", {}).values() if isinstance(value, Lab)}
    if report.when == "call" and report.failed and labs:
        directory = BUILD / "fullstack-artefacts" / f"{Path(str(item.path)).stem}-{item.name}".replace("/", "_")
        for lab in labs.values():
            lab.collect(directory)
        report.sections.append(("artefacts", str(directory)))


class LabKeeper:
    """At most one lab runs. A module gets the one of the module before it if it wants the same, and both leave a lab as
    they found it (SHARES_LAB)."""

    def __init__(self) -> None:
        self._running = contextlib.ExitStack()
        self._lab: Lab | None = None
        self._wanted: tuple[Path, dict] | None = None  # what the running lab was made for
        self.is_warm = False

    def lab(self, shared: bool, topology: Path, options: dict) -> Lab:
        wanted = (topology, options)
        if self._lab is None or not shared or self._wanted != wanted:
            self.close()
            lab = Lab(topology, BUILD, artefacts=BUILD / "fullstack-artefacts", **options)
            self._lab, self._wanted = self._running.enter_context(lab), wanted
        return self._lab

    def close(self) -> None:
        self._lab, self._wanted, self.is_warm = None, None, False
        self._running.close()


@pytest.fixture(scope="session")
def lab_keeper():
    keeper = LabKeeper()
    yield keeper
    keeper.close()


@pytest.fixture(scope="module")
def lab(request, lab_keeper):
    """The module may name its topology (TOPOLOGY) and override parts of the mode (LAB)."""
    topology = getattr(request.module, "TOPOLOGY", EXAMPLE)
    if TUNNEL:
        topology = over(TUNNEL, topology)
    options = {**mode(), **getattr(request.module, "LAB", {})}
    shared = getattr(request.module, "SHARES_LAB", False)
    yield lab_keeper.lab(shared, topology, options)
    if not shared:
        lab_keeper.close()


@pytest.fixture
def taps(lab):
    with open_taps(lab) as opened:
        yield opened


@pytest.fixture(scope="module")
def warm(lab, lab_keeper):
    """Everybody has talked to everybody: neighbours are resolved, so the fast path knows all next hops.

    The first packets of a fresh lab meet carriers and neighbours that are still settling, so there is a second round;
    what the tests assert is measured after it.
    """
    if lab_keeper.is_warm:
        return lab
    for _ in range(2):
        cells = run_matrix(lab, pings=2, with_ssh=False)
        lost = [f"{cell.source} -> {cell.address}" for cell in cells if cell.ping_ms is None]
        if not lost:
            break
    if lost:
        lab.collect(lab.artefacts / f"warm-up-{lab.name}")
    assert not lost, f"warm-up pings lost: {lost}"
    lab_keeper.is_warm = True
    return lab


@pytest.fixture
def original(warm):
    """The topology as it was, again after the test."""
    text = warm.topology_file.read_text()
    yield
    warm.reload(lambda _: text)
    warm.wait_until_ready()
