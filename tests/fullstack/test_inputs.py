# SPDX-License-Identifier: Apache-2.0
"""Bad input and missing things: one clear error, a distinct exit code, and what was there stays as it was."""

from __future__ import annotations

import json
import os
import random
import re
from pathlib import Path

import pytest

from conftest import BUILD, ROOT
from lab import wait_for
from namespaces import Namespace, StateDirectory, remove_lab

EXAMPLE = ROOT / "examples" / "devstack-dvr-vxlan.yaml"


@pytest.fixture
def node():
    """A node with an underlay and nothing else."""
    state = StateDirectory(f"inputs-{os.getpid()}-{random.randrange(16**4):04x}")
    namespace = Namespace(state, "primary")
    try:
        namespace.wait_until_up()
        namespace.run(
            "ip link add eth0 type veth peer name far; ip link set eth0 up; ip link set far up;"
            "ip address add 192.0.2.11/24 dev eth0"
        )
        wait_for("the underlay's carrier", lambda: is_settled(namespace))
        yield namespace
    finally:
        remove_lab(state.path)
        namespace.close()


def is_settled(node: Namespace) -> bool:
    """The kernel's linkwatch work has been there: it runs some time after a device got its carrier, marks it as running
    and, with that, gives it its link-local address. Until then what stands changes by itself."""
    devices = [row for row in json.loads(node.run("ip -j address").stdout) if row["ifname"] != "lo"]
    return len(devices) == 2 and all(
        row["operstate"] == "UP" and any(address["family"] == "inet6" for address in row["addr_info"]) for row in devices
    )


def what_stands(node: Namespace) -> str:
    return node.run("ip -d link; ip address; ip rule; ip route show table all; nft list ruleset; ls /run/netns;"
                    "find /sys/fs/bpf").stdout


def attempt(node: Namespace, *arguments, prefix=()):
    before = what_stands(node)
    result = node.run([*prefix, BUILD / "fiplane", *arguments], check=False, timeout=20)
    assert what_stands(node) == before, "something was changed"
    return result


def agent(node: Namespace, file: Path = EXAMPLE, *more) -> list:
    return ["agent", "--topology", file, "--node", "primary", "--state-dir", node.state.path / "state", *more]


def one_error(result, code: int, *words: str) -> None:
    assert result.returncode == code, result
    lines = [line for line in result.stderr.strip().splitlines() if line]
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0], lines[0]


def edited(node: Namespace, change) -> Path:
    file = node.state.path / "edited.yaml"
    file.write_text(change(EXAMPLE.read_text()))
    return file


def test_broken_yaml(node):
    file = edited(node, lambda text: text.replace("nodes:", "nodes: ["))
    result = attempt(node, *agent(node, file))
    mistake, summary = result.stderr.strip().splitlines()
    assert result.returncode == 2 and mistake.startswith(f"{file}:") and "YAML" in mistake, result
    assert "1 mistake" in summary


@pytest.mark.parametrize("type,kind,module,device",
                         [("gre", "gretap", "ip_gre", "gre-1001-2"), ("geneve", "geneve", "geneve", "gnv-1001-2")])  # fmt: skip
def test_a_kernel_without_a_kind_of_device_says_so_before_anything_is_made(node, type, kind, module, device):
    identity = "id 9 " if kind == "geneve" else ""
    probe = f"ip link add probe type {kind} {identity}remote 192.0.2.99 && ip link del probe"
    is_there = node.run(probe, check=False).returncode == 0
    topology = ROOT / "examples" / f"devstack-dvr-{type}.yaml"
    result = attempt(node, "plan", "--node", "primary", "--state-dir", node.state.path / "state", topology)
    if is_there:
        assert result.returncode == 0 and f"{kind} {device}" in result.stdout, result
    else:
        one_error(result, 5, f"no devices of kind {kind}, which network public needs", module, "network_type")


def test_all_mistakes_at_once(node):
    def change(text: str) -> str:
        text = text.replace("segmentation_id: 1001\n", "segmentation_id: 1000001\n")
        text = text.replace("node: subnode2, fixed_ip: 10.1.0.32", "node: subnode9, fixed_ip: 10.1.0.31")
        return text.replace("underlay_mtu", "underlay_mut")

    file = edited(node, change)
    result = attempt(node, *agent(node, file))
    assert result.returncode == 2
    *mistakes, summary = result.stderr.strip().splitlines()
    for word in ("underlay_mtu", "subnode9", "10.1.0.31", "1000001"):
        assert any(word in line for line in mistakes), result.stderr
    assert all(re.match(f"{file}:[0-9]+:[0-9]+: ", line) for line in mistakes), result.stderr
    assert f"{len(mistakes)} mistakes" in summary


def test_unknown_node(node):
    result = attempt(node, "agent", "--topology", EXAMPLE, "--node", "subnode9")
    one_error(result, 2, "subnode9", "primary, subnode1, subnode2")


def test_wrong_command_line(node):
    one_error(attempt(node, "agent", "--tpology", EXAMPLE), 3, "--help")


def test_missing_device(node):
    file = edited(node, lambda text: text.replace("device: eth0", "device: eth7"))
    one_error(attempt(node, *agent(node, file)), 6, "eth7")


def test_missing_underlay_address(node):
    node.run("ip address flush dev eth0")
    result = attempt(node, *agent(node))
    assert result.returncode in (6, 1) and "192.0.2.11" in result.stderr, result


def test_no_root(node):
    # By capabilities and not by user: another user may not be able to read a clone below /root.
    result = attempt(node, *agent(node), prefix=["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"])
    one_error(result, 4, "root")


def test_no_btf(node):
    node.run("mount -t tmpfs none /sys/kernel/btf")
    one_error(attempt(node, *agent(node)), 5, "BTF")


def test_foreign_bridge(node):
    """br-ex of somebody else is left alone, and so is everything."""
    node.run("ip link add br-ex type bridge")
    one_error(attempt(node, *agent(node)), 7, "br-ex")


def test_foreign_namespace(node):
    """A router namespace without our mark is a Neutron agent's."""
    resolved = json.loads(node.run([BUILD / "fiplane", "validate", EXAMPLE, "-o", "json"]).stdout)
    name = resolved["routers"][0]["namespace"]
    node.run(["ip", "netns", "add", name])
    one_error(attempt(node, *agent(node)), 7, name)


def test_no_agent(node):
    for verb in (["status"], ["reload"], ["fast-path", "on"], ["explain", "172.24.5.11"]):
        one_error(attempt(node, *verb), 9, "agent")
