# SPDX-License-Identifier: Apache-2.0
"""The iptables rules of one namespace as a Neutron agent keeps them: in memory, written as the difference to what it wrote
before, in one iptables-restore.

Each table has its built-in chains, chains of Neutron's own name (neutron-filter-top, neutron-postrouting-bottom) and
chains that carry the agent's name, here "wrapped": a rule may jump to one of these as `$name`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import SequenceMatcher

WRAP = "neutron-l3-agent"
BUILT_IN = {
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "raw": ("PREROUTING", "OUTPUT"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
}
MARK_MASK = "0xffff"
SCOPE_MASK = "0xffff0000"
RESTORE_SCOPE = f"CONNMARK --restore-mark --nfmask {SCOPE_MASK} --ctmask {SCOPE_MASK}"
SAVE_SCOPE = f"-m connmark --mark 0x0/{SCOPE_MASK} -j CONNMARK --save-mark --nfmask {SCOPE_MASK} --ctmask {SCOPE_MASK}"
SNAT_COMMENT = '-m comment --comment "Perform source NAT on outgoing traffic."'


def wrapped(chain: str) -> str:
    return f"{WRAP}-{chain}"


@dataclass
class Rule:
    chain: str
    text: str
    tag: str | None
    top: bool


@dataclass
class Table:
    """`chains`: all but the built-in ones, by the name that the kernel knows."""

    chains: set[str] = field(default_factory=set)
    rules: list[Rule] = field(default_factory=list)

    def add_chain(self, name: str) -> None:
        self.chains.add(wrapped(name))

    def add(self, chain: str, rule: str, tag: str | None = None) -> None:
        """At the end of a wrapped chain. `tag`: for clear()."""
        assert wrapped(chain) in self.chains, chain
        self.add_outer(wrapped(chain), rule, tag)

    def add_outer(self, chain: str, rule: str, tag: str | None = None, top: bool = False) -> None:
        """To a chain that is not wrapped. `top`: before the rules that are not."""
        self.rules.append(Rule(chain, rule.replace("-j $", f"-j {WRAP}-"), tag, top))

    def empty(self, chain: str) -> None:
        self.rules = [rule for rule in self.rules if rule.chain != wrapped(chain)]

    def clear(self, tag: str) -> None:
        self.rules = [rule for rule in self.rules if rule.tag != tag]

    def by_chain(self) -> dict[str, list[str]]:
        result: dict[str, list[str]] = {chain: [] for chain in sorted(self.chains)}
        for rule in sorted(self.rules, key=lambda rule: not rule.top):
            result.setdefault(rule.chain, []).append(rule.text)
        return result


class Iptables:
    """The tables of one namespace, for IPv4 (`v4`) and IPv6 (`v6`), with what every namespace of the agent has."""

    def __init__(self) -> None:
        self.v4 = {name: Table() for name in ("filter", "mangle", "nat", "raw")}
        self.v6 = {name: Table() for name in ("filter", "mangle", "nat", "raw")}
        self._written: dict[int, dict[str, dict[str, list[str]]]] = {4: {}, 6: {}}
        for tables in (self.v4, self.v6):
            filter_ = tables["filter"]
            filter_.chains.add("neutron-filter-top")
            for chain in ("FORWARD", "OUTPUT"):
                filter_.add_outer(chain, "-j neutron-filter-top", top=True)
            filter_.add_chain("local")
            filter_.add_outer("neutron-filter-top", "-j $local")
            for name in ("filter", "raw", "mangle"):
                self._wrap(tables[name], BUILT_IN[name])
        self.v4["mangle"].add_chain("mark")
        self.v4["mangle"].add("PREROUTING", "-j $mark")
        self._wrap(self.v4["nat"], ("PREROUTING", "OUTPUT", "POSTROUTING"))
        self._wrap(self.v6["nat"], ("PREROUTING",))
        nat = self.v4["nat"]
        nat.chains.add("neutron-postrouting-bottom")
        nat.add_outer("POSTROUTING", "-j neutron-postrouting-bottom")
        nat.add_chain("snat")
        nat.add_outer("neutron-postrouting-bottom", f"{SNAT_COMMENT} -j $snat")
        nat.add_chain("float-snat")
        nat.add("snat", "-j $float-snat")

    @staticmethod
    def _wrap(table: Table, chains: tuple[str, ...]) -> None:
        for chain in chains:
            table.add_chain(chain)
            table.add_outer(chain, f"-j ${chain}")

    def add_address_scopes(self) -> None:
        """The chains in which a router marks packets by the address scope that they come from, and drops those that would
        leave it."""
        for tables in (self.v4, self.v6):
            for name in ("mangle", "filter"):
                tables[name].add_chain("scope")
            tables["filter"].add("FORWARD", "-j $scope")
            tables["mangle"].add("PREROUTING", "-j $scope")
            tables["mangle"].add("PREROUTING", f"-m connmark ! --mark 0x0/{SCOPE_MASK} -j {RESTORE_SCOPE}")
        mangle = self.v4["mangle"]
        mangle.add_chain("floatingip")
        mangle.add_chain("float-snat")
        mangle.add("PREROUTING", "-j $floatingip")
        mangle.add("float-snat", SAVE_SCOPE)

    def changes(self) -> dict[str, str]:
        """What to feed to which command so that the namespace has these tables; nothing if it has them. From now on they
        count as written."""
        result = {}
        for version, command, tables in ((4, "iptables-restore", self.v4), (6, "ip6tables-restore", self.v6)):
            wanted = {name: tables[name].by_chain() for name in sorted(tables)}
            written, self._written[version] = self._written[version], wanted
            lines = []
            for name, chains in wanted.items():
                changed = _difference(written.get(name, {}), chains, set(BUILT_IN[name]))
                if changed:
                    lines += [f"*{name}", *changed, "COMMIT"]
            if lines:
                result[f"{command} -n"] = "\n".join(lines) + "\n"
        return result

    def whole(self) -> dict[str, str]:
        """Like changes(), but everything, in place of all that the tables hold."""
        result = {}
        for command, tables in (("iptables-restore", self.v4), ("ip6tables-restore", self.v6)):
            lines = []
            for name in sorted(tables):
                by_chain = tables[name].by_chain()
                lines.append(f"*{name}")
                lines += [f":{chain} ACCEPT [0:0]" for chain in BUILT_IN[name]]
                lines += [f":{chain} - [0:0]" for chain in by_chain if chain not in BUILT_IN[name]]
                lines += [f"-A {chain} {rule}" for chain, rules in by_chain.items() for rule in rules]
                lines.append("COMMIT")
            result[command] = "\n".join(lines) + "\n"
        return result


def _difference(old: dict[str, list[str]], new: dict[str, list[str]], built_in: set[str]) -> list[str]:
    """Commands of iptables-restore that lead from one table to another. Chains only come: an agent removes none."""
    lines = [f":{chain} - [0:0]" for chain in sorted(new.keys() - old.keys() - built_in)]
    for chain in sorted(old.keys() | new.keys()):
        before, after = old.get(chain, []), new.get(chain, [])
        position = 1
        for operation, first, end, new_first, new_end in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
            if operation == "equal":
                position += end - first
                continue
            lines += [f"-D {chain} {position}"] * (end - first)
            for rule in after[new_first:new_end]:
                lines.append(f"-I {chain} {position} {rule}")
                position += 1
    return lines
