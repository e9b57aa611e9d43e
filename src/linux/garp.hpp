// SPDX-License-Identifier: Apache-2.0
// Gratuitous ARP as Neutron's L3 agent sends it (neutron/agent/linux/ip_lib.py, send_ip_addr_adv_notif): a broadcast
// request (arping -U) and a reply (arping -A) with the address as sender and target.
#pragma once

#include "core/result.hpp"
#include "core/types.hpp"
#include "linux/netns.hpp"

namespace fiplane {

enum class GarpKind { kRequest, kReply };

/// Sends one frame out of `device`; the address need not be configured anywhere.
[[nodiscard]] Result<> send_gratuitous_arp(const Netns& netns, const std::string& device, const Mac& mac, Ipv4 address,
                                           GarpKind kind);

}  // namespace fiplane
