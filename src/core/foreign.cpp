// SPDX-License-Identifier: Apache-2.0
// Segments of others, as far as they are seen: a port of a router that is followed, and whatever is behind it.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>
#include <string_view>

#include "core/hash.hpp"
#include "core/l2.hpp"

namespace fiplane {

bool is_router_port(const std::string& device) {
    // Internal, external, agent gateway and SNAT ports (neutron/agent/l3, INTERNAL_DEV_PREFIX and the like).
    static constexpr std::array<std::string_view, 4> kPrefixes{"qr-", "qg-", "fg-", "sg-"};
    return std::ranges::any_of(kPrefixes, [&](std::string_view prefix) { return device.starts_with(prefix); });
}

std::uint32_t foreign_number(const std::string& name) {
    return FL_FIRST_NUMBER | hash_of(name);
}

/// A port that is made again has the number that it had.
void L2::follow(const std::map<NetnsName, NetnsIndex>& routers) {
    std::set<std::uint32_t> taken;
    const auto number = [&](const NetnsIndex& router, int ifindex, const std::string& name) {
        const std::uint32_t wanted = foreign_number(name);
        const bool fresh = taken.insert(wanted).second;
        if (!fresh) notes_.push_back(name + " stays slow: its number is another one's");
        numbers_[{&router, ifindex}] = fresh ? wanted : 0;
    };
    for (const auto& [name, router] : routers) {
        number(router, 0, name);
        for (const auto& [ifindex, link] : router.view().links) {
            const bool to_router = link.peer && link.peer->netns && routers.contains(*link.peer->netns);
            const bool is_port = !to_router && is_router_port(link.name);
            if (!to_router && !is_port) continue;
            number(router, ifindex, name + "/" + link.name);
            if (is_port && number_of(router, link) != 0 && number_of(router) != 0) add_foreign(router, link);
        }
    }
}

std::uint32_t L2::number_of(const NetnsIndex& router, const Link& link) const {
    const auto found = numbers_.find({&router, link.ifindex});
    return found == numbers_.end() ? 0 : found->second;
}

std::vector<L2::Numbered> L2::numbered() const {
    std::vector<Numbered> out;
    for (const auto& [place, number] : numbers_) {
        if (place.second != 0 && number != 0) out.push_back({place.first, place.first->link(place.second), number});
    }
    return out;
}

std::uint32_t L2::number_of(const NetnsIndex& router) const {
    const auto found = numbers_.find({&router, 0});
    return found == numbers_.end() ? 0 : found->second;
}

void L2::add_foreign(const NetnsIndex& router, const Link& link) {
    const std::uint32_t number = number_of(router, link);
    Segment& segment = foreign_[number];
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
