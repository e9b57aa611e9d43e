# SPDX-License-Identifier: Apache-2.0
"""One lab per module. What it is like, the environment says:

FIPLANE_BUILD           build directory (default: build/release of this tree): fiplane, and what is kept of a failure
FIPLANE_NEUTRON_MODE    the agent's mode: dvr (default), dvr_snat or legacy
FIPLANE_NEUTRON_DRIVER  its interface driver: openvswitch (default, in user space), openvswitch-kernel or linuxbridge
FIPLANE_FOLLOW          off: Linux carries all packets, on (default): fiplane follows the agent
FIPLANE_TIME_SCALE      how many times slower this machine is than a real one (default 1)
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

from artefacts import keep_on_failure  # noqa: E402
from follower import Follower  # noqa: E402
from neutron_lab import NeutronLab  # noqa: E402
from time_limit import pytest_runtest_protocol  # noqa: E402, F401

BUILD = Path(os.environ.get("FIPLANE_BUILD", ROOT / "build" / "release"))
ARTEFACTS = BUILD / "neutron-artefacts"
MODE = os.environ.get("FIPLANE_NEUTRON_MODE", "dvr")
DRIVER = os.environ.get("FIPLANE_NEUTRON_DRIVER", "openvswitch")
FOLLOW = os.environ.get("FIPLANE_FOLLOW", "on") != "off"


def pytest_report_header() -> str:
    return f"lab: agent_mode={MODE}, interface_driver={DRIVER}, follow={FOLLOW}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Keeps logs and what the kernel held when a test fails."""
    yield from keep_on_failure(item, ARTEFACTS, "lab", f"{MODE}-{DRIVER}")


@pytest.fixture(scope="module")
def lab():
    with NeutronLab(MODE, DRIVER, artefacts=ARTEFACTS) as running:
        yield running


@pytest.fixture(scope="module", autouse=FOLLOW)
def follower(lab: NeutronLab):
    with Follower(lab.node, BUILD, lab.state.path) as running:
        yield running
