# SPDX-License-Identifier: Apache-2.0
"""Linux is the reference: generated packets through one node, with the fast path off and on, leave it as the same bytes
at the same places. tools/equivalence runs more of them, and any one of them again.

FIPLANE_DEPLOYMENT  which one (tests/support/equivalence/deployments.py)
FIPLANE_PACKETS     packets for each node (default 4000)
FIPLANE_SEED        of the generator (default 1)
"""

from __future__ import annotations

import os

import pytest

from equivalence import report
from equivalence.deployments import DEPLOYMENTS
from equivalence.generate import Generator
from equivalence.runner import Outcome, Runner, batches, on_one_cpu
from equivalence.site import Site

NAME = os.environ.get("FIPLANE_DEPLOYMENT", "dvr")
DEPLOYMENT = DEPLOYMENTS[NAME]
TOPOLOGY = DEPLOYMENT.topology
PACKETS = int(os.environ.get("FIPLANE_PACKETS", "4000"))
SEED = int(os.environ.get("FIPLANE_SEED", "1"))


@pytest.mark.parametrize("node", DEPLOYMENT.nodes)
def test_same_bytes_with_and_without_the_fast_path(warm, node):
    repeat = f"sudo tools/equivalence {NAME} --node {node} --xdp {warm.xdp} --seed {SEED}"
    outcome = Outcome()
    with Site(warm, node) as site, on_one_cpu():
        generator, runner = Generator(site, SEED), Runner(site)
        for batch in batches(range(PACKETS)):
            runner.run([generator.case(number) for number in batch], outcome)
    print(f"{outcome.cases} packets, {outcome.frames} outputs compared, {outcome.fast} handled in BPF, "
          f"{outcome.slow} left to Linux, known differences: {dict(outcome.exempted)}")  # fmt: skip
    assert outcome.cases == PACKETS
    # Most packets come out, and the fast path carries many of them: else there is nothing to compare.
    assert outcome.silent < outcome.cases / 2
    assert outcome.fast > outcome.cases / 4
    assert not outcome.differences, "\n".join(
        [f"{len(outcome.differences)} differences"]
        + [report.describe(difference, repeat) for difference in outcome.differences[:2]]
        + [report.summary_line(difference) for difference in outcome.differences[2:50]]
    )
