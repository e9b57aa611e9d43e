// SPDX-License-Identifier: Apache-2.0
// fl_dests and fl_routes of one router domain.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <deque>

#include "core/domains.hpp"

namespace fiplane {

namespace {

/// Destinations that Linux never forwards, whatever its routes say (ip_route_input_slow): "this" network, loopback,
/// multicast, limited broadcast.
constexpr std::array<Prefix, 4> kNeverForwarded{Prefix{{0x00000000}, 8}, Prefix{{0x7f000000}, 8},
                                                Prefix{{0xe0000000}, 4}, Prefix{{0xffffffff}, 32}};

bool never_forwarded(const Prefix& region) {
    return std::ranges::any_of(kNeverForwarded, [&](const Prefix& prefix) { return prefix.contains(region); });
}

/// Regions still to be walked: each prefix once.
class Regions {
  public:
    /// Addresses in `left_out` are passed over.
    explicit Regions(const std::vector<Ipv4>& left_out) : left_out_(left_out) {}

    void add(const Prefix& region) {
        if (region.length == 32 && std::ranges::binary_search(left_out_, region.address)) return;
        if (seen_.insert(region).second) todo_.push_back(region);
    }
    /// All that a namespace treats apart inside of a region that passed through it.
    void add_inside(const NetnsIndex& netns, const Prefix& region) {
        const std::vector<Prefix>& mentions = netns.mentions();
        for (auto at = std::ranges::lower_bound(mentions, region); at != mentions.end() && region.contains(*at); ++at) {
            add(*at);
        }
    }
    std::optional<Prefix> next() {
        if (todo_.empty()) return std::nullopt;
        const Prefix region = todo_.front();
        todo_.pop_front();
        return region;
    }

  private:
    const std::vector<Ipv4>& left_out_;
    std::set<Prefix> seen_;
    std::deque<Prefix> todo_;
};

/// A host without a floating IP of its own that asks for the domain's from there is not translated, but its question
/// is: only conntrack knows to translate the answer back. That is where a router translates whatever comes in, as a
/// legacy one. Unless it gives the host an address of its own, to which the answer goes then (Neutron's rule for what
/// is translated and comes from inside).
bool answers_need_state(const Domain& domain, const Prefix& region, const Journey& journey) {
    if (journey.snat || !domain.fip) return false;
    const auto passes = [&](const NetnsIndex* netns) {
        return std::ranges::find(journey.visited, netns) != journey.visited.end();
    };
    if (domain.source.throughout && passes(domain.hosts.front().translator)) return true;
    const nf::Evaluator& netfilter = domain.leg->router->netfilter();
    if (region.length == 32 && netfilter.snats().contains(region.address)) return false;
    nf::Packet question;
    question.iifname = journey.via;
    question.daddr = Prefix::host(*domain.fip);
    question.by_flow = domain.leg->segment->is_foreign();
    if (region.length == 32) question.saddr = region.address;
    netfilter.enter(question);
    nf::Outcome outcome = netfilter.evaluate(nf::Hook::kPrerouting, question);
    if (outcome.stopped || outcome.by_source) return true;
    if (!outcome.dnat) return false;
    if (region.length != 32) return true;
    question.daddr = Prefix::host(*outcome.dnat);
    question.dnat_done = true;
    question.oifname = domain.leg->leg->name;
    for (const nf::Hook hook : {nf::Hook::kForward, nf::Hook::kPostrouting}) {
        question.take_marks(outcome);
        outcome = netfilter.evaluate(hook, question);
        if (outcome.stopped || outcome.by_source) return true;
    }
    return !outcome.snat || outcome.snat == region.address;
}

/// Would the journey's rows leave some of the domain's senders out? Martians aside, for whom there are none.
bool leaves_senders_out(const Domain& domain, const Journey& journey) {
    return std::ranges::any_of(domain.senders, [&](const Prefix& sources) {
        return std::ranges::any_of(journey.claims, [&](const SourceClaim& claim) {
            return claim.kind != SourceClaim::Kind::kNotOwn && !exceptions(claim, sources).empty();
        });
    });
}

/// A sender's packet that goes back where it came from. Where only a default route leads there, nobody has a reason to
/// send one, and its row would take room; and it is never worth senders whose packets go on.
bool is_turned_back_in_vain(const Domain& domain, const Journey& journey) {
    if (domain.senders.empty() || journey.via != domain.leg->leg->name) return false;
    const bool from_anywhere = domain.senders.size() == 1 && domain.senders.front().length == 0;
    return from_anywhere || leaves_senders_out(domain, journey);
}

/// Takes a journey's result into the tree.
void add_destination(DestinationTree& tree, const Domain& domain, const Prefix& region, Journey&& journey,
                     std::string& snat_by) {
    Destination& destination = tree.destinations[region];
    // A destination that is translated alone has answers from another address. And without an address of its own to be
    // translated to, a host's flows are conntrack's wherever they are translated.
    const bool stateless = journey.snat ? domain.is_translated() : !journey.dnat;
    const bool untouched = (journey.next.flags & FL_NEXT_LOCAL) != 0;
    destination.fast = journey.fast && (untouched || (stateless && !answers_need_state(domain, region, journey)));
    if (!destination.fast) return;
    destination.next = journey.next;
    if (journey.dnat) destination.next.flags |= FL_NEXT_HAIRPIN;
    const bool followed = domain.leg->segment->is_foreign();
    if (followed && journey.dnat && journey.translator == journey.source_translator && journey.crossings.empty())
        destination.next.flags |= FL_NEXT_ONE_ENTRY;
    destination.neighbours = std::move(journey.neighbours);
    destination.crossings = std::move(journey.crossing_rows);
    tree.claims.merge(journey.claims);
    if (domain.is_translated() != journey.snat.has_value()) return;
    if (!tree.sample || region.length < tree.sample->length) tree.sample = region;
    if (!journey.snat) return;
    if (snat_by.empty()) snat_by = journey.snat_by;
    // fl_vm has one address for all destinations, and every host must get its own by the same map.
    if (journey.snat != domain.fip || journey.snat_by != snat_by) {
        tree.refusal = "the source becomes another address for some destinations";
    }
}

struct Rows {
    Table<fl_dest_key, fl_next> dests;
    Table<fl_route_key, fl_next> routes;
    Table<fl_crossing_key, fl_crossing> crossings;
};

fl_dest_key dest_key(const Domain& domain, Ipv4 address) {
    fl_dest_key key{};
    key.domain = domain.id;
    copy_bytes(key.ip, address);
    return key;
}

fl_route_key route_key(const Domain& domain, const Prefix& prefix) {
    fl_route_key key{};
    key.prefixlen = 32U + prefix.length;
    key.domain = domain.id;
    copy_bytes(key.ip, prefix.network().address);
    return key;
}

/// Builds rows from destinations that come in the order of their prefixes. One that is not fast needs a row only where
/// a wider one is fast: the longest match must then say so.
class RowMaker {
  public:
    explicit RowMaker(const Domain& domain) : domain_(domain) {}

