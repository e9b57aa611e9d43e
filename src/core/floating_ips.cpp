// SPDX-License-Identifier: Apache-2.0
// fl_fip_in: from the segment where a floating IP is reached to the VM that has it.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <ranges>
#include <set>

#include "core/domains.hpp"
#include "core/world.hpp"

namespace fiplane {

namespace {

/// Namespaces that packets of the segments in scope can reach: behind a leg, and from there by veth.
std::set<const NetnsIndex*> reachable(const World& world) {
    std::set<const NetnsIndex*> seen;
    std::vector<const NetnsIndex*> todo;
    todo.reserve(world.legs.size());
    for (const BridgePort* leg : world.legs)
        todo.push_back(leg->router);
    while (!todo.empty()) {
        const NetnsIndex* netns = todo.back();
        todo.pop_back();
        if (!seen.insert(netns).second) continue;
        for (const auto& [ifindex, link] : netns->view().links) {
            if (!link.peer || !link.peer->netns) continue;
            const auto next = world.routers.find(*link.peer->netns);
            if (next != world.routers.end()) todo.push_back(&next->second);
        }
    }
    return seen;
}

/// Floating IPs: address, then the namespaces that translate it.
using Owners = std::map<Ipv4, std::vector<const NetnsIndex*>>;

Owners find_owners(const World& world) {
    const std::set<const NetnsIndex*> seen = reachable(world);
    Owners owners;
    const auto add = [&](const NetnsIndex& netns) {
        if (!seen.contains(&netns)) return;
        for (const auto& [fip, fixed] : netns.netfilter().dnats())
            owners[fip].push_back(&netns);
    };
    add(world.root);
    for (const auto& [name, netns] : world.routers)
        add(netns);
    return owners;
}

/// Translation must be the same in both directions: the fast path keeps no state by which an answer would find back.
std::string pairing_refusal(const Journey& journey, Ipv4 fip) {
    if (!journey.dnat) return "no router translates it";
    if (journey.snat) return "the source is translated on the way in";
    const auto& snats = journey.translator->netfilter().snats();
    const auto back = snats.find(*journey.dnat);
    if (back != snats.end() && back->second == fip) return {};
    return fmt::format("{}: answers of {} are not translated back to {} alone", journey.translator->label(),
                       journey.dnat->str(), fip.str());
}

/// Packets from the namespace's own addresses are forged, and end in Linux. One with a floating IP has rows of its own,
/// which come first.
bool is_nobody_else(const SourceClaim& claim, const Prefix& sources) {
    return claim.kind == SourceClaim::Kind::kNotOwn ||
           (sources.length == 32 && claim.netns->netfilter().snats().contains(sources.address));
}

bool has_address(const BridgePort& leg, Ipv4 address) {
    return std::ranges::any_of(leg.router->view().addresses, [&](const Address& own) {
        return own.ifindex == leg.leg->ifindex && own.address.address == address;
    });
}

/// Walks of all floating IPs from all legs that lead to them.
class FloatingIps {
  public:
    explicit FloatingIps(World& world) : world_(world), owners_(find_owners(world)) {
        for (const auto& [fip, netnses] : owners_) {
            for (const NetnsIndex* netns : netnses) {
                FipReport& report = reports_[{netns->name(), fip}];
                report.fip = fip;
                report.fixed = netns->netfilter().dnats().at(fip);
                report.router = netns->name();
            }
        }
    }

    void run() {
        for (const BridgePort* leg : world_.legs) {
            const Routing& routing = leg->router->routing();
            for (const Ipv4 address : routing.host_routes())
                try_from(*leg, address);
            for (const Ipv4 address : routing.local_addresses()) {
                const bool twice = std::ranges::binary_search(routing.host_routes(), address);
                if (!twice) try_from(*leg, address);
            }
        }
        note_excepted();
        for (auto& [key, report] : reports_) {
            if (report.segment.empty()) report.reason_in = "no router port on a segment in scope has a route to it";
            world_.out.fips.push_back(std::move(report));
        }
    }

  private:
    void try_from(const BridgePort& leg, Ipv4 address);
    [[nodiscard]] Journey walk_in(const BridgePort& leg, Ipv4 address);
    [[nodiscard]] bool except_sources(const BridgePort& leg, const Journey& journey);
    void note_excepted() const;
    [[nodiscard]] bool add_translator(const BridgePort& leg, const NetnsIndex& translator, fl_fip_in& row,
                                      std::string& reason) const;
    [[nodiscard]] bool add_row(const BridgePort& leg, Ipv4 fip, const Journey& journey, FipReport& report,
                               std::string& reason);

