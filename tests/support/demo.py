# SPDX-License-Identifier: Apache-2.0
"""The demo: a cloud of namespaces, who reaches whom in it, what the fast path carried, and what it is worth."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Sequence

from lab import Lab, LabError, MissingFeature
from matrix import Cell, missing, run_matrix, sources
from measure import Comparison, Counts, all_counts, compare, figures
from namespaces import kept_labs, remove_lab
from tables import Progress, colour, table
from topology import TopologyError

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build" / "release"
WANTED_SHARE = 0.99


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/demo",
        description="Builds fiplane and shows it at work: three nodes, VMs with floating IPs, all as namespaces.",
        epilog="Exit code: 0 if every node and VM reached every floating IP by ping and ssh.",
    )
    parser.add_argument("--topology", type=Path, default=ROOT / "examples" / "devstack-dvr-vxlan.yaml", metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result as data")
    parser.add_argument("--fast-path", choices=("on", "off"), default="on", help="off: plain Linux carries everything")
    parser.add_argument("--xdp", choices=("auto", "native", "generic", "off"), default="auto")
    parser.add_argument("--quick", action="store_true", help="shorter measurements")
    parser.add_argument("--keep", action="store_true", help="leave everything running and say how to look around")
    parser.add_argument(
        "--vm", action="store_true", help="run it on Debian's kernel in a VM, for what this machine's kernel lacks (slow)"
    )
    parser.add_argument("--stop", action="store_true", help="end what --keep left running, and nothing else")
    return parser.parse_args()


def stop() -> int:
    labs = kept_labs()
    for path in labs:
        remove_lab(path)
    print(f"stopped: {', '.join(path.name for path in labs)}" if labs else "no demo is running")
    return 0


def matrix_table(cells: Sequence[Cell], lab: Lab) -> str:
    """Rows: who asks; columns: whose floating IP. A cell shows the ping time, and ssh if it failed."""
    targets = list(dict.fromkeys(cell.address for cell in cells))
    by_pair = {(cell.source, cell.address): cell for cell in cells}
    rows, bad = [], set()
    for number, source in enumerate(sources(lab)):
        row = [source]
        for column, target in enumerate(targets, start=1):
            cell = by_pair[source, target]
            ping = f"{cell.ping_ms:.2f} ms" if cell.ping_ms is not None else "no ping"
            row.append(f"{ping}, {'ssh ok' if cell.ssh == 'ok' else 'NO ssh'}")
            if not cell.complete:
                bad.add((number, column))
        rows.append(row)
    return table(["from \\ to", *targets], rows, frozenset(bad))


def fast_path_table(spent: dict[str, Counts]) -> str:
    rows = [
        [name, str(count.packets), str(count.fast), f"{100 * count.share:.2f} %" if count.packets else "-"]
        for name, count in spent.items()
    ]
    return table(["node", "packets", "handled in BPF", "share"], rows)


def comparison_table(results: Sequence[Comparison]) -> str:
    rows = []
    for result in results:
        data = result.as_json()
        precision = 0 if data["linux"] > 1000 else 2
        rows.append(
            [
                data["what"],
                f"{data['linux']:,.{precision}f}",
                f"{data['fiplane']:,.{precision}f}",
                data["unit"],
                f"{result.ratio:.2f}x",
            ]
        )
    return table(["", "Linux", "fiplane", "", "ratio"], rows)


def how_to_look_around(lab: Lab) -> str:
    node = next(iter(lab.nodes.values()))
    vm = next(iter(lab.vms.values()), None)
    enter = f"nsenter -t {node.namespace.pid} -n -m -u --"
    lines = ["Everything is left running. To look around, as root:", ""]
    for name, item in (*lab.nodes.items(), *lab.vms.items()):
        lines.append(f"  nsenter -t {item.namespace.pid} -n -m -u bash    # {name}")
    lines += [
        "",
        f"  {enter} {lab.fiplane} status",
        f"  {enter} {lab.fiplane} fast-path off",
        f"  {enter} bpftool map dump pinned /sys/fs/bpf/fiplane/maps/fl_fip_in",
        f"  {enter} sh -c 'ip netns; ip -br link; nft list ruleset'",
        f"  {enter} nsenter --net=/run/netns/NAME ip route    # not ip netns exec, which hides /sys/fs/bpf",
    ]
    fip = next(iter(lab.topology.floating_ips), None)
    if vm is not None and fip is not None:
        ssh = " ".join(lab.keys.ssh_command(fip))
        lines.append(f"  nsenter -t {vm.namespace.pid} -n -m -u -- {ssh}")
    lines += [f"  logs: {lab.state.path}", f"  topology: {lab.topology_file}", "", "To end it: sudo tools/demo --stop"]
    return "\n".join(lines)


def heading(text: str) -> None:
    print(f"\n{colour(text, 'bold')}\n", flush=True)


def measure_matrix(lab: Lab, progress: Progress) -> tuple[list[Cell], dict[str, Counts]]:
    """The matrix, and each node's packets while it ran."""
    progress("warm-up: everybody pings everybody once")
    run_matrix(lab, pings=1, with_ssh=False)
    before = all_counts(lab)
    progress(f"matrix: from {len(sources(lab))} nodes and VMs to {len(lab.topology.floating_ips)} floating IPs")

    def done(finished: int, total: int) -> None:
        if finished % max(1, total // 3) == 0:
            progress(f"matrix: {finished} of {total} pairs")

    cells = run_matrix(lab, done=done)
    after = all_counts(lab)
    return cells, {name: after[name] - before[name] for name in after}


def measure_comparison(lab: Lab, seconds: float, progress: Progress) -> list[Comparison]:
    wanted = figures(lab)
    if not wanted:
        progress("no two VMs with floating IPs on different nodes: nothing to compare")
        return []
    progress(f"comparing fast path off and on: {len(wanted)} figures")
    return compare(lab, wanted, rounds=3, seconds=seconds, progress=progress)


def show(lab: Lab, cells: list[Cell], spent: dict[str, Counts], comparisons: list[Comparison]) -> None:
    heading("Ping (median round trip) and ssh, from each node and VM to each floating IP")
    print(matrix_table(cells, lab))
    if lab.fast_path:
        heading("Packets of the overlay during that matrix")
        print(fast_path_table(spent))
    if comparisons:
        heading(f"Fast path off and on (--xdp {lab.xdp}): medians of {len(comparisons[0].linux)} interleaved rounds")
        print(comparison_table(comparisons))
    print()


def judge(lab: Lab, cells: list[Cell], spent: dict[str, Counts]) -> int:
    """Says whether it is as it must be; the process's exit code."""
    complaints = [f"missing: {line}" for line in missing(cells)]
    if not complaints:
        print(colour(f"The matrix is complete: {len(cells)} of {len(cells)} pairs.", "green"))
    for name, count in spent.items():
        if lab.fast_path and count.packets and count.share < WANTED_SHARE:
            complaints.append(f"{name}: less than {WANTED_SHARE:.0%} of the packets were handled in BPF")
    for line in complaints:
        print(colour(line, "red"))
    return 1 if complaints else 0


def as_json(cells: list[Cell], spent: dict[str, Counts], comparisons: list[Comparison]) -> dict:
    return {
        "matrix": [cell.as_json() for cell in cells],
        "fast_path": [
            {"node": name, "packets": count.packets, "share": round(count.share, 6)} for name, count in spent.items()
        ],
        "compare": [comparison.as_json() for comparison in comparisons],
    }


def run(lab: Lab, arguments: argparse.Namespace, progress: Progress) -> int:
    cells, spent = measure_matrix(lab, progress)
    comparisons = measure_comparison(lab, 1.0 if arguments.quick else 2.0, progress)
    show(lab, cells, spent, comparisons)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(as_json(cells, spent, comparisons), indent=2) + "\n")
    return judge(lab, cells, spent)


def main() -> int:
    arguments = parse_arguments()
    if arguments.stop:
        return stop()
    if kept_labs():
        print("demo: one that was kept is still running: end it with sudo tools/demo --stop", file=sys.stderr)
        return 1
    progress = Progress()
    lab = Lab(
        arguments.topology,
        BUILD,
        fast_path=arguments.fast_path == "on",
        xdp=arguments.xdp,
        progress=progress,
        artefacts=ROOT / "build" / "demo-failed",
    )
    with lab:
        code = run(lab, arguments, progress)
        if arguments.keep:
            print(f"\n{how_to_look_around(lab)}")
            lab.keep()
        else:
            progress("removing everything")
    if not arguments.keep:
        progress("done")
    return code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MissingFeature as error:
        print(f"demo: {error}\ndemo: with --vm the same demo runs on another kernel, in a VM", file=sys.stderr)
        sys.exit(1)
    except (LabError, TopologyError) as error:
        print(f"demo: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\ndemo: interrupted; everything was removed", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