    void add(const Prefix& prefix, const fl_next* fast) {
        while (!enclosing_.empty() && !enclosing_.back().prefix.contains(prefix))
            enclosing_.pop_back();
        const bool covered = !enclosing_.empty() && enclosing_.back().fast;
        if (fast != nullptr && prefix.length == 32) {
            rows.dests.emplace(dest_key(domain_, prefix.address), *fast);
        } else if (fast != nullptr || covered) {
            rows.routes.emplace(route_key(domain_, prefix), fast != nullptr ? *fast : fl_next{});
        }
        if (prefix.length < 32) enclosing_.push_back({prefix, fast != nullptr});
    }

    Rows rows;

  private:
    struct Enclosing {
        Prefix prefix;
        bool fast;
    };
    const Domain& domain_;
    std::vector<Enclosing> enclosing_;
};

Rows make_rows(const Domain& domain, const DestinationTree& tree) {
    RowMaker maker(domain);
    auto slow = tree.left_out.begin();
    const auto add_slow_before = [&](const Prefix* prefix) {
        for (; slow != tree.left_out.end() && (prefix == nullptr || Prefix::host(*slow) < *prefix); ++slow) {
            maker.add(Prefix::host(*slow), nullptr);
        }
    };
    for (const auto& [prefix, destination] : tree.destinations) {
        add_slow_before(&prefix);
        maker.add(prefix, destination.fast ? &destination.next : nullptr);
        maker.rows.crossings.insert(destination.crossings.begin(), destination.crossings.end());
    }
    add_slow_before(nullptr);
    return std::move(maker.rows);
}

}  // namespace

DestinationTree walk_destinations(World& world, const Domain& domain, std::vector<Ipv4> left_out) {
    DestinationTree tree;
    tree.left_out = std::move(left_out);
    std::string snat_by;
    Regions regions(tree.left_out);
    regions.add({{0}, 0});
    for (const Prefix& prefix : kNeverForwarded)
        regions.add(prefix);
    while (const auto region = regions.next()) {
        if (never_forwarded(*region)) {
            tree.destinations[*region] = {};
            continue;
        }
        Journey journey = world.walker.walk(*domain.leg, domain.source, *region, false);
        if (is_turned_back_in_vain(domain, journey)) {
            journey.fast = false;
            journey.reason = "goes back where it came from";
        }
        // A region stands for addresses that nobody on the way treats apart: those have regions of their own.
        if (region->length < 32) {
            for (const NetnsIndex* netns : journey.visited)
                regions.add_inside(*netns, *region);
        }
        add_destination(tree, domain, *region, std::move(journey), snat_by);
    }
    return tree;
}

bool write_rows(World& world, const Domain& domain, const DestinationTree& tree) {
    Rows rows = make_rows(domain, tree);
    Tables& tables = world.out.tables;
    if (tables.dests.size() + rows.dests.size() > FL_MAX_DESTS) return false;
    if (tables.routes.size() + rows.routes.size() > FL_MAX_ROUTES) return false;
    if (!world.add_crossings(rows.crossings)) return false;
    for (const auto& [prefix, destination] : tree.destinations) {
        if (destination.neighbours.empty()) continue;
        const fl_dest_key key = dest_key(domain, prefix.address);
        // Use of a prefix does not show in fl_dests: its next hop is kept alive in any case.
        world.keep_alive(destination.neighbours, prefix.length == 32 ? &key : nullptr);
    }
    tables.dests.merge(rows.dests);
    tables.routes.merge(rows.routes);
    return true;
}

}  // namespace fiplane
