// SPDX-License-Identifier: Apache-2.0
// Segments of others, as far as they are seen: a port of a router that is followed, and whatever is behind it.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "core/hash.hpp"
#include "core/l2.hpp"

namespace fiplane {

namespace {

/// Indices of devices in the node's own namespace are below it, those of other namespaces would repeat them.
constexpr std::uint32_t kFirstNumber = 0x80000000;

/// By names, which outlive the agent: a port that is made again has the same number.
std::uint32_t number_of(const NetnsIndex& router, const Link& link) {
    return kFirstNumber | hash_of(router.name() + "/" + link.name);
}

}  // namespace

bool is_router_port(const std::string& device) {
    // Internal, external, agent gateway and SNAT ports (neutron/agent/l3, INTERNAL_DEV_PREFIX and the like).
    static constexpr std::array<std::string_view, 4> kPrefixes{"qr-", "qg-", "fg-", "sg-"};
    return std::ranges::any_of(kPrefixes, [&](std::string_view prefix) { return device.starts_with(prefix); });
}

void L2::add_foreign(const NetnsIndex& router, const Link& link) {
    const std::uint32_t number = number_of(router, link);
    const auto [place, fresh] = foreign_.try_emplace(number);
    if (!fresh) {
        // Which of two ports is the first one does not change with others that come and go.
        notes_.push_back(fmt::format("{} in {} stays slow: {} has its number", link.name, router.name(),
                                     place->second.bridge->name));
        return;
    }
    Segment& segment = place->second;
    segment.bridge = &link;
    segment.number = number;
    BridgePort& port = segment.ports[link.ifindex];
    port.link = port.leg = &link;
    port.kind = BridgePort::Kind::kLeg;
    port.segment = &segment;
    port.router = &router;
    port.refusal = router.jump_refusal(link);
    if (!port.refusal.empty()) notes_.push_back(router.name() + ": " + port.refusal);
    MacTarget target;
    target.kind = MacTarget::Kind::kPort;
    target.port = &port;
    target.out.kind = FL_OUT_PORT;
    target.out.ifindex = static_cast<std::uint32_t>(link.ifindex);
    target.out.port = number;
    target.out.mtu = link.mtu;
    segment.anybody = target;
    foreign_of_port_[{&router, link.ifindex}] = &segment;
}

const Segment* L2::behind(const NetnsIndex& router, int ifindex) const {
    const auto found = foreign_of_port_.find({&router, ifindex});
    return found == foreign_of_port_.end() ? nullptr : found->second;
}

}  // namespace fiplane
