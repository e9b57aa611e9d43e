// SPDX-License-Identifier: Apache-2.0
// The topology file as written: shape and values checked, references still names.
//
// An entry that could not be read at all stands as an empty one, so that positions agree with the file and references
// to it are not called unknown.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/model.hpp"
#include "core/types.hpp"
#include "topology/mistakes.hpp"
#include "topology/yaml_tree.hpp"

namespace fiplane::topology {

struct NodeEntry {
    struct Address {
        Field<std::string> network;
        Field<Prefix> address;
    };
    struct PhysicalNetwork {
        Field<std::string> name;
        Field<std::string> device;
    };
    Place place;
    Field<std::string> name;
    Field<std::string> underlay_device;
    Field<IpAddress> underlay_address;
    std::vector<Address> addresses;
    std::vector<PhysicalNetwork> physical_networks;
    Field<VifType> vif_type;
};

struct SubnetEntry {
    struct Pool {
        Place place;
        Field<Ipv4> start;
        Field<Ipv4> end;
    };
    Place place;
    Field<std::string> name;
    Field<Prefix> cidr;
    Field<Ipv4> gateway_ip;   ///< not written: the first address of the subnet
    bool no_gateway = false;  ///< `gateway_ip: null`
    std::vector<Pool> pools;
};

struct NetworkEntry {
    Place place;
    Field<std::string> name;
    Field<std::string> id;
    Field<bool> external;
    Field<NetworkType> network_type;
    Field<Shape> shape;
    Field<std::string> hub;
    Field<std::string> physical_network;
    Field<std::uint32_t> segmentation_id;
    Field<std::string> bridge;
    Field<std::uint32_t> mtu;
    Field<bool> learning;
    std::vector<SubnetEntry> subnets;
};

struct RouterEntry {
    struct Gateway {
        Place place;
        Field<std::string> network;
        Field<Ipv4> fixed_ip;
        Field<bool> enable_snat;
    };
    struct Interface {
        Place place;
        Field<std::string> subnet;
        Field<Ipv4> fixed_ip;
        Field<Mac> mac;
    };
    struct Route {
        Place place;
        Field<Prefix> destination;
        Field<Ipv4> nexthop;
    };
    Place place;
    Field<std::string> name;
    Field<std::string> id;
    Field<RouterType> type;
    Field<bool> distributed;
    Field<bool> multi_host;
    Field<std::string> node;
    Field<Gateway> gateway;
    std::vector<Interface> interfaces;
    std::vector<Route> routes;
};

struct PortEntry {
    Place place;
    Field<std::string> name;
    Field<std::string> id;
    Field<std::string> network;
    Field<std::string> node;
    Field<Ipv4> fixed_ip;
    Field<Mac> mac;
    Field<std::string> device;
    Field<std::string> device_owner;
    Field<std::string> router;
};

struct FloatingIpEntry {
    Place place;
    Field<Ipv4> address;
    Field<std::string> port;
    Field<Ipv4> fixed_ip;  ///< in place of `port`
    Field<std::string> router;
};

struct PhysicalMtuEntry {
    Field<std::string> physical_network;
    Field<std::uint32_t> mtu;
};

struct Document {
    Field<std::string> name;
    Field<NetworkType> transport_type;
    Field<std::uint32_t> transport_port;
    Field<std::uint32_t> underlay_mtu;
    Field<bool> mss_clamp;
    std::vector<PhysicalMtuEntry> physical_network_mtus;
    std::vector<NodeEntry> nodes;
    std::vector<NetworkEntry> networks;
    std::vector<RouterEntry> routers;
    std::vector<PortEntry> ports;
    std::vector<FloatingIpEntry> floating_ips;
};

/// Reads all of it, whatever is wrong on the way.
[[nodiscard]] Document read_document(const YamlNode& root, MistakeList& mistakes);

}  // namespace fiplane::topology
