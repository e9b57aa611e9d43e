# SPDX-License-Identifier: Apache-2.0
"""Mutants of the BPF sources: each differs from them in one line, by a small mistake that a person could make."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator


@dataclass(frozen=True)
class Mutant:
    file: str  # relative to the tree
    line: int  # 1-based
    operator: str
    column: int
    old: str
    new: str

    @property
    def name(self) -> str:
        return f"{self.file}:{self.line}:{self.column}:{self.operator}"


# operator, what it matches, what it becomes. All are applied at every match, one at a time.
REPLACEMENTS = [
    ("comparison", r"(?<![=!<>])==", "!="),
    ("comparison", r"!=", "=="),
    ("bound", r"(?<=\s)<(?=\s)", "<="),
    ("bound", r"(?<=\s)<=(?=\s)", "<"),
    ("bound", r"(?<=\s)>(?=\s)", ">="),
    ("bound", r"(?<=\s)>=(?=\s)", ">"),
    ("logic", r"&&", "||"),
    ("logic", r"\|\|", "&&"),
    ("negation", r"(?<=[\s(])!(?=[a-z_(*])", ""),
    ("bits", r"(?<=\s)&(?=\s)", "|"),
    ("bits", r"(?<=\s)\|(?=\s)", "&"),
    ("bits", r"(?<=\s)\^(?=\s)", "|"),
    ("shift", r"<<", ">>"),
    ("shift", r">>", "<<"),
    ("arithmetic", r"(?<=\s)\+(?=\s)", "-"),
    ("arithmetic", r"(?<=\s)-(?=\s)", "+"),
    ("arithmetic", r"-=", "+="),
    ("arithmetic", r"\+=", "-="),
    ("arithmetic", r"\+\+", "--"),
    ("arithmetic", r"(?<=[\s(])~", ""),
    ("boolean", r"\btrue\b", "false"),
    ("boolean", r"\bfalse\b", "true"),
    ("direction", r"\bsaddr\b", "daddr"),
    ("direction", r"\bdaddr\b", "saddr"),
    ("direction", r"\bsmac\b", "dmac"),
    ("direction", r"\bdmac\b", "smac"),
    ("direction", r"\bsource\b(?=[;,)\s])", "dest"),
    ("direction", r"\bsender_(ip|mac)\b", r"target_\1"),
    ("direction", r"\btarget_(ip|mac)\b", r"sender_\1"),
    ("direction", r"\bBPF_F_INGRESS\b", "0"),
    ("byte order", r"\bbpf_(?:hton|ntoh)[sl]\(", "("),
    ("checksum", r"\bcsum_update\((\w+(?:->\w+)*), ", r"(\1, "),
    ("checksum", r"\bcsum_change(?:16|32)\(", "(__u64)("),
    ("verdict", r"\bfl_to_linux\(FL_REASON_\w+\)", "fl_go_on()"),
    ("verdict", r"\bfl_go_on\(\)", "fl_to_linux(FL_REASON_NO_SOURCE)"),
    ("reason", r"\bFL_REASON_(?!COUNT)\w+", "FL_REASON_PULL_FAILED"),
    ("kind", r"\bFL_OUT_PORT\b", "FL_OUT_HOST"),
    ("kind", r"\bFL_OUT_HOST\b", "FL_OUT_PORT"),
    ("kind", r"\bFL_OUT_TUNNEL\b", "FL_OUT_PORT"),
    ("kind", r"\bFL_(?:SEND|RECEIVE|SEND_PEER)\b", "FL_LINUX"),
    ("constant", r"(?<![\w.])(?:0x[0-9a-fA-F]+|\d+)(?![\w.])", None),
]

# A whole statement on one line that is no declaration and no jump.
NO_STATEMENT = r"(?:return|break|case|default|goto|const|struct|static|enum|bool|typedef)\b|__\w+\s|\}|#|SEC"
STATEMENT = re.compile(rf"^\s*(?!{NO_STATEMENT})[*(\w].*;\s*$")
CONDITION = re.compile(r"^(\s*(?:\} else )?(?:if|while) \()(.*)(\)(?: \{)?\s*)$")
SKIPPED = re.compile(r"^\s*(?:#(?!\s*define)|FL_STATIC_ASSERT|__uint\(|__type\(|char _license|fl_inline\b|SEC\()")


def changed_constant(text: str) -> str:
    """The next number, in the same notation."""
    return hex(int(text, 16) + 1) if text.startswith("0x") else str(int(text) + 1)


def blank(text: str) -> str:
    """Comments and strings become spaces, so that columns stay and nothing in them is altered."""
    pattern = r'/\*.*?\*/|//[^\n]*|"(?:[^"\\\n]|\\.)*"'
    return re.sub(pattern, lambda found: re.sub(r"[^\n]", " ", found.group()), text, flags=re.DOTALL)


def balanced(text: str) -> bool:
    return text.count("(") == text.count(")")


def mutants_of_line(old: str, code: str, before: str) -> Iterator[tuple[str, int, str]]:
    """(operator, column, new line); `code` is the line without comments and strings, `before` the one before it."""
    for operator, pattern, becomes in REPLACEMENTS:
        for found in re.finditer(pattern, code):
            new = changed_constant(found.group()) if becomes is None else found.expand(becomes)
            yield operator, found.start() + 1, old[:found.start()] + new + old[found.end():]
    begins = before.endswith((";", "{", "}", ":", ")", "else"))
    if begins and STATEMENT.match(code) and balanced(code):
        indent = len(old) - len(old.lstrip())
        yield "removed statement", indent + 1, old[:indent] + ";"
    condition = CONDITION.match(code)
    if condition and balanced(condition[2]):
        start, end = condition.span(2)
        yield "negated condition", start + 1, f"{old[:start]}!({old[start:end]}){old[end:]}"


def mutants_of_file(tree: Path, file: str) -> Iterator[Mutant]:
    text = (tree / file).read_text()
    seen = set()
    before = ";"
    for number, (old, code) in enumerate(zip(text.splitlines(), blank(text).splitlines()), start=1):
        if SKIPPED.match(code) or re.match(r"\s*#define \w+(\(.*\))?\s*$", code):
            continue  # nothing here runs
        for operator, column, new in mutants_of_line(old, code, before):
            if new != old and (number, new) not in seen:
                seen.add((number, new))
                yield Mutant(file, number, operator, column, old, new)
        before = code.rstrip() or before


def explained(document: Path) -> set[tuple[str, str, str]]:
    """(file, line as it is, line of the mutant), without indentation, of the mutants that a document shows in its
    ```diff blocks: "--- FILE", then a line with - and a line with + for each."""
    out, file, old, inside = set(), "", "", False
    for line in document.read_text().splitlines():
        if line.startswith("```"):
            inside = line == "```diff"
        elif inside and line.startswith("--- "):
            file = line.removeprefix("--- ")
        elif inside and line.startswith("-"):
            old = line[1:].strip()
        elif inside and line.startswith("+"):
            out.add((file, old, line[1:].strip()))
    return out


def all_mutants(tree: Path) -> list[Mutant]:
    files = sorted(path.relative_to(tree).as_posix() for path in (tree / "bpf").rglob("*.[ch]"))
    return [mutant for file in files for mutant in mutants_of_file(tree, file)]
