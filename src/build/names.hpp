// SPDX-License-Identifier: Apache-2.0
// Names and marks of the objects that build makes, as Neutron makes them (l3/namespaces.py, l3/dvr_fip_ns.py,
// linuxbridge_neutron_agent.py): a device name is prefix + id cut to 14 characters.
#pragma once

#include <string>
#include <string_view>

#include "core/model.hpp"
#include "core/snapshot.hpp"

namespace fiplane::build {

inline constexpr std::string_view kMarkPrefix = "fiplane:";
inline constexpr std::string_view kTableName = "fiplane";

/// The alias that says "made by fiplane for this topology".
[[nodiscard]] std::string mark_of(const std::string& topology_name);
[[nodiscard]] bool is_marked(std::string_view alias);

[[nodiscard]] NetnsName router_netns(const Router& router);
[[nodiscard]] NetnsName fip_netns(const Network& network);
[[nodiscard]] NetnsName snat_netns(const Router& router);
/// Namespaces that build could have made, by their name alone.
[[nodiscard]] bool is_router_like(std::string_view netns);

/// veth end in the router's namespace, and its peer in the fip namespace.
[[nodiscard]] std::string rfp_device(const Router& router);
[[nodiscard]] std::string fpr_device(const Router& router);
/// Root end of a router leg (qr-, qg-, fg-, sg-): "tap" + 11 characters of the port's id.
[[nodiscard]] std::string leg_device(const Port& port);
/// Router devices that only build puts into a namespace: stale ones are removed.
[[nodiscard]] bool is_router_device(std::string_view device);

/// A locally administered address that depends on `seed` alone, so that building again gives the same one.
[[nodiscard]] Mac derived_mac(std::string_view seed);

}  // namespace fiplane::build
