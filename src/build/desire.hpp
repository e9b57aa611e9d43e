// SPDX-License-Identifier: Apache-2.0
// The derivation of a DesiredNode; private to desired.cpp and desired_provider.cpp (the node's own namespace),
// desired_router.cpp and desired_snat.cpp.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "build/desired.hpp"

namespace fiplane::build {

inline constexpr std::uint32_t kMainTable = 254;

class Desire {
  public:
    Desire(const Topology& topology, std::size_t node, const Allocations& allocations);
    [[nodiscard]] Result<DesiredNode> run();

  private:
    struct RouterSite {
        const Router& router;
        std::size_t index;
        NetnsName netns;
    };

    void index_topology();
    DesiredNetns& root() { return out_.netns[""]; }
    [[nodiscard]] Result<> add_device(const NetnsName& netns, const std::string& name, DesiredDevice device);
    void set_sysctl(const NetnsName& netns, const std::string& key, const std::string& value, bool conntrack = false);
    /// `path` has "{}" for the device.
    void set_device_sysctl(const NetnsName& netns, const std::string& device, std::string_view path,
                           const std::string& value);
    void silence_ipv6(const NetnsName& netns, const std::string& device);

    [[nodiscard]] Result<> network_on_node(std::size_t index);
    [[nodiscard]] Result<> uplink(std::size_t index);
    [[nodiscard]] Result<> below_macvtaps(std::size_t index);
    [[nodiscard]] Result<std::string> provider_device(std::size_t index) const;
    DesiredDevice& physical_device(const Network& network);
    [[nodiscard]] DesiredDevice vlan_device(const Network& network) const;
    void ports_beyond_uplink(std::size_t index, const std::string& device);
    /// A tunnel device of this node, and the nodes behind it: its peers, and in a star those that the hub relays to.
    struct Tunnel {
        TunnelEnd end;
        std::vector<std::size_t> behind;
    };
    [[nodiscard]] std::vector<Tunnel> tunnels_of(std::size_t network) const;
    [[nodiscard]] Result<> tunnel_on_node(std::size_t network, const Tunnel& tunnel);
    [[nodiscard]] static bool keeps_arp_local(const Network& network);
    [[nodiscard]] DesiredDevice tunnel_device(const Network& network, const Tunnel& tunnel) const;
    void remote_mac(const Network& network, const Tunnel& tunnel, std::size_t node, const Mac& mac);
    void remote_port(const Network& network, const Tunnel& tunnel, const Port& port);
    [[nodiscard]] std::optional<std::size_t> node_of(const Port& port) const;
    [[nodiscard]] Result<> vm_ports();
    void root_tables();
    [[nodiscard]] Result<> fips_without_router() const;

    void open_netns(const NetnsName& netns);
    void add_table(const NetnsName& netns, NftTable table);
    void lower_mss();
    void lower_mss(const NetnsName& netns, const std::vector<std::string>& devices);
    void configure_device(const NetnsName& netns, const std::string& device);
    [[nodiscard]] Result<> add_leg(const NetnsName& netns, const Port& port);
    [[nodiscard]] Result<> router_on_node(std::size_t index);
    void internal_leg(const RouterSite& site, const Port& leg);
    [[nodiscard]] Result<> distributed_gateway(const RouterSite& site, std::size_t network);
    [[nodiscard]] Result<> fip_namespace(std::size_t network, const Port& gateway);
    [[nodiscard]] Result<> pair(const RouterSite& site, std::size_t network, Ipv4 rfp_ip, Ipv4 fpr_ip);
    [[nodiscard]] Result<> distributed_fips(const RouterSite& site, const Port& gateway, Ipv4 rfp_ip);
    [[nodiscard]] Result<> legacy_gateway(const RouterSite& site);
    [[nodiscard]] Result<> central_snat(std::size_t router);
    void know_vms(const NetnsName& netns, const Port& leg);
    void nova_network(const RouterSite& site);
    [[nodiscard]] const Node::BridgeAddress* own_address(std::size_t network) const;
    void external_routes(const NetnsName& netns, const Port& gateway, std::uint32_t default_table);
    void extra_routes(const RouterSite& site, const Port* external, const NetnsName& external_netns,
                      std::uint32_t external_table);
    void routes_by(const Router& router, const NetnsName& netns, const Port& leg, std::uint32_t table);
    [[nodiscard]] std::map<Ipv4, Ipv4> fixed_by_fip(std::size_t router) const;

    const Topology& topology_;
    std::size_t node_index_;
    const Node& node_;
    const Allocations& allocations_;
    Placement placement_;
    DesiredNode out_;
    std::vector<GuardedPort> guarded_;
    std::vector<GuardedUplink> guarded_uplinks_;
    std::set<std::string> arp_ends_;  ///< tunnel devices that no ARP may leave by

    std::map<std::size_t, std::set<std::size_t>> peers_;  ///< other nodes that have a network
    std::map<std::size_t, std::vector<std::size_t>> ports_of_network_;
    std::map<std::size_t, std::vector<std::size_t>> vms_of_subnet_;
    std::map<std::size_t, std::vector<std::size_t>> fips_of_router_;         ///< those that live on this node
    std::map<std::pair<std::size_t, std::size_t>, std::size_t> snat_ports_;  ///< by router and subnet
    std::map<std::size_t, std::size_t> agent_gateways_;                      ///< this node's, by external network
};

}  // namespace fiplane::build
