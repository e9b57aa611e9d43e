# SPDX-License-Identifier: Apache-2.0
"""Linux is the reference on a node whose routers somebody else built, too: generated packets through routers as Neutron makes
them, with the fast path off and on, leave it as the same bytes at the same places. But for ports: where a rule lets Linux
choose one, BPF keeps it.

FIPLANE_PACKETS     packets for each mode (default 4000)
FIPLANE_SEED        of the generator (default 1)
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator

import pytest

from equivalence import report
from equivalence.followed_site import FollowedSite
from equivalence.generate import ROUTED_FAMILIES, Generator
from equivalence.runner import Outcome, Runner, batches, on_one_cpu
from fixture_cloud import FIPS, HOST, cloud
from fixture_lab import FixtureLab
from follower import Follower
from lab import in_parallel, wait_for
from neutron_cloud import DVR, LEGACY
from timing import scaled

BUILD = Path(os.environ.get("FIPLANE_BUILD", Path(__file__).resolve().parents[2] / "build" / "release"))
PACKETS = int(os.environ.get("FIPLANE_PACKETS", "4000"))
SEED = int(os.environ.get("FIPLANE_SEED", "1"))


@pytest.fixture(params=[DVR, LEGACY])
def site(request) -> Iterator[FollowedSite]:
    with FixtureLab(cloud(request.param), HOST) as lab, Follower(lab.node, BUILD, lab.state.path) as follower:
        addresses = [lab.outside.address, *(vm.address for vm in lab.vms.values())]
        limit = str(round(scaled(1)))
        in_parallel([
            lambda vm=vm, address=address: vm.run(["ping", "-c", "1", "-W", limit, address], check=False)
            for vm in lab.vms.values()
            for address in addresses
        ])
        wait_for("fast floating IPs", lambda: set(follower.states().values()) == {"fast"}, 10)
        with FollowedSite(lab, follower) as running:
            yield running


def test_same_bytes_with_and_without_the_fast_path(site):
    outcome = Outcome()
    with on_one_cpu():
        generator, runner = Generator(site, SEED, ROUTED_FAMILIES), Runner(site)
        for batch in batches(range(PACKETS)):
            runner.run([generator.case(number) for number in batch], outcome)
    print(f"{outcome.cases} packets, {outcome.frames} outputs compared, {outcome.fast} handled in BPF, "
          f"{outcome.slow} left to Linux, known differences: {dict(outcome.exempted)}")  # fmt: skip
    assert {journey.kind for journey in site.journeys} == {"fip_in", "fip_out", "hairpin", "routed"}
    assert outcome.cases == PACKETS and len(FIPS) == 3
    assert outcome.silent < outcome.cases / 2
    assert outcome.fast > outcome.cases / 4
    assert not outcome.differences, "\n".join(
        [f"{len(outcome.differences)} differences"]
        + [report.describe(difference, "FIPLANE_SEED") for difference in outcome.differences[:2]]
        + [report.summary_line(difference) for difference in outcome.differences[2:50]]
    )
