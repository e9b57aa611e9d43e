// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <concepts>
#include <initializer_list>
#include <set>

#include "topology/document.hpp"
#include "topology/fields.hpp"

namespace fiplane::topology {
namespace {

constexpr std::uint32_t kMaxVni = 0xffffff;  // RFC 7348: 24 bits, and 0 is no network
constexpr std::uint32_t kMaxVlan = 4094;     // IEEE 802.1Q: 0 is no VLAN, 4095 is reserved
constexpr std::uint32_t kMinMtu = 576;       // RFC 791: what every host must accept
constexpr std::uint32_t kMaxMtu = 65535;     // IPv4 total length
constexpr std::uint32_t kMaxUdpPort = 65535;

auto number(std::uint32_t low, std::uint32_t high) {
    return [low, high](std::string_view text) { return parse_number(text, low, high); };
}

/// The one of `allowed` that `text` names, as word_of() writes it.
template <typename Word>
Parsed<Word> parse_word(std::string_view text, std::initializer_list<Word> allowed, const char* what,
                        const char* hint) {
    for (const Word word : allowed) {
        if (text == word_of(word)) return word;
    }
    return std::unexpected(Complaint{what, hint});
}

Parsed<NetworkType> parse_transport(std::string_view text) {
    return parse_word(text, {NetworkType::kVxlan, NetworkType::kGre, NetworkType::kGeneve},
                      "is not a transport that this version builds", "vxlan, gre or geneve");
}

Parsed<NetworkType> parse_network_type(std::string_view text) {
    return parse_word(
        text, {NetworkType::kVxlan, NetworkType::kGre, NetworkType::kGeneve, NetworkType::kVlan, NetworkType::kFlat},
        "is not a type that this version builds", "vxlan, gre, geneve, vlan or flat");
}

Parsed<Shape> parse_shape(std::string_view text) {
    return parse_word(text, {Shape::kMesh, Shape::kStar}, "is not a shape", "mesh or star");
}

Parsed<VifType> parse_vif_type(std::string_view text) {
    return parse_word(text, {VifType::kBridge, VifType::kMacvtap},
                      "is not a way to attach VMs that this version builds", "bridge or macvtap");
}

Parsed<RouterType> parse_router_type(std::string_view text) {
    return parse_word(text, {RouterType::kNeutron, RouterType::kNovaNetwork}, "is not a type of router",
                      "neutron or nova-network");
}

/// Reads each item of a list with `read_item(Fields&) -> Entry`.
template <typename Entry, std::invocable<Fields&> Reader>
std::vector<Entry> read_list(Fields& fields, std::string_view key, std::string_view kind, Need need,
                             MistakeList& mistakes, Reader&& read_item) {
    std::vector<Entry> out;
    bool broken = false;
    const YamlNode* const list = fields.find_list(key, need, broken);
    if (broken) out.emplace_back();
    if (list == nullptr) return out;
    out.reserve(list->items.size());
    for (const YamlNode* const item : list->items) {
        if (!Fields::is_map(*item, kind, mistakes)) {
            out.emplace_back().place = item->place;
            continue;
        }
        Fields inner(*item, kind, mistakes);
        out.push_back(read_item(inner));
        out.back().place = item->place;
        inner.finish();
    }
    return out;
}

class DocumentReader {
  public:
    explicit DocumentReader(MistakeList& mistakes) : mistakes_(mistakes) {}

