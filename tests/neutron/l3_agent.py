# SPDX-License-Identifier: Apache-2.0
"""Runs Neutron's L3 agent as it is installed, with a server that answers from a file.

    l3_agent.py CLOUD.json --config-file FILE...

Everything after CLOUD.json is the agent's own command line. The agent's code, its configuration and its remote procedure
calls are Neutron's; the message bus is oslo.messaging's inside one process (transport_url fake:/), and on it is Server
in place of neutron-server. The file:

    change               a number that says which state of the file this is
    routers              what neutron-server answers to sync_routers, for this host
    ports_by_subnet      by subnet's id, what it answers to get_ports_by_subnet
    agent_gateway_ports  by external network's id, what it answers to get_agent_gateway_port
    networks             what it answers to get_networks

When the file is replaced, Server sends the agent what neutron-server would: routers_updated, router_deleted, add_arp_entry,
del_arp_entry, fipnamespace_delete_on_ext_net. Before that it logs "server change N".
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

CLOUD_FILE = Path(sys.argv[1])
# The agent's iptables chains begin with the name of its program, which Neutron looks up when it is imported.
sys.argv = ["neutron-l3-agent", *sys.argv[2:]]

# Makes the process eventlet's, and so comes before all else of Neutron.
import neutron.cmd.eventlet  # noqa: E402, F401  isort:skip
import eventlet  # noqa: E402
import oslo_messaging  # noqa: E402
from neutron.agent import l3_agent  # noqa: E402
from neutron.agent.l3.agent import L3NATAgentWithStateReport  # noqa: E402
from neutron_lib import context as neutron_context  # noqa: E402
from neutron_lib import rpc  # noqa: E402
from neutron_lib.agent import constants, topics  # noqa: E402
from oslo_log import log as logging  # noqa: E402

LOG = logging.getLogger("fiplane.server")
POLL_SECONDS = 0.1

Row = dict[str, Any]


class Reports:
    """In place of neutron-server's book-keeping of agents, to which an agent reports that it lives. An answer at once, else
    the agent waits for one before it does anything."""

    target = oslo_messaging.Target(version="1.2")

    def report_state(self, context, agent_state: Row, time: str) -> str:
        return constants.AGENT_ALIVE

    def has_alive_neutron_server(self, context) -> bool:
        return True


class Server:
    """In place of neutron-server's L3RpcCallback, which reads a database that plugins, schedulers and the API fill. Each
    method is one remote procedure call of the agent's L3PluginApi."""

    target = oslo_messaging.Target(version="1.13")

    def __init__(self, file: Path, host: str):
        self._file = file
        self._host = host
        self._context = neutron_context.get_admin_context_without_session()
        self._text = file.read_text()
        self._cloud: Row = json.loads(self._text)

    def start(self) -> None:
        for topic, endpoint in ((topics.L3PLUGIN, self), (topics.REPORTS, Reports())):
            rpc.get_server(oslo_messaging.Target(topic=topic, server="server"), [endpoint]).start()
        self._agents = rpc.get_client(oslo_messaging.Target(topic=topics.L3_AGENT, version="1.0"))

    def sync_routers(self, context, host: str, router_ids: list[str] | None = None) -> list[Row]:
        return [row for row in self._cloud["routers"] if not router_ids or row["id"] in router_ids]

    def get_router_ids(self, context, host: str) -> list[str]:
        return [row["id"] for row in self._cloud["routers"]]

    def get_ports_by_subnet(self, context, host: str, subnet_id: str) -> list[Row]:
        return self._cloud["ports_by_subnet"].get(subnet_id, [])

    def get_agent_gateway_port(self, context, network_id: str, host: str) -> Row | None:
        return self._cloud["agent_gateway_ports"].get(network_id)

    def get_networks(self, context, filters: Row | None = None, fields: list[str] | None = None) -> list[Row]:
        wanted = (filters or {}).get("id")
        return [row for row in self._cloud["networks"] if wanted is None or row["id"] in wanted]

    def get_service_plugin_list(self, context) -> list[str]:
        return ["L3_ROUTER_NAT"]

    def get_host_ha_router_count(self, context, host: str) -> int:
        return 0

    # What the agent tells, which a server would keep for others to see. Here nobody asks for it.

    def update_floatingip_statuses(self, context, router_id: str, fip_statuses: dict[str, str]) -> None:
        LOG.info("floating IPs of router %s: %s", router_id, fip_statuses)

    def update_all_ha_network_port_statuses(self, context, host: str) -> None:
        pass

    def update_ha_routers_states(self, context, host: str, states: dict[str, str]) -> None:
        pass

    def process_prefix_update(self, context, subnets: dict[str, str]) -> list[Row]:
        return []

    def delete_agent_gateway_port(self, context, host: str, network_id: str) -> None:
        pass

    def watch(self) -> None:
        """Never returns."""
        while True:
            eventlet.sleep(POLL_SECONDS)
            text = self._file.read_text()
            if text != self._text:
                old, self._text, self._cloud = self._cloud, text, json.loads(text)
                LOG.info("server change %d", self._cloud["change"])
                self._notify(old, self._cloud)

    def _notify(self, old: Row, new: Row) -> None:
        """As L3AgentNotifyAPI does, which finds the agents in the database."""
        here = self._agents.prepare(server=self._host, version="1.1")
        everywhere = self._agents.prepare(fanout=True)
        arp = self._agents.prepare(fanout=True, version="1.2")
        before = {row["id"]: row for row in old["routers"]}
        after = {row["id"]: row for row in new["routers"]}
        # While the gateway is being removed that was the last on its network, so before the router's change is known.
        for id in old["agent_gateway_ports"].keys() - new["agent_gateway_ports"].keys():
            everywhere.cast(self._context, "fipnamespace_delete_on_ext_net", ext_net_id=id)
        for id in before.keys() - after.keys():
            everywhere.cast(self._context, "router_deleted", router_id=id)
        for id, row in after.items():
            if row != before.get(id):
                here.cast(self._context, "routers_updated", routers=[id])
        for method, there, elsewhere in (("del_arp_entry", old, new), ("add_arp_entry", new, old)):
            for port in _ports(there) - _ports(elsewhere):
                entry = dict(zip(("ip_address", "mac_address", "subnet_id"), port))
                for row in after.values():
                    if row["distributed"] and entry["subnet_id"] in _subnets(row):
                        arp.cast(self._context, method, payload={"router_id": row["id"], "arp_table": entry})


def _ports(cloud: Row) -> set[tuple[str, str, str]]:
    """Address, MAC and subnet of each port that is no router's."""
    ports = set()
    for subnet, rows in cloud["ports_by_subnet"].items():
        for row in rows:
            if not row["device_owner"].startswith("network:router_"):
                addresses = [fixed["ip_address"] for fixed in row["fixed_ips"] if fixed["subnet_id"] == subnet]
                ports |= {(address, row["mac_address"], subnet) for address in addresses}
    return ports


def _subnets(router: Row) -> set[str]:
    return {subnet["id"] for port in router.get("_interfaces", []) for subnet in port["subnets"]}


class Agent(L3NATAgentWithStateReport):
    """The agent, with a server to talk to from its first call on. It changes nothing of what it does."""

    def __init__(self, host: str, conf=None):
        self._server = Server(CLOUD_FILE, host)
        self._server.start()
        super().__init__(host=host, conf=conf)

    def after_start(self) -> None:
        super().after_start()
        eventlet.spawn_n(self._server.watch)


if __name__ == "__main__":
    l3_agent.main(manager="__main__.Agent")
