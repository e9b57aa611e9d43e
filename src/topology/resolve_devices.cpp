// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <set>

#include "topology/derive.hpp"
#include "topology/resolve.hpp"
#include "topology/scalar.hpp"

namespace fiplane::topology {
namespace {

std::string_view device_prefix(PortOwner owner) {
    switch (owner) {
        case PortOwner::kCompute:
            return "tap";
        case PortOwner::kFloatingIpAgentGateway:
            return "fg-";
        case PortOwner::kRouterInterface:
            return "qr-";
        case PortOwner::kRouterGateway:
            return "qg-";
        case PortOwner::kRouterCentralizedSnat:
            return "sg-";
    }
    return "tap";
}

class MacResolver {
  public:
    explicit MacResolver(Resolution& work) : work_(work) {}

    void resolve() {
        for (std::size_t i = 0; i < work_.port_origins.size(); ++i)
            take_written(i);
        for (Node& node : work_.topology.nodes) {
            for (Node::BridgeAddress& on : node.bridge_addresses) {
                on.mac = derive(fmt::format("{}/{}/bridge", node.name, work_.topology.networks[on.network].name));
            }
        }
        for (Port& port : work_.topology.ports) {
            if (port.mac.is_unset()) port.mac = derive(port.id);
        }
    }

  private:
    void take_written(std::size_t index) {
        const PortOrigin& origin = work_.port_origins[index];
        if (!origin.mac) return;
        work_.topology.ports[index].mac = *origin.mac;
        const Holder holder{origin.holder.who, origin.mac.place};
        if (const Holder* const other = macs_.claim(*origin.mac, holder)) {
            report_clash(work_.mistakes, "MAC " + origin.mac->str(), *other, holder,
                         "leave mac out to have one derived");
        }
    }

    Mac derive(const std::string& seed) {
        for (unsigned attempt = 1;; ++attempt) {
            const Mac mac = derived_mac(seed, attempt);
            if (macs_.claim(mac, {seed, {}}) == nullptr) return mac;
        }
    }

    Resolution& work_;
    Claims<Mac> macs_;
};

/// Names in the root namespace of each node: those that are the same everywhere, then those of one node.
class DeviceResolver {
  public:
    explicit DeviceResolver(Resolution& work) : work_(work) {}

    void resolve() {
        for (std::size_t i = 0; i < work_.topology.networks.size(); ++i)
            claim_network(i);
        for (std::size_t i = 0; i < work_.topology.ports.size(); ++i) {
            Port& port = work_.topology.ports[i];
            const PortOrigin& origin = work_.port_origins[i];
            const bool hypervisor_names =
                port.owner == PortOwner::kCompute && port.node && is_macvtap(work_, *port.node);
            if (!hypervisor_names) {
                port.device = origin.device.value.value_or(device_name(device_prefix(port.owner), port.id));
            }
            if (port.owner == PortOwner::kRouterInterface && !port.node) claim_everywhere(i);
        }
        for (std::size_t i = 0; i < work_.topology.nodes.size(); ++i) {
            claim_underlay(i);
            claim_physical(i);
        }
        for (std::size_t i = 0; i < work_.topology.networks.size(); ++i)
            claim_vlans(i);
        for (std::size_t i = 0; i < work_.topology.ports.size(); ++i) {
            if (work_.topology.ports[i].node && !work_.topology.ports[i].device.empty()) claim_on_node(i);
        }
    }

  private:
    /// All but VM ports are veth pairs whose end in the bridge is called tap and as much of the id.
    [[nodiscard]] std::string root_device(std::size_t port) const {
        const Port& p = work_.topology.ports[port];
        return p.owner == PortOwner::kCompute ? p.device : device_name("tap", p.id);
    }

