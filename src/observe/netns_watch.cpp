// SPDX-License-Identifier: Apache-2.0
#include "observe/netns_watch.hpp"

#include <fmt/format.h>
#include <linux/neighbour.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <utility>

#include "linux/ipsec.hpp"
#include "linux/nft.hpp"
#include "linux/sysctl.hpp"

namespace fiplane {
namespace {

constexpr std::uint16_t kConfiguredStates = NUD_PERMANENT | NUD_NOARP;

/// Replaces `current` and says whether that changed it.
template <typename T>
bool replace(T& current, T&& fresh) {
    if (current == fresh) return false;
    current = std::forward<T>(fresh);
    return true;
}

/// Multicast comes and goes with the kernel's own memberships (IGMP, IPv6 addresses), in states that look configured.
bool is_multicast(const Neighbour& neighbour) {
    return neighbour.address.value >> 28 == 0xe;
}
bool is_multicast(const FdbEntry& entry) {
    return entry.mac.is_multicast();
}

/// Entries that somebody configured, as opposed to learned ones.
template <typename T>
std::vector<T> configured(const std::vector<T>& entries) {
    std::vector<T> kept;
    std::ranges::copy_if(entries, std::back_inserter(kept),
                         [](const T& entry) { return (entry.state & kConfiguredStates) != 0 && !is_multicast(entry); });
    return kept;
}

/// A link without what changes by itself (carrier, with which the qdisc comes) or as programs come and go.
Link configured_link(Link link) {
    link.running = false;
    link.qdisc.clear();
    link.xdp_prog_id = 0;
    link.foreign_programs.clear();
    if (link.bridge_port) link.bridge_port->state = 0;
    return link;
}

bool same_configuration(const std::map<int, Link>& before, const std::map<int, Link>& now) {
    return std::ranges::equal(before, now, [](const auto& a, const auto& b) {
        return a.first == b.first && configured_link(a.second) == configured_link(b.second);
    });
}

/// Asking costs several system calls for each device: what is known of one that looks as it did is kept.
void fill_foreign_programs(std::map<int, Link>& links, const std::map<int, Link>& before,
                           const ForeignPrograms& foreign_programs) {
    for (auto& [ifindex, link] : links) {
        const auto old = before.find(ifindex);
        if (old != before.end()) {
            link.foreign_programs = old->second.foreign_programs;
            if (link == old->second) continue;
        }
        link.foreign_programs = foreign_programs(link);
    }
}

std::set<Ipv6Peer> ipv6_peers(const NetnsView& view) {
    std::set<Ipv6Peer> peers;
    for (const FdbEntry& entry : view.fdb) {
        const Link* link = entry.destination ? view.link(entry.ifindex) : nullptr;
        if (link == nullptr || !link->vxlan || !link->vxlan->local.is_ipv6() || !entry.destination->is_ipv6()) continue;
        peers.emplace(link->vxlan->local, *entry.destination, link->vxlan->underlay_ifindex);
    }
    return peers;
}

/// IPv6 has an MTU of its own on each device, which a router's advertisement may lower.
std::uint32_t ipv6_mtu(const Netns& netns, const Link& device) {
    std::uint32_t own = 0;
    if (const auto text = read_sysctl(netns, fmt::format("ipv6/conf/{}/mtu", device.name))) {
        std::from_chars(text->data(), text->data() + text->size(), own);
    }
    return own == 0 ? device.mtu : std::min(device.mtu, own);
}

/// Keeps the first failure.
void note(Result<>& outcome, Result<> step) {
    if (outcome && !step) outcome = std::move(step);
}

/// Runs one part's dump: the mark goes before it, because a notification that comes meanwhile must set it again.
template <typename F>
void run_part(bool& dirty, Result<>& outcome, F&& dump) {
    if (!dirty) return;
    dirty = false;
    Result<> done = dump();
    if (!done) dirty = true;
    note(outcome, std::move(done));
}

/// A part that is one dump, all of which is configuration.
template <typename T>
Result<> refresh_list(T& current, Result<T> fresh, Changes& changes) {
    if (!fresh) return pass_on(fresh);
    if (replace(current, std::move(*fresh))) changes.any = changes.configuration = true;
    return {};
}

}  // namespace

Result<NetnsWatch> NetnsWatch::open(Netns netns, const Parts& watched) {
    auto events = NetnsEvents::open(netns);
    if (!events) return pass_on(events);
    auto rtnl = Rtnl::open(netns);
    if (!rtnl) return pass_on(rtnl);
    return NetnsWatch(std::move(netns), std::move(*rtnl), std::move(*events), watched);
}

std::vector<int> NetnsWatch::fds() const {
    std::vector<int> out{events_.rtnl_fd(), events_.netfilter_fd()};
    if (events_.ipsec_fd() >= 0) out.push_back(events_.ipsec_fd());
    return out;
}

EventBatch NetnsWatch::receive() {
    EventBatch seen = events_.receive();
    seen.ipv6 = seen.ipv6 && has_ipv6_ways_;
    if (seen.overrun) mark_everything();
    dirty_.links |= seen.links;
    dirty_.addresses |= seen.addresses;
    // IPv4 routes that go because their device or their preferred source went are removed without notification
    // (net/ipv4/fib_frontend.c, fib_disable_ip and fib_sync_down_addr).
    dirty_.routes |= seen.routes || seen.links || seen.addresses;
    dirty_.rules |= seen.rules;
    dirty_.neighbours |= seen.neighbours;
    dirty_.netfilter |= seen.netfilter;
    dirty_.ipsec |= seen.ipsec;
    dirty_.links |= seen.programs;
    ask_for_programs_ |= seen.programs;
    // A router's program may be what somebody took off: the view does not have ours, and looks as before.
    programs_changed_ |= seen.programs && !netns_.name().empty();
    // Links and neighbours, since they tell the tunnels and their peers.
    dirty_.ipv6_ways |= seen.ipv6 || seen.links || seen.neighbours;
    dirty_ = dirty_.within(watched_);
    return seen;
}

Result<> NetnsWatch::refresh(NetnsView& view, const std::vector<const Netns*>& others,
                             const ForeignPrograms& foreign_programs, Changes& changes) {
    const bool checking = std::exchange(checking_, false);
    if (std::exchange(is_whole_, false)) {
        if (!checking) changes.any = changes.configuration = true;
        ask_for_programs_ = true;
    }
    if (std::exchange(programs_changed_, false)) changes.any = true;
    Result<> outcome;
    run_part(dirty_.links, outcome, [&] { return refresh_links(view, others, foreign_programs, changes); });
    run_part(dirty_.addresses, outcome, [&] { return refresh_list(view.addresses, rtnl_.addresses(), changes); });
    run_part(dirty_.routes, outcome, [&] { return refresh_list(view.routes, rtnl_.routes(), changes); });
    run_part(dirty_.rules, outcome, [&] { return refresh_list(view.rules, rtnl_.rules(), changes); });
    run_part(dirty_.neighbours, outcome, [&] { return refresh_neighbours(view, changes); });
    run_part(dirty_.netfilter, outcome, [&] { return refresh_netfilter(view, checking, changes); });
    run_part(dirty_.ipsec, outcome,
             [&] { return refresh_list(view.ipsec_policies, list_ipsec_policies(netns_), changes); });
    if (netns_.name().empty()) {
        run_part(dirty_.ipv6_ways, outcome, [&] { return refresh_ipv6_ways(view, changes); });
    } else {
        dirty_.ipv6_ways = false;
    }
    return outcome;
}

Result<> NetnsWatch::refresh_links(NetnsView& view, const std::vector<const Netns*>& others,
                                   const ForeignPrograms& foreign_programs, Changes& changes) {
    auto links = dump_links(others);
    if (!links) return pass_on(links);
    auto sysctls = dump_sysctls(*links);
    if (!sysctls) {
        // A device that went after the dump takes its sysctls along; the dump without it tells whether that was all.
        links = dump_links(others);
        if (!links) return pass_on(links);
        sysctls = dump_sysctls(*links);
        if (!sysctls) return pass_on(sysctls);
    }
    if (foreign_programs) {
        auto inside = NetnsGuard::enter(netns_);
        if (!inside) return pass_on(inside);
        fill_foreign_programs(*links, ask_for_programs_ ? std::map<int, Link>{} : view.links, foreign_programs);
        ask_for_programs_ = false;
    }
    std::map<NetnsName, int> ids;
    for (const auto& [id, name] : nsid_names_)
        ids[name] = id;
    if (replace(view.netnsids, std::move(ids))) changes.any = true;
    if (!same_configuration(view.links, *links)) changes.configuration = true;
    if (replace(view.links, std::move(*links))) changes.any = true;
    if (replace(view.sysctls, std::move(*sysctls))) changes.any = changes.configuration = true;
    return {};
}

Result<> NetnsWatch::refresh_neighbours(NetnsView& view, Changes& changes) {
    auto neighbours = rtnl_.neighbours();
    if (!neighbours) return pass_on(neighbours);
    auto fdb = rtnl_.fdb();
    if (!fdb) return pass_on(fdb);
    if (configured(view.neighbours) != configured(*neighbours) || configured(view.fdb) != configured(*fdb))
        changes.configuration = true;
    if (replace(view.neighbours, std::move(*neighbours))) changes.any = true;
    if (replace(view.fdb, std::move(*fdb))) changes.any = true;
    return {};
}

Result<> NetnsWatch::refresh_netfilter(NetnsView& view, bool checking, Changes& changes) {
    auto ruleset = read_ruleset(netns_);
    if (!ruleset) return pass_on(ruleset);
    nf::fold(*ruleset);
    const bool differs = replace(view.netfilter, std::move(*ruleset));
    // Unless nobody asked, a commit was notified: that is the change.
    if (differs || !checking) changes.any = changes.configuration = true;
    return {};
}

Result<> NetnsWatch::refresh_ipv6_ways(NetnsView& view, Changes& changes) {
    const auto peers = ipv6_peers(view);
    has_ipv6_ways_ = !peers.empty();
    std::vector<Ipv6Way> ways;
    if (has_ipv6_ways_) {
        auto read = read_ipv6_ways(view, peers);
        if (!read) return pass_on(read);
        ways = std::move(*read);
    }
    const bool same_locals = std::ranges::equal(view.ipv6_ways, ways, {}, &Ipv6Way::has_local, &Ipv6Way::has_local);
    if (!same_locals) changes.configuration = true;
    if (replace(view.ipv6_ways, std::move(ways))) changes.any = true;
    return {};
}

Result<std::vector<Ipv6Way>> NetnsWatch::read_ipv6_ways(const NetnsView& view, const std::set<Ipv6Peer>& peers) {
    auto addresses = rtnl_.ipv6_addresses();
    if (!addresses) return pass_on(addresses);
    auto other_rules = rtnl_.has_other_ipv6_rules();
    if (!other_rules) return pass_on(other_rules);
    std::map<int, std::uint32_t> mtus;
    std::vector<Ipv6Way> ways;
    for (const auto& [local, peer, bound_to] : peers) {
        auto way = rtnl_.ipv6_way(local, peer, bound_to);
        if (!way) return pass_on(way);
        if (const Link* device = view.link(way->oif)) {
            const auto [own, fresh] = mtus.try_emplace(device->ifindex, 0);
            if (fresh) own->second = ipv6_mtu(netns_, *device);
            way->mtu = way->mtu == 0 ? own->second : std::min(way->mtu, own->second);
        }
        way->has_local = std::ranges::any_of(
            *addresses, [&](const Ipv6Address& own) { return own.address == local && !own.tentative; });
        way->other_rules = *other_rules;
        ways.push_back(*way);
    }
    return ways;
}

Result<std::map<int, Link>> NetnsWatch::dump_links(const std::vector<const Netns*>& others) {
    const auto unnamed = [](const std::map<int, Link>& links) {
        return std::ranges::any_of(links,
                                   [](const auto& entry) { return entry.second.peer && !entry.second.peer->netns; });
    };
    auto links = rtnl_.links(nsid_names_, netns_.name());
    // The dump itself makes the kernel give ids to the namespaces that it mentions, so they can be asked for only now.
    if (links && unnamed(*links) && learn_nsids(others)) links = rtnl_.links(nsid_names_, netns_.name());
    if (links) unnamed_peers_ = unnamed(*links);
    return links;
}

Result<Sysctls> NetnsWatch::dump_sysctls(const std::map<int, Link>& links) {
    std::vector<std::string> devices;
    for (const auto& [ifindex, link] : links) {
        if (link.master == 0) devices.push_back(link.name);  // bridge ports receive nothing themselves
    }
    return read_sysctls(netns_, devices);
}

bool NetnsWatch::learn_nsids(const std::vector<const Netns*>& others) {
    bool learned = false;
    for (const Netns* other : others) {
        const bool known =
            std::ranges::any_of(nsid_names_, [&](const auto& entry) { return entry.second == other->name(); });
        if (known || other->name() == netns_.name()) continue;
        const auto nsid = rtnl_.nsid_of(*other);
        if (!nsid || !*nsid) continue;
        nsid_names_[**nsid] = other->name();
        learned = true;
    }
    return learned;
}

void NetnsWatch::other_appeared() {
    if (unnamed_peers_) dirty_.links = true;
}

void NetnsWatch::other_vanished(const NetnsName& name) {
    const auto erased = std::erase_if(nsid_names_, [&](const auto& entry) { return entry.second == name; });
    if (erased != 0) dirty_.links = true;
}

}  // namespace fiplane
