// SPDX-License-Identifier: Apache-2.0
// The working state of diff(); private to diff*.cpp.
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>

#include "build/diff.hpp"

namespace fiplane::build {

class NodeDiff {
  public:
    NodeDiff(const DesiredNode& desired, const ActualNode& actual) : desired_(desired), actual_(actual) {}
    [[nodiscard]] Result<Draft> run();

  private:
    using DeviceKey = std::pair<NetnsName, std::string>;

    [[nodiscard]] Result<> check_owners() const;
    [[nodiscard]] Result<> check_physical(const std::string& name, const DesiredDevice& device, const Link& link) const;
    [[nodiscard]] Result<> check_vlan(const std::string& name, const VlanKind& vlan) const;
    [[nodiscard]] Result<> check_mark(const std::string& mark, const std::string& where) const;
    [[nodiscard]] const ActualNetns& now(const NetnsName& netns) const;

    void netns_differences();
    void remove_stale_links();
    void remove_stale_ports();
    void remove_stale_uplinks();

    void device_differences();
    [[nodiscard]] bool plug_possible(const std::string& name, const DesiredDevice& device, const Link& link);
    [[nodiscard]] bool keeps(const NetnsName& netns, const std::string& name, const DesiredDevice& device,
                             const Link& link) const;
    [[nodiscard]] bool is_pair(const Link& first, const NetnsName& peer_netns, const std::string& peer) const;
    void create_device(const NetnsName& netns, const std::string& name, const DesiredDevice& device);
    void configure_new(const NetnsName& netns, const std::string& name, const DesiredDevice& device);
    void configure_kept(const NetnsName& netns, const std::string& name, const DesiredDevice& device, const Link& link);
    /// The device as it is, if it stays; null if it is absent, new or made again.
    [[nodiscard]] const Link* live(const NetnsName& netns, const std::string& name) const;
    [[nodiscard]] bool is_unplugged(const NetnsName& netns, const std::string& name) const;

    void sysctl_differences(const NetnsName& name, const DesiredNetns& wanted);
    void address_differences(const NetnsName& name, const DesiredNetns& wanted);
    [[nodiscard]] bool may_remove_address(const NetnsName& name, const std::string& device,
                                          const Prefix& address) const;
    [[nodiscard]] bool owns_neighbours(const NetnsName& netns, const Link& link) const;
    void neighbour_differences(const NetnsName& name, const DesiredNetns& wanted);
    void route_differences(const NetnsName& name, const DesiredNetns& wanted);
    void set_route(const NetnsName& name, const DesiredRoute& route, const Route* before);
    void rule_differences(const NetnsName& name, const DesiredNetns& wanted);
    void fdb_differences();
    void tunnel_entries(const std::string& device, const Link& link, std::map<Mac, std::set<IpAddress>> wanted);
    void set_fdb(const DesiredFdb& entry, Step::Action action);
    void remove_fdb(const DesiredFdb& entry);
    void nft_differences(const NetnsName& name, const DesiredNetns& wanted);
    void end_connections(const NetnsName& name, const DesiredNetns& wanted);

    const DesiredNode& desired_;
    const ActualNode& actual_;
    Draft draft_;
    std::map<DeviceKey, const Link*> live_;
    std::set<std::string> unplugged_;  ///< VM ports that are not there or not ours to plug in
    /// Devices whose routes and neighbours go with an address or MAC that changes: those are set again.
    std::set<DeviceKey> loses_routes_;
    std::set<DeviceKey> loses_neighbours_;
};

}  // namespace fiplane::build
