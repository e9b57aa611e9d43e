# SPDX-License-Identifier: Apache-2.0
"""Prints what CTest skipped, with the reasons, and fails on a skip that nobody expects, or if no test ran at all.

    skips.py EXPECTED RESULTS.xml...

EXPECTED: one line for each test that may be skipped, "NAME: why"; NAME is the name as CTest (or, inside a fullstack
suite, pytest) prints it, with * for any text. Lines that begin with # are comments.
"""

from __future__ import annotations

import fnmatch
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

# pytest -rs: "SKIPPED [1] test_wire.py::test_name: reason" or with a line number instead of the name.
PYTEST_SKIP = re.compile(r"^SKIPPED \[\d+\] (\S+): (.*)$", re.MULTILINE)
CATCH_SKIP = re.compile(r"SKIPPED:\s*(?:explicitly with message:)?\s*(.+?)\s*(?:\n\n|\n=|\Z)", re.DOTALL)

# A case that is skipped inside a run of many (the bpf suite is one test of CTest): Catch2's compact reporter.
CATCH_COMPACT_SKIP = re.compile(r"^(?:\S*/)?(\S+\.cpp:\d+): skipped: '(.*)'$", re.MULTILINE)


def read_expected(path: Path) -> list[str]:
    if not path.exists():
        return []
    lines = (line.strip() for line in path.read_text().splitlines())
    return [line.rsplit(": ", 1)[0] for line in lines if line and not line.startswith("#")]


def skipped(results: Path, prefix: str = "") -> list[tuple[str, str]]:
    """(name, reason) of each skip; names get the prefix. What was skipped inside a VM (vmtests/run) counts, too."""
    out = []
    for case in ElementTree.parse(results).getroot().iter("testcase"):
        name, text = prefix + case.get("name", ""), case.findtext("system-out") or ""
        inside = results.parent / "vm-results" / name.removeprefix("vm: ") / "results.xml"
        if name.startswith("vm: ") and inside.exists():
            out += skipped(inside, f"{name}: ")
            continue
        if case.find("skipped") is not None:
            reason = CATCH_SKIP.search(text)
            said = " ".join(reason.group(1).split()) if reason else text.strip()[-300:]
            out.append((name, said or "no reason given"))
        out += [(f"{name} {place}", reason) for place, reason in PYTEST_SKIP.findall(text)]
        out += [(f"{name} {place}", reason) for place, reason in sorted(set(CATCH_COMPACT_SKIP.findall(text)))]
    return out


def report(found: list[tuple[str, str]], expected_file: Path) -> int:
    """Prints the skips; the number of those that nobody expects."""
    expected = read_expected(expected_file)
    unexpected = 0
    for name, reason in found:
        known = any(fnmatch.fnmatchcase(name, pattern) for pattern in expected)
        print(f"skipped{'' if known else ' UNEXPECTEDLY'}: {name}: {reason}")
        unexpected += not known
    if unexpected:
        print(f"{unexpected} unexpected skips: make them run, or list them in {expected_file} with the reason")
    return unexpected


def main(expected_file: str, *results: str) -> int:
    found: list[tuple[str, str]] = []
    ran = False
    for path in map(Path, results):
        if not path.exists():
            print(f"{path} is missing: ctest did not finish")
            return 1
        ran = ran or ElementTree.parse(path).find(".//testcase") is not None
        found += skipped(path)
    if not ran:
        print("no test was chosen")
        return 1
    return 1 if report(found, Path(expected_file)) else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