    Document read(const YamlNode& root) {
        Document out;
        if (!Fields::is_map(root, "topology", mistakes_)) return out;
        Fields fields(root, "topology", mistakes_);
        out.name = fields.read<std::string>("name", Need::kRequired, parse_name);
        if (const YamlNode* const node = fields.find_map("transport", Need::kOptional)) read_transport(*node, out);
        out.underlay_mtu = fields.read<std::uint32_t>("underlay_mtu", Need::kOptional, number(kMinMtu + 50, kMaxMtu));
        out.mss_clamp = fields.read<bool>("mss_clamp", Need::kOptional, parse_bool);
        read_physical_network_mtus(fields, out);
        out.nodes = read_list<NodeEntry>(fields, "nodes", "node", Need::kRequired, mistakes_,
                                         [this](Fields& inner) { return read_node(inner); });
        out.networks = read_list<NetworkEntry>(fields, "networks", "network", Need::kRequired, mistakes_,
                                               [this](Fields& inner) { return read_network(inner); });
        out.routers = read_list<RouterEntry>(fields, "routers", "router", Need::kOptional, mistakes_,
                                             [this](Fields& inner) { return read_router(inner); });
        out.ports =
            read_list<PortEntry>(fields, "ports", "port", Need::kOptional, mistakes_, &DocumentReader::read_port);
        out.floating_ips = read_list<FloatingIpEntry>(fields, "floating_ips", "floating IP", Need::kOptional, mistakes_,
                                                      &DocumentReader::read_floating_ip);
        fields.finish();
        return out;
    }

  private:
    void read_transport(const YamlNode& node, Document& out) {
        Fields fields(node, "transport", mistakes_);
        out.transport_type = fields.read<NetworkType>("type", Need::kOptional, parse_transport);
        out.transport_port = fields.read<std::uint32_t>("port", Need::kOptional, number(1, kMaxUdpPort));
        fields.finish();
    }

    NodeEntry read_node(Fields& fields) {
        NodeEntry out;
        out.name = fields.read<std::string>("name", Need::kRequired, parse_name);
        if (const YamlNode* const node = fields.find_map("underlay", Need::kRequired)) {
            Fields underlay(*node, fields.object() + ": underlay", mistakes_);
            out.underlay_device = underlay.read<std::string>("device", Need::kRequired, parse_device);
            out.underlay_address = underlay.read<IpAddress>("address", Need::kRequired, parse_underlay_address);
            underlay.finish();
        }
        each_entry(fields, "addresses", [&](const YamlNode& key, const YamlNode& value) {
            NodeEntry::Address& on = out.addresses.emplace_back();
            on.network = {true, key.place, key.text};
            on.address = Fields::read_scalar<Prefix>(value, fields.object(), "address on " + key.text,
                                                     parse_interface_address, mistakes_);
        });
        each_entry(fields, "physical_networks", [&](const YamlNode& key, const YamlNode& value) {
            NodeEntry::PhysicalNetwork& to = out.physical_networks.emplace_back();
            to.name = Fields::read_scalar<std::string>(key, fields.object(), "physical network", parse_name, mistakes_);
            to.device = Fields::read_scalar<std::string>(
                value, fields.object(), "device of physical network " + key.text, parse_device, mistakes_);
        });
        out.vif_type = fields.read<VifType>("vif_type", Need::kOptional, parse_vif_type);
        return out;
    }

    void read_physical_network_mtus(Fields& fields, Document& out) {
        each_entry(fields, "physical_network_mtus", [&](const YamlNode& key, const YamlNode& value) {
            PhysicalMtuEntry& entry = out.physical_network_mtus.emplace_back();
            entry.physical_network = {true, key.place, key.text};
            entry.mtu = Fields::read_scalar<std::uint32_t>(
                value, fields.object(), "MTU of physical network " + key.text, number(kMinMtu, kMaxMtu), mistakes_);
        });
    }

    /// `read(key, value)` for each entry of a mapping whose keys are names: any key may be asked for.
    void each_entry(Fields& fields, std::string_view key,
                    const std::invocable<const YamlNode&, const YamlNode&> auto& read) {
        const YamlNode* const map = fields.find_map(key, Need::kOptional);
        if (map == nullptr) return;
        const Fields by_name(*map, fmt::format("{}: {}", fields.object(), key), mistakes_);
        std::set<std::string_view> seen;
        for (const auto& [name, value] : map->entries) {
            if (name->kind == YamlNode::Kind::kScalar && seen.insert(name->text).second) read(*name, *value);
        }
    }

