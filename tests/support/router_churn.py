# SPDX-License-Identifier: Apache-2.0
"""Namespaces of routers with one floating IP each, made and removed as often as one likes: what an L3 agent makes of them,
as far as it tells who follows, in a handful of commands each. All of it is permanent neighbours, so nothing has to speak
for the floating IP to be carried."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from fixture_cloud import PUBLIC
from fixture_lab import FixtureLab
from neutron_cloud import LEGACY
from neutron_iptables import SAVE_SCOPE, Iptables
from neutron_node import device_name
from neutron_routers import EXTERNAL_MARK, centralized_rules
from watched_follower import PINS

FIXED, GATEWAY, MAC = "10.9.0.11", "10.9.0.1", "02:00:00:00:09:11"
FIRST_FIP, FIRST_PAIR, FIRST_QG = 150, 100, 220
MOST = 20  # at a time
MOST_SECONDS = 30  # until the agent follows one, and more on a machine that does not get to ask
TABLE, PRIORITY = 16, 40000


@dataclass(frozen=True)
class ChurnRouter:
    """`slot`: which of the addresses that there are for MOST of them."""

    lab: FixtureLab
    slot: int
    id: str

    @classmethod
    def new(cls, lab: FixtureLab, number: int) -> ChurnRouter:
        return cls(lab, number % MOST, str(uuid.uuid4()))

    @property
    def netns(self) -> str:
        return f"qrouter-{self.id}"

    @property
    def floating_ip(self) -> str:
        return str(PUBLIC.ip_network[FIRST_FIP + self.slot])

    @property
    def is_legacy(self) -> bool:
        return self.lab.cloud.agent(self.lab.host).mode == LEGACY

    @property
    def pair(self) -> tuple[str, str]:
        """The addresses of rfp- and fpr-."""
        return f"169.254.{FIRST_PAIR}.{2 * self.slot}", f"169.254.{FIRST_PAIR}.{2 * self.slot + 1}"

    def device(self, prefix: str) -> str:
        return device_name(prefix, self.id)

    @property
    def outer(self) -> str:
        return self.device("qg-" if self.is_legacy else "rfp-")

    # Scripts for the node

    def create(self) -> str:
        return "\n".join([
            f"ip netns add {self.netns}",
            self._inside(self.netns, "echo 1 > /proc/sys/net/ipv4/ip_forward; cd /proc/sys/net/ipv4/conf/all;"
                                     " echo 0 > send_redirects; echo 1 > arp_ignore; echo 2 > arp_announce"),
            self._batch(self.netns, *self._own_devices()),
            self._node_batch(*(f"link set {tap} up" for tap in self._taps())),
            *([] if self.is_legacy else [self._batch(self.lab.fip_netns, *self._fip_side())]),
            f"nsenter --net=/run/netns/{self.netns} iptables-nft-restore <<'END'\n{self._rules()}END",
            self._batch(self.netns, *self._floating_address()),
        ])

    def wait_until_followed(self) -> str:
        """Until the agent has its program at the way in and the way out. While namespaces come and go by the dozen, one look at
        all of them may take it many seconds."""
        pins = " && ".join(f"test -e {PINS}/routers/{self.netns}/{device}" for device in (self.device("qr-"), self.outer))
        late = f"{{ echo the agent does not follow {self.netns}: >&2; ls {PINS}/routers/{self.netns} >&2 || true; exit 1; }}"
        return f"n=0; until {pins}; do n=$((n + 1)); test $n -lt {MOST_SECONDS * 50} || {late}; sleep 0.02; done"

    def delete(self) -> str:
        """In the order of an L3 agent: floating IP, ports, namespace."""
        fip = self.floating_ip
        near, far = self.pair
        if self.is_legacy:
            steps = [self._batch(self.netns, f"addr del {fip}/32 dev {self.outer}")]
        else:
            steps = [
                self._batch(self.netns, f"rule del from {FIXED} lookup {TABLE} priority {PRIORITY}",
                            f"route del default via {far} dev {self.outer} table {TABLE}"),
                self._batch(self.lab.fip_netns, f"route del {fip} via {near} dev {self.device('fpr-')}",
                            f"link del {self.device('fpr-')}"),
            ]
        return "\n".join([*steps, self._node_batch(*(f"link del {tap}" for tap in self._taps())), self.vanish()])

    def vanish(self) -> str:
        """With everything in it."""
        return f"ip netns del {self.netns}"

    # Pieces

    def _taps(self) -> list[str]:
        """The node's ends of what an L2 agent would plug."""
        return [self.device("tap"), *([self.device("tqg")] if self.is_legacy else [])]

    def _own_devices(self) -> list[str]:
        qr, tap = self.device("qr-"), self.device("tap")
        lines = [
            f"link add {qr} mtu 1450 type veth peer name {tap} mtu 1450 netns {self.lab.node.namespace.pid}",
            f"link set {qr} up",
            f"addr add {GATEWAY}/24 dev {qr}",
            f"neigh replace {FIXED} lladdr {MAC} nud permanent dev {qr}",
        ]
        near, far = self.pair
        if self.is_legacy:
            gateway = PUBLIC.gateway_ip
            own = PUBLIC.ip_network[FIRST_QG + self.slot]
            lines += [
                f"link add {self.outer} mtu 1500 type veth peer name {self.device('tqg')} mtu 1500 netns {self.lab.node.namespace.pid}",
                f"link set {self.outer} up",
                f"addr add {own}/{PUBLIC.prefix_length} dev {self.outer}",
                f"neigh replace {gateway} lladdr {MAC} nud permanent dev {self.outer}",
                f"route replace default via {gateway} dev {self.outer} proto static",
            ]
        else:
            lines += [
                f"link add {self.outer} address {self._mac(near)} type veth peer name {self.device('fpr-')}"
                f" address {self._mac(far)} netns {self.lab.fip_netns}",
                f"link set {self.outer} mtu 1500 up",
                f"addr add {near}/31 dev {self.outer}",
                f"neigh replace {far} lladdr {self._mac(far)} nud permanent dev {self.outer}",
                f"route replace default via {far} dev {self.outer} table {TABLE} proto static",
            ]
        return lines

    def _fip_side(self) -> list[str]:
        fpr, (near, far) = self.device("fpr-"), self.pair
        return [
            f"link set {fpr} mtu 1500 up",
            f"addr add {far}/31 dev {fpr}",
            f"neigh replace {near} lladdr {self._mac(near)} nud permanent dev {fpr}",
            f"route replace {self.floating_ip} via {near} dev {fpr} proto static",
        ]

    def _floating_address(self) -> list[str]:
        if self.is_legacy:
            return [f"addr add {self.floating_ip}/32 brd {self.floating_ip} dev {self.outer}"]
        return [f"rule add from {FIXED} lookup {TABLE} priority {PRIORITY}"]

    def _rules(self) -> str:
        iptables, outer = Iptables(), self.outer
        iptables.add_address_scopes()
        nat, mangle = iptables.v4["nat"], iptables.v4["mangle"]
        nat.add("POSTROUTING", f"! -o {outer} -m conntrack ! --ctstate DNAT -j ACCEPT")
        rules = centralized_rules({"floating_ip_address": self.floating_ip, "fixed_ip_address": FIXED})
        if self.is_legacy:
            own = PUBLIC.ip_network[FIRST_QG + self.slot]
            mangle.add("POSTROUTING", f"-o {outer} {SAVE_SCOPE}")
            mangle.add("mark", f"-i {outer} -j MARK --set-xmark {EXTERNAL_MARK}")
            for chain, rule in rules:
                nat.add(chain, rule)
            nat.add("snat", f"-o {outer} -j SNAT --to-source {own} --random-fully")
            nat.add("snat", f"-m mark ! --mark {EXTERNAL_MARK} -m conntrack --ctstate DNAT -j SNAT --to-source {own} --random-fully")
        else:
            inward, _, outward = rules
            nat.add(inward[0], inward[1].replace(" -j ", f" -i {outer} -j "))
            nat.add(*outward)
        return iptables.whole()["iptables-restore"]

    @staticmethod
    def _mac(address: str) -> str:
        return "02:00:" + ":".join(f"{int(part):02x}" for part in address.split("."))

    @staticmethod
    def _inside(netns: str, commands: str) -> str:
        return f"nsenter --net=/run/netns/{netns} sh -ec '{commands}'"

    @staticmethod
    def _batch(netns: str, *lines: str) -> str:
        return f"ip -n {netns} -batch - <<'END'\n" + "\n".join(lines) + "\nEND"

    def _node_batch(self, *lines: str) -> str:
        return "ip -batch - <<'END'\n" + "\n".join(lines) + "\nEND"
