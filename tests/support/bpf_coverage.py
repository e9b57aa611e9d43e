#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""BPF objects that count how often each region of their source runs, in the kernel, and the lines that follow from it.

clang's source-based coverage (-fprofile-instr-generate -fcoverage-mapping) works for the BPF target up to the last
step: it expects a runtime and sections that libbpf does not load. So the counters are moved to a data section, which
libbpf makes a map of, and what only the runtime needs is left out. A second object keeps what llvm-cov reads.

    bpf_coverage.py compile CLANG SOURCE OBJECT FLAG...    used by CMake: OBJECT, OBJECT.cov and OBJECT.counters
"""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

LLVM = "-19"
SECTION = ".data.coverage"
COUNTERS = re.compile(r"^@(__profc_[\w.]+) = private global \[(\d+) x i64\] zeroinitializer, "
                      r'section "__llvm_prf_cnts".*$', re.MULTILINE)
DATA = re.compile(r"^@__profd_([\w.]+) = private global .*? \{ i64 -?\d+, i64 (-?\d+), .*$", re.MULTILINE)
RUNTIME = re.compile(r"^@(?:__profd_|__covrec_|__llvm_|llvm\.(?:compiler\.)?used).*\n", re.MULTILINE)


def run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def loadable(ir: str) -> str:
    """The program with its counters in a map, and without what a runtime would need."""
    ir = COUNTERS.sub(rf'@\1 = dso_local global [\2 x i64] zeroinitializer, section "{SECTION}", align 8', ir)
    return RUNTIME.sub("", ir)


def symbol_offsets(target: str) -> dict[str, int]:
    offsets = {}
    for line in run(f"llvm-nm{LLVM}", target).splitlines():
        address, _, name = line.split()
        offsets[name] = int(address, 16)
    return offsets


def compile_object(clang: str, source: str, target: str, flags: list[str]) -> None:
    ir = run(clang, *flags, "-fprofile-instr-generate", "-fcoverage-mapping", "-S", "-emit-llvm", source, "-o", "-")
    with tempfile.TemporaryDirectory() as directory:
        whole, part = Path(directory, "whole.ll"), Path(directory, "part.ll")
        whole.write_text(ir)
        part.write_text(loadable(ir))
        # llvm-cov reads the mapping of what was compiled for any machine.
        run(f"llc{LLVM}", "-filetype=obj", "-mcpu=v3", str(whole), "-o", f"{target}.cov")
        run(f"llc{LLVM}", "-filetype=obj", "-mcpu=v3", str(part), "-o", target)
    hashes = {name: int(text) % 2**64 for name, text in DATA.findall(ir)}
    offsets = symbol_offsets(target)
    prefix = Path(source).name
    rows = []
    for symbol, count in COUNTERS.findall(ir):
        name = symbol.removeprefix("__profc_")
        function = f"{prefix}:{name.removeprefix(prefix + '_')}" if name.startswith(prefix + "_") else name
        rows.append({"function": function, "hash": hashes[name], "offset": offsets[symbol], "count": int(count)})
    Path(f"{target}.counters").write_text(json.dumps(rows))


def profile_text(rows: list[dict], values: list[int]) -> str:
    """What llvm-profdata calls the text format."""
    out = [":fe\n"]
    for row in rows:
        first = row["offset"] // 8
        counts = values[first:first + row["count"]]
        out.append("\n".join([row["function"], str(row["hash"]), str(row["count"]), *map(str, counts)]) + "\n")
    return "\n".join(out)


def covered_lines(target: Path, dumps: list[bytes]) -> dict[tuple[str, int], int]:
    """(file, line) -> how often it ran, of one object; the dumps are of its counters, one for each process."""
    rows = json.loads(Path(f"{target}.counters").read_text())
    sums = [sum(column) for column in zip(*(struct.unpack(f"<{len(dump) // 8}Q", dump) for dump in dumps))]
    with tempfile.TemporaryDirectory() as directory:
        text, data = Path(directory, "text"), Path(directory, "data")
        text.write_text(profile_text(rows, sums))
        run(f"llvm-profdata{LLVM}", "merge", str(text), "-o", str(data))
        lcov = run(f"llvm-cov{LLVM}", "export", "-format=lcov", f"-instr-profile={data}", f"{target}.cov")
    found = defaultdict(int)
    file = ""
    for line in lcov.splitlines():
        if line.startswith("SF:"):
            file = line[3:]
        elif line.startswith("DA:"):
            number, count = line[3:].split(",")[:2]
            found[file, int(number)] += int(count)
    return found


if __name__ == "__main__":
    compile_object(sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5:])