    void claim_network(std::size_t index) {
        const NetworkEntry& entry = work_.document.networks[index];
        const Network& network = work_.topology.networks[index];
        const std::string label = object_label("network", entry.name);
        const Place bridge = entry.bridge.written ? entry.bridge.place : entry.place;
        claim(network.bridge, {label + ": bridge", bridge}, "give each network its own bridge");
        if (!entry.segmentation_id) return;
        const Holder holder{label + ": tunnel device", entry.segmentation_id.place};
        std::set<std::string> names;
        const std::size_t nodes = network.shares_device() ? 1 : work_.topology.nodes.size();
        for (std::size_t node = 0; node < nodes; ++node) {
            for (const TunnelEnd& end : work_.topology.tunnel_ends(network, node))
                names.insert(end.device);
        }
        for (const std::string& name : names)
            claim_tunnel(name, holder);
    }

    void claim_tunnel(const std::string& name, const Holder& holder) {
        if (name.size() > kMaxDeviceName) {
            work_.mistakes.add(holder.place, fmt::format("{} would be named {}", holder.who, name),
                               fmt::format("a device name has at most {} characters: write a smaller segmentation_id",
                                           kMaxDeviceName));
            return;
        }
        // Two networks with one number are reported as that.
        const Holder* const other = everywhere_.claim(name, holder);
        if (other != nullptr && !other->who.ends_with("tunnel device")) {
            report_clash(work_.mistakes, "device name " + name, *other, holder, "give the bridge another name");
        }
    }

    void claim(const std::string& name, const Holder& holder, const std::string& hint) {
        if (const Holder* const other = everywhere_.claim(name, holder)) {
            report_clash(work_.mistakes, "device name " + name, *other, holder, hint);
        }
    }

    void claim_everywhere(std::size_t port) {
        claim(root_device(port), work_.port_origins[port].holder, "write an id for the port or router");
    }

    void claim_underlay(std::size_t index) {
        const NodeEntry& entry = work_.document.nodes[index];
        if (!entry.underlay_device) return;
        claim_at(index, *entry.underlay_device,
                 {object_label("node", entry.name) + ": underlay", entry.underlay_device.place},
                 "the underlay is a device that exists before fiplane");
    }

    void claim_physical(std::size_t index) {
        const NodeEntry& entry = work_.document.nodes[index];
        std::set<std::string> claimed{work_.topology.nodes[index].underlay_device};
        for (const NodeEntry::PhysicalNetwork& to : entry.physical_networks) {
            // Twice the same device is reported as that.
            if (!to.name || !to.device || !claimed.insert(*to.device).second) continue;
            claim_at(
                index, *to.device,
                {fmt::format("{}: physical network {}", object_label("node", entry.name), *to.name), to.device.place},
                "a physical network's device exists before fiplane");
        }
    }

    void claim_vlans(std::size_t index) {
        const Network& network = work_.topology.networks[index];
        const NetworkEntry& entry = work_.document.networks[index];
        // Two networks with one VLAN id are reported as that.
        if (network.type != NetworkType::kVlan || !entry.segmentation_id) return;
        for (const auto& [node, device] : network.provider_devices) {
            if (!vlans_.insert({node, device}).second) continue;
            claim_at(node, device, {object_label("network", entry.name) + ": VLAN device", entry.segmentation_id.place},
                     "the VLAN device is named after its physical device and its id");
        }
    }

    void claim_on_node(std::size_t index) {
        const Port& port = work_.topology.ports[index];
        const PortOrigin& origin = work_.port_origins[index];
        if (port.network == kUnresolved) return;
        const Place place = origin.device.written ? origin.device.place : origin.place;
        claim_at(*port.node, root_device(index), {origin.holder.who, place},
                 "device names are unique on a node; write another device or id");
    }

    void claim_at(std::size_t node, const std::string& name, const Holder& holder, const std::string& hint) {
        const Holder* other = everywhere_.find(name);
        if (other == nullptr) other = on_node_.claim({node, name}, holder);
        if (other == nullptr) return;
        report_clash(work_.mistakes, fmt::format("device name {} on node {}", name, work_.topology.nodes[node].name),
                     *other, holder, hint);
    }

    Resolution& work_;
    Claims<std::string> everywhere_;
    Claims<std::pair<std::size_t, std::string>> on_node_;
    std::set<std::pair<std::size_t, std::string>> vlans_;
};

}  // namespace

void resolve_devices(Resolution& work) {
    MacResolver(work).resolve();
    DeviceResolver(work).resolve();
}

}  // namespace fiplane::topology
