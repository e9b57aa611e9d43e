# SPDX-License-Identifier: Apache-2.0
"""tools/equivalence: a run of any length, or one packet again."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

from equivalence import report
from equivalence.deployments import DEPLOYMENTS, ROOT
from equivalence.generate import Generator
from equivalence.runner import Outcome, Runner, batches, on_one_cpu
from equivalence.site import Site
from lab import Lab, LabError
from matrix import run_matrix


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/equivalence", description=__doc__)
    parser.add_argument("deployment", nargs="?", default="dvr", choices=DEPLOYMENTS)
    parser.add_argument("--node", help="node under test (default: each of the deployment's roles)")
    parser.add_argument("--xdp", default="auto", choices=("auto", "native", "generic", "off"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=4000, help="packets for each node")
    parser.add_argument("--first", type=int, default=0, help="number of the first packet")
    parser.add_argument("--only", type=int, action="append", help="this packet alone; may be repeated")
    parser.add_argument("--show", type=int, default=3, help="differences shown in full")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "release")
    parser.add_argument("--keep", action="store_true", help="leave the lab up afterwards")
    return parser.parse_args()


def run_node(lab: Lab, node: str, options: argparse.Namespace) -> bool:
    repeat = (f"sudo tools/equivalence {options.deployment} --node {node} --xdp {options.xdp} --seed {options.seed}")
    outcome, start = Outcome(), time.monotonic()
    numbers = options.only or range(options.first, options.first + options.count)
    with Site(lab, node) as site:
        generator, runner = Generator(site, options.seed), Runner(site)
        for batch in batches(numbers):
            cases = [generator.case(number) for number in batch]
            runner.run(cases, outcome)
            print(f"{node}: {outcome.cases} packets, {outcome.frames} outputs, {len(outcome.differences)} differences",
                  file=sys.stderr, flush=True)  # fmt: skip
            if options.only:
                for case in cases:
                    print(case.describe())
    for difference in outcome.differences[: options.show]:
        print(report.describe(difference, repeat))
    for difference in outcome.differences[options.show :]:
        print(report.summary_line(difference))
    seconds = time.monotonic() - start
    print(f"{options.deployment}, {node}, --xdp {options.xdp}, seed {options.seed}: {outcome.cases} packets in "
          f"{seconds:.0f} s, {outcome.frames} outputs compared, {outcome.silent} packets without any, "
          f"{outcome.fast} handled in BPF, {outcome.slow} left to Linux")  # fmt: skip
    for name, count in sorted(Counter(outcome.exempted).items()):
        print(f"  known difference {name}: {count}")
    print(f"  differences: {len(outcome.differences)}")
    return not outcome.differences


def main() -> int:
    options = arguments()
    deployment = DEPLOYMENTS[options.deployment]
    nodes = (options.node,) if options.node else deployment.nodes
    say = lambda what: print(what, file=sys.stderr, flush=True)  # noqa: E731
    try:
        with Lab(deployment.topology, options.build, xdp=options.xdp, progress=say) as lab:
            for _ in range(2):
                run_matrix(lab, pings=2, with_ssh=False)
            with on_one_cpu():
                right = [run_node(lab, node, options) for node in nodes]
            if options.keep:
                lab.keep()
    except LabError as error:
        print(f"equivalence: {error}", file=sys.stderr)
        return 2
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main())