    NetworkEntry read_network(Fields& fields) {
        NetworkEntry out;
        out.name = fields.read<std::string>("name", Need::kRequired, parse_name);
        out.id = fields.read<std::string>("id", Need::kOptional, parse_uuid);
        out.external = fields.read<bool>("external", Need::kOptional, parse_bool);
        out.network_type = fields.read<NetworkType>("network_type", Need::kOptional, parse_network_type);
        const bool known = out.network_type || !out.network_type.written;
        const NetworkType type = out.network_type.value.value_or(NetworkType::kVxlan);
        const auto required_if = [](bool yes) { return yes ? Need::kRequired : Need::kOptional; };
        out.shape = fields.read<Shape>("shape", Need::kOptional, parse_shape);
        out.hub = fields.read<std::string>("hub", Need::kOptional, parse_name);
        out.physical_network = fields.read<std::string>("physical_network", required_if(is_provider(type)), parse_text);
        out.segmentation_id =
            fields.read<std::uint32_t>("segmentation_id", required_if(known && type != NetworkType::kFlat),
                                       number(1, type == NetworkType::kVlan ? kMaxVlan : kMaxVni));
        out.bridge = fields.read<std::string>("bridge", Need::kOptional, parse_device);
        out.mtu = fields.read<std::uint32_t>("mtu", Need::kOptional, number(kMinMtu, kMaxMtu));
        out.learning = fields.read<bool>("learning", Need::kOptional, parse_bool);
        out.subnets = read_list<SubnetEntry>(fields, "subnets", "subnet", Need::kOptional, mistakes_,
                                             [this](Fields& inner) { return read_subnet(inner); });
        return out;
    }

    SubnetEntry read_subnet(Fields& fields) {
        SubnetEntry out;
        out.name = fields.read<std::string>("name", Need::kRequired, parse_name);
        out.cidr = fields.read<Prefix>("cidr", Need::kRequired, parse_cidr);
        if (const YamlNode* const node = fields.find("gateway_ip", Need::kOptional)) {
            out.no_gateway = node->kind == YamlNode::Kind::kNull && node->explicit_null;
            out.gateway_ip = {true, node->place, std::nullopt};
            if (node->kind == YamlNode::Kind::kNull && !node->explicit_null) {
                mistakes_.add(node->place, fields.object() + ": gateway_ip has no value",
                              "write an address, or null for no gateway");
            } else if (!out.no_gateway) {
                out.gateway_ip =
                    Fields::read_scalar<Ipv4>(*node, fields.object(), "gateway_ip", parse_address, mistakes_);
            }
        }
        out.pools = read_list<SubnetEntry::Pool>(fields, "allocation_pools", fields.object() + ": allocation pool",
                                                 Need::kOptional, mistakes_, [](Fields& inner) {
                                                     SubnetEntry::Pool pool;
                                                     pool.start =
                                                         inner.read<Ipv4>("start", Need::kRequired, parse_address);
                                                     pool.end = inner.read<Ipv4>("end", Need::kRequired, parse_address);
                                                     return pool;
                                                 });
        return out;
    }

    RouterEntry read_router(Fields& fields) {
        RouterEntry out;
        out.name = fields.read<std::string>("name", Need::kRequired, parse_name);
        out.id = fields.read<std::string>("id", Need::kOptional, parse_uuid);
        out.type = fields.read<RouterType>("type", Need::kOptional, parse_router_type);
        out.distributed = fields.read<bool>("distributed", Need::kOptional, parse_bool);
        out.multi_host = fields.read<bool>("multi_host", Need::kOptional, parse_bool);
        out.node = fields.read<std::string>("node", Need::kOptional, parse_text);
        if (const YamlNode* const node = fields.find("external_gateway", Need::kOptional)) {
            out.gateway = read_gateway(*node, fields.object());
        }
        bool broken = false;
        const YamlNode* const interfaces = fields.find_list("interfaces", Need::kOptional, broken);
        if (broken) out.interfaces.emplace_back();
        if (interfaces != nullptr) {
            for (const YamlNode* const item : interfaces->items) {
                out.interfaces.push_back(read_interface(*item, fields.object()));
            }
        }
        out.routes = read_list<RouterEntry::Route>(
            fields, "routes", fields.object() + ": route", Need::kOptional, mistakes_, [](Fields& inner) {
                RouterEntry::Route route;
                route.destination = inner.read<Prefix>("destination", Need::kRequired, parse_destination);
                route.nexthop = inner.read<Ipv4>("nexthop", Need::kRequired, parse_address);
                return route;
            });
        return out;
    }

