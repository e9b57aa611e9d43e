# SPDX-License-Identifier: Apache-2.0
"""A node with routers, its VMs and a host outside, and fiplane's agent that follows. What it is like, the environment says:

FIPLANE_BUILD           build directory (default: build/release of this tree)
FIPLANE_NEUTRON_MODE    dvr (default), dvr_snat or legacy
FIPLANE_NEUTRON_AGENT   on: routers are made by Neutron's L3 agent; off (default): by tests/support/neutron_fixture.py
FIPLANE_NEUTRON_HA      on: the agent's router is highly available; off (default)
FIPLANE_NEUTRON_DRIVER  interface driver: linuxbridge (default) or openvswitch-kernel; of the agent also openvswitch, which is in
                        user space
FIPLANE_TIME_SCALE      how many times slower this machine is than a real one (default 1)
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Iterator

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "tests" / "neutron")]

from artefacts import keep_on_failure  # noqa: E402
from fixture_lab import FixtureLab  # noqa: E402
from follower import Follower  # noqa: E402
from neutron_cloud import LEGACY  # noqa: E402
from neutron_lab import HOST, PYTHON, WEB_PORT, NeutronLab, example  # noqa: E402
from time_limit import pytest_runtest_protocol  # noqa: E402, F401

BUILD = Path(os.environ.get("FIPLANE_BUILD", ROOT / "build" / "release"))
ARTEFACTS = BUILD / "follow-artefacts"
MODE = os.environ.get("FIPLANE_NEUTRON_MODE", "dvr")
AGENT = os.environ.get("FIPLANE_NEUTRON_AGENT", "off") != "off"
HA = os.environ.get("FIPLANE_NEUTRON_HA", "off") != "off"
DRIVER = os.environ.get("FIPLANE_NEUTRON_DRIVER", "linuxbridge")
if HA and not (AGENT and MODE == LEGACY):
    raise pytest.UsageError("FIPLANE_NEUTRON_HA=on needs FIPLANE_NEUTRON_AGENT=on and FIPLANE_NEUTRON_MODE=legacy")
ANSWERER = ROOT / "tests" / "neutron" / "answerer.py"


def pytest_report_header() -> str:
    return f"lab: mode={MODE}, agent={AGENT}, ha={HA}, interface driver={DRIVER}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Keeps what the agent knew and said when a test fails."""
    yield from keep_on_failure(item, ARTEFACTS, "follower", f"{MODE}-{DRIVER}" + ("-agent" if AGENT else "") + ("-ha" if HA else ""))


class Fixture(FixtureLab):
    """Has what a NeutronLab has beyond a FixtureLab: web servers, also in place of the metadata service."""

    def open(self) -> None:
        super().open()
        for host in (self.outside, *self.vms.values()):
            host.start([PYTHON, ANSWERER, "--port", str(WEB_PORT)])


@pytest.fixture(scope="module")
def lab() -> Iterator[NeutronLab | Fixture]:
    if AGENT:
        place = NeutronLab(MODE, DRIVER, ha=HA, artefacts=ARTEFACTS)
    else:
        place = Fixture(example(MODE), HOST, driver=DRIVER)
    with place as running:
        yield running


@pytest.fixture(scope="module")
def follower(lab) -> Iterator[Follower]:
    with Follower(lab.node, BUILD, lab.state.path) as running:
        yield running