    World& world_;
    Owners owners_;
    std::map<std::pair<NetnsName, Ipv4>, FipReport> reports_;
    std::map<fl_fip_key, FipReport*, ByteLess<fl_fip_key>> reports_of_rows_;
    std::map<const FipReport*, int> ranks_;  ///< of the leg that a report is about
    /// Sources that are treated apart: by the leg where their packets come in, and why.
    std::map<std::pair<std::string, std::string>, std::set<Prefix>> excepted_;
};

/// From anybody. Where that depends on who it is, and the router is one that is followed, from anybody but those who
/// are treated apart.
Journey FloatingIps::walk_in(const BridgePort& leg, Ipv4 address) {
    Journey journey = world_.walker.walk(leg, {}, Prefix::host(address), true);
    if (journey.fast || !leg.segment->is_foreign()) return journey;
    Journey most = world_.walker.walk(leg, {Source::Kind::kGeneric}, Prefix::host(address), true);
    if (!most.fast || !except_sources(leg, most)) return journey;
    most.next.flags |= FL_NEXT_EXCEPT;
    return most;
}

/// Writes the rows of those who do not satisfy the journey's claims. False: they are too many, or all.
bool FloatingIps::except_sources(const BridgePort& leg, const Journey& journey) {
    constexpr std::size_t kMostExceptions = 256;
    constexpr Prefix kAnybody{{0}, 0};
    std::map<Prefix, const SourceClaim*> found;
    for (const SourceClaim& claim : journey.claims) {
        for (const Prefix& part : exceptions(claim, kAnybody)) {
            if (part.contains(kAnybody) || found.size() == kMostExceptions) return false;
            found.try_emplace(part, &claim);
        }
    }
    Table<fl_sender_key, fl_sender>& rows = world_.out.tables.senders;
    if (rows.size() + found.size() > FL_MAX_SENDERS) return false;
    for (const auto& [sources, claim] : found) {
        rows.try_emplace(sender_key(leg, sources));
        if (is_nobody_else(*claim, sources)) continue;
        excepted_[{leg.leg->name, describe(*claim)}].insert(sources);
    }
    return true;
}

void FloatingIps::note_excepted() const {
    constexpr std::size_t kMostNamed = 8;
    for (const auto& [what, sources] : excepted_) {
        std::vector<std::string> names;
        for (const Prefix& prefix : sources | std::views::take(kMostNamed))
            names.push_back(prefix.length == 32 ? prefix.address.str() : prefix.str());
        if (sources.size() > kMostNamed) names.push_back(fmt::format("{} more", sources.size() - kMostNamed));
        world_.note(fmt::format("packets from {} to floating IPs by way of {} stay slow: {}", fmt::join(names, ", "),
                                what.first, what.second));
    }
}

void FloatingIps::try_from(const BridgePort& leg, Ipv4 address) {
    const auto owners = owners_.find(address);
    if (owners == owners_.end()) return;
    Journey journey = walk_in(leg, address);
    std::string reason = journey.reason;
    if (journey.fast) reason = pairing_refusal(journey, address);
    const bool translated = std::ranges::find(owners->second, journey.translator) != owners->second.end();
    const NetnsIndex& owner = translated ? *journey.translator : *owners->second.front();
    FipReport& report = reports_.at({owner.name(), address});
    const bool unproven = reason.empty() && !add_row(leg, address, journey, report, reason);
    // The report is about the leg that answers for the address; what the router's other legs would do with it is of
    // interest only while there is no such leg.
    const bool answers = world_.out.tables.arp.contains(arp_key(*leg.segment, address)) || has_address(leg, address);
    const int rank = 1 + (answers ? 2 : 0) + (reason.empty() ? 1 : 0);
    if (rank <= ranks_[&report] && !unproven) return;
    ranks_[&report] = rank;
    report.segment = leg.segment->bridge->name;
    report.steps_in = journey.steps;
    report.reason_in = reason;
    report.fast_in = reason.empty();
    report.port = journey.next.out.kind == FL_OUT_PORT ? journey.port : std::string{};
}

/// Where the programs find the conntrack that knows the floating IP's flows. False, with the reason, if nowhere.
bool FloatingIps::add_translator(const BridgePort& leg, const NetnsIndex& translator, fl_fip_in& row,
                                 std::string& reason) const {
    row.netnsid = -1;
    if (&translator == leg.router) return true;
    const auto& ids = leg.router->view().netnsids;
    const auto found = ids.find(translator.name());
    if (found == ids.end()) {
        reason = fmt::format("{} has no id for {}", leg.router->label(), translator.name());
        return false;
    }
    row.netnsid = found->second;
    return true;
}

/// False, with the reason, if another router leads to the same address on the segment: which of them a sender asks is
/// up to ARP, and the key has room for one.
bool FloatingIps::add_row(const BridgePort& leg, Ipv4 fip, const Journey& journey, FipReport& report,
                          std::string& reason) {
    const fl_fip_key key = fip_key(*leg.segment, fip);
    const auto [owner, fresh] = reports_of_rows_.try_emplace(key, &report);
    if (!fresh) {
        reason = "two routers lead to it on " + leg.segment->bridge->name;
        owner->second->fast_in = false;
        owner->second->reason_in = reason;
        world_.out.tables.fip_in.erase(key);
        return false;
    }
    fl_fip_in row{};
    copy_bytes(row.router_mac, leg.leg->mac);
    row.next = journey.next;
    if (leg.segment->is_foreign() && !add_translator(leg, *journey.translator, row, reason)) return true;
    if (!world_.add_crossings(journey.crossing_rows)) {
        reason = "fl_crossings has no room for its way";
        return true;
    }
    world_.out.tables.fip_in.emplace(key, row);
    world_.keep_alive(journey.neighbours, nullptr);
    return true;
}

}  // namespace

void compile_floating_ips(World& world) {
    FloatingIps(world).run();
}

}  // namespace fiplane
