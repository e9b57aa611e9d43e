// SPDX-License-Identifier: Apache-2.0
// What Linux holds now, of what build may have made or may need: the node's own namespace and router namespaces.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "build/desired.hpp"
#include "core/netfilter.hpp"
#include "core/result.hpp"
#include "core/snapshot.hpp"
#include "linux/rtnl.hpp"

namespace fiplane::build {

struct ActualNetns {
    std::string mark;      ///< alias of lo: whose namespace it is
    bool ours = false;     ///< always true for the node's own; others are read further only if it is
    std::string evidence;  ///< for somebody else's: what points to its owner; may be empty
    std::map<std::string, Link> links;
    std::map<int, std::string> names;
    std::vector<Address> addresses;
    std::vector<Ipv6Address> ipv6_addresses;  ///< of the node's own namespace
    std::vector<Route> routes;
    std::vector<PolicyRule> rules;
    std::vector<Neighbour> neighbours;
    std::vector<FdbEntry> fdb;
    nf::Ruleset netfilter;
    std::map<std::string, std::string> sysctls;  ///< those that were asked for and exist
    bool has_ipv6 = true;

    [[nodiscard]] const Link* link(const std::string& name) const;
};

struct ActualNode {
    std::map<NetnsName, ActualNetns> netns;  ///< "" and every namespace that build could have made
};

/// Reads the calling thread's namespace and the router namespaces below /run/netns; sysctls are not read.
[[nodiscard]] Result<ActualNode> read_actual();
/// Devices and addresses of the calling thread's namespace only: enough for check_underlay().
[[nodiscard]] Result<ActualNode> read_underlay();
/// Reads the sysctls that `desired` names, of namespaces and devices that exist.
[[nodiscard]] Result<> read_sysctls_for(const DesiredNode& desired, ActualNode& actual);

/// Link-local pairs and priorities that Linux uses now, for when the files were lost.
[[nodiscard]] std::optional<Ipv4> live_pair(const ActualNode& actual, const Router& router);
/// By fixed IP.
[[nodiscard]] std::map<Ipv4, std::uint32_t> live_priorities(const ActualNode& actual, const Router& router);

}  // namespace fiplane::build