    /// `public`, or `{network: public, fixed_ip: 172.24.5.250, enable_snat: false}`.
    Field<RouterEntry::Gateway> read_gateway(const YamlNode& node, const std::string& object) {
        Field<RouterEntry::Gateway> out{true, node.place, RouterEntry::Gateway{node.place, {}, {}, {}}};
        if (node.kind != YamlNode::Kind::kMap) {
            out.value->network =
                Fields::read_scalar<std::string>(node, object, "external_gateway", parse_text, mistakes_);
            // Nobody can say then whether a fixed_ip is missing as well.
            if (!out.value->network) out.value.reset();
            return out;
        }
        Fields fields(node, object + ": external_gateway", mistakes_);
        out.value->network = fields.read<std::string>("network", Need::kRequired, parse_text);
        out.value->fixed_ip = fields.read<Ipv4>("fixed_ip", Need::kOptional, parse_address);
        out.value->enable_snat = fields.read<bool>("enable_snat", Need::kOptional, parse_bool);
        fields.finish();
        return out;
    }

    /// `private-subnet`, or `{subnet: private-subnet, fixed_ip: 10.1.0.2, mac: fa:16:3e:00:00:01}`.
    RouterEntry::Interface read_interface(const YamlNode& node, const std::string& object) {
        RouterEntry::Interface out;
        out.place = node.place;
        if (node.kind != YamlNode::Kind::kMap) {
            out.subnet = Fields::read_scalar<std::string>(node, object, "interface", parse_text, mistakes_);
            return out;
        }
        Fields fields(node, object + ": interface", mistakes_);
        out.subnet = fields.read<std::string>("subnet", Need::kRequired, parse_text);
        out.fixed_ip = fields.read<Ipv4>("fixed_ip", Need::kOptional, parse_address);
        out.mac = fields.read<Mac>("mac", Need::kOptional, parse_mac);
        fields.finish();
        return out;
    }

    static PortEntry read_port(Fields& fields) {
        PortEntry out;
        out.name = fields.read<std::string>("name", Need::kRequired, parse_name);
        out.id = fields.read<std::string>("id", Need::kOptional, parse_uuid);
        out.network = fields.read<std::string>("network", Need::kRequired, parse_text);
        out.node = fields.read<std::string>("node", Need::kOptional, parse_text);
        out.fixed_ip = fields.read<Ipv4>("fixed_ip", Need::kRequired, parse_address);
        out.mac = fields.read<Mac>("mac", Need::kOptional, parse_mac);
        out.device = fields.read<std::string>("device", Need::kOptional, parse_device);
        out.device_owner = fields.read<std::string>("device_owner", Need::kOptional, parse_text);
        out.router = fields.read<std::string>("router", Need::kOptional, parse_text);
        return out;
    }

    static FloatingIpEntry read_floating_ip(Fields& fields) {
        FloatingIpEntry out;
        out.address = fields.read<Ipv4>("floating_ip_address", Need::kRequired, parse_address);
        out.fixed_ip = fields.read<Ipv4>("fixed_ip_address", Need::kOptional, parse_address);
        out.port =
            fields.read<std::string>("port", out.fixed_ip.written ? Need::kOptional : Need::kRequired, parse_text);
        out.router = fields.read<std::string>("router", Need::kOptional, parse_text);
        return out;
    }

    MistakeList& mistakes_;
};

}  // namespace

Document read_document(const YamlNode& root, MistakeList& mistakes) {
    return DocumentReader(mistakes).read(root);
}

}  // namespace fiplane::topology
