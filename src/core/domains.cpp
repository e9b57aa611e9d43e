// SPDX-License-Identifier: Apache-2.0
// fl_vms and fl_senders: who sends to a router of this node, grouped into router domains.
#include "core/domains.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/hash.hpp"

namespace fiplane {

namespace {

constexpr std::size_t kMaxHairpins = FL_MAX_DESTS / 4;
/// Destinations walked, weighted with the rules that each passes. Own mode stays far below it; a router with a rule
/// for each source (iptables) makes a domain of each, and compile must not take minutes for rows that find no room.
constexpr std::size_t kMaxWork = std::size_t{FL_MAX_DESTS} * 2;

fl_vm_key vm_key(const Host& host) {
    fl_vm_key key{};
    key.port = host.port->id();
    copy_bytes(key.fixed, host.address);
    copy_bytes(key.router_mac, host.leg->leg->mac);
    return key;
}

class Domains {
  public:
    explicit Domains(World& world) : world_(world) {}
    void run();

  private:
    struct Verdict {
        bool fast = false;
        std::string reason;
        std::string outside;  ///< FipReport::reason_outside
        std::vector<WalkStep> steps;
    };
    using HostKey = std::pair<NetnsName, Ipv4>;

    void index_translated();
    void find_hosts(const BridgePort& leg);
    void find_foreign_hosts(const BridgePort& leg);
    void find_routed_hosts(const BridgePort& leg);
    void find_senders(const BridgePort& leg);
    [[nodiscard]] std::optional<Host> find_host(const BridgePort& leg, Ipv4 address, const Neighbour& next_hop);
    void find_fip_elsewhere(Host& host);
    void group(const Host& host);
    [[nodiscard]] bool serves_untranslated(const BridgePort& leg, bool remote) const;
    [[nodiscard]] bool find_fip(Host& host);
    void number();
    void walk_all(bool translated);
    [[nodiscard]] std::string why_not(const Domain& domain) const;
    void add(const Domain& domain, const DestinationTree& tree);
    [[nodiscard]] std::vector<Ipv4> left_out(const Domain& domain) const;
    [[nodiscard]] std::string refusal(const Host& host, const DestinationTree& tree) const;
    Journey walk_host(const Domain& domain, const Host& host, const Prefix& destination);
    void add_host(const Domain& domain, const Host& host, const DestinationTree& tree);
    void mark_tunnels();
    void complete_reports();
    [[nodiscard]] Verdict& verdict_of(const Host& host) { return verdicts_[{host.translator->name(), host.address}]; }
    void refuse(const Host& host, std::string reason);

    World& world_;
    std::map<std::string, Domain> domains_;
    std::set<Ipv4> translated_sources_;  ///< fixed IPs that have a floating IP on some router
    std::size_t translated_ = 0;         ///< domains of hosts with a floating IP
    std::size_t work_ = 0;
    std::map<HostKey, Verdict> verdicts_;
};

/// The VM with that address, whose frames come from the neighbour `next_hop`, if that is on a port of this node or
/// behind a tunnel from which frames may be taken.
std::optional<Host> Domains::find_host(const BridgePort& leg, Ipv4 address, const Neighbour& next_hop) {
    Verdict& verdict = verdicts_[{leg.router->name(), address}];
    if (!next_hop.usable()) {
        verdict.reason = fmt::format("{}: neighbour {} on {} is not resolved", leg.router->label(),
                                     next_hop.address.str(), leg.leg->name);
        return std::nullopt;
    }
    const MacTarget* target = leg.segment->find(next_hop.mac);
    const bool remote = target != nullptr && target->kind == MacTarget::Kind::kTunnel;
    if (target == nullptr || (target->kind != MacTarget::Kind::kPort && !remote)) {
        verdict.reason = fmt::format("{} is behind no port of {}", next_hop.address.str(), leg.segment->bridge->name);
        return std::nullopt;
    }
    fl_source_key source{};
    source.ifindex = target->port->id();
    if (!world_.out.tables.sources.contains(source)) {
        verdict.reason = (remote ? "tunnel " : "port ") + target->port->link->name + " stays slow";
        return std::nullopt;
    }
    Host host{&leg, target->port, address, next_hop.mac, std::nullopt, leg.router};
    if (!find_fip(host)) return std::nullopt;
    if (!host.fip && !serves_untranslated(leg, remote)) return std::nullopt;
    if (!host.fip) find_fip_elsewhere(host);
    return host;
}

/// Whether rows for hosts without a floating IP would be of use: those on a leg with a default route or with floating
/// IPs ask for floating IPs, and a distributed router's remote hosts have their own. That only saves room.
bool Domains::serves_untranslated(const BridgePort& leg, bool remote) const {
    const NetnsIndex& router = *leg.router;
    if (remote && world_.scope.distributed_routers.contains(router.name())) return false;
    const bool has_floating_ips = std::ranges::any_of(router.view().addresses, [&](const Address& own) {
        return own.ifindex == leg.leg->ifindex && router.netfilter().dnats().contains(own.address.address);
    });
    // A table that rules give to certain sources is no way out of the router: by it a distributed router sends them on
    // to its SNAT port (l3/dvr_local_router.py, _snat_redirect_modify).
    const auto is_redirect = [&](const Route& route) {
        return std::ranges::any_of(router.view().rules, [&](const PolicyRule& rule) {
            return rule.table == route.table && rule.source.length != 0;
        });
    };
    return !has_floating_ips && std::ranges::none_of(router.view().routes, [&](const Route& route) {
        return route.destination.length == 0 && route.oif == leg.leg->ifindex && !is_redirect(route);
    });
}

/// False if the host has one for which answers would not find back without state: see floating_ips.cpp.
bool Domains::find_fip(Host& host) {
    const NetnsIndex& router = *host.leg->router;
    Verdict& verdict = verdicts_[{router.name(), host.address}];
    const auto& snats = router.netfilter().snats();
    const auto fip = snats.find(host.address);
    if (fip == snats.end()) {
        verdict.reason =
            fmt::format("{}: {} is not translated to an address of its own", router.label(), host.address.str());
        return true;
    }
    const auto& dnats = router.netfilter().dnats();
    const auto back = dnats.find(fip->second);
    if (back == dnats.end() || back->second != host.address) {
        verdict.reason =
            fmt::format("{}: {} is not translated back to {}", router.label(), fip->second.str(), host.address.str());
        return false;
    }
    host.fip = fip->second;
    return true;
}

void Domains::index_translated() {
    for (const auto& [name, netns] : world_.routers) {
        for (const auto& [fixed, fip] : netns.netfilter().snats())
            translated_sources_.insert(fixed);
    }
}

/// A VM may have its floating IP on a router behind its own, which sends there what is for the world.
void Domains::find_fip_elsewhere(Host& host) {
    if (!translated_sources_.contains(host.address)) return;
    const Source source{Source::Kind::kKnown, host.address, true};
    const Journey journey = world_.walker.walk(*host.leg, source, {{0}, 0}, false);
    if (!journey.fast || !journey.snat) return;
    const NetnsIndex& translator = *journey.source_translator;
    const auto& dnats = translator.netfilter().dnats();
    const auto back = dnats.find(*journey.snat);
    if (back == dnats.end() || back->second != host.address) return;
    host.fip = journey.snat;
    host.translator = &translator;
}

/// What a router's rules say of a source: two with the same text are treated alike there. The rules that select them
/// are the same in order and effect, and so are the netfilter tests that know them. A map counts as one test: what it
/// gives is their floating IP.
std::string treatment(const NetnsIndex& router, Ipv4 source) {
    std::string text = router.routing().signature(source);
    for (const std::size_t hit : router.netfilter().source_hits(source))
        text += fmt::format("/{}", hit);
    return text;
}

/// Two hosts with one key take the same way.
void Domains::group(const Host& host) {
    const NetnsIndex& router = *host.leg->router;
    std::string key = fmt::format("{}/{}/{}{}", router.name(), host.leg->leg->name, host.fip ? "" : "fixed/",
                                  treatment(router, host.address));
    // Rules behind the translation see the floating IP.
    if (host.fip) key += "/to:" + treatment(*host.translator, *host.fip);
    const bool throughout = host.translator != &router;
    for (const auto& [name, other] : world_.routers) {
        if (throughout && &other != &router) key += fmt::format("/{}:{}", name, treatment(other, host.address));
    }
    Domain& domain = domains_[key];
    domain.key = key;
    domain.leg = host.leg;
    domain.source.throughout = throughout;
    domain.hosts.push_back(host);
}

/// VMs with a floating IP here that are behind another router.
void Domains::find_routed_hosts(const BridgePort& leg) {
    const NetnsIndex& router = *leg.router;
    const bool has_gateway = std::ranges::any_of(router.view().routes, [&](const Route& route) {
        return route.oif == leg.leg->ifindex && route.gateway.has_value();
    });
    if (!has_gateway) return;
    for (const auto& [fixed, fip] : router.netfilter().snats()) {
        const Lookup way = router.routing().lookup({Source::Kind::kGeneric}, Prefix::host(fixed), "lo");
        if (way.route == nullptr || way.route->oif != leg.leg->ifindex || !way.route->gateway) continue;
        const Neighbour* gateway = router.neighbour(leg.leg->ifindex, *way.route->gateway);
        const auto host = gateway == nullptr ? std::nullopt : find_host(leg, fixed, *gateway);
        if (host) group(*host);
    }
}

void Domains::find_senders(const BridgePort& leg) {
    std::vector<Prefix> prefixes = sender_prefixes(world_, leg);
    if (prefixes.empty()) return;
    const std::string key = fmt::format("{}/{}/senders", leg.router->name(), leg.leg->name);
    domains_[key] = {.key = key, .leg = &leg, .source = {Source::Kind::kGeneric}, .senders = std::move(prefixes)};
}

void Domains::find_hosts(const BridgePort& leg) {
    std::size_t without = 0;
    for (const Neighbour* neighbour : leg.router->neighbours_on(leg.leg->ifindex)) {
        const auto host = find_host(leg, neighbour->address, *neighbour);
        if (!host) continue;
        if (!host->fip) ++without;
        group(*host);
    }
    if (without == 0 || !leg.router->netfilter().translates()) return;
    world_.note(
        fmt::format("{}: what {} hosts without a floating IP send to {} is left to Linux where it is translated",
                    leg.router->label(), without, leg.leg->name));
}

/// On a foreign segment, which shows no ports: whoever the router knows there by ARP or translates. As for Linux it
/// does not matter from which MAC they send.
void Domains::find_foreign_hosts(const BridgePort& leg) {
    const NetnsIndex& router = *leg.router;
    std::set<Ipv4> addresses;
    for (const Neighbour* neighbour : router.neighbours_on(leg.leg->ifindex))
        addresses.insert(neighbour->address);
    for (const auto& [fixed, fip] : router.netfilter().snats()) {
        const Lookup way = router.routing().lookup({Source::Kind::kGeneric}, Prefix::host(fixed), "lo");
        if (way.route != nullptr && way.route->oif == leg.leg->ifindex && !way.route->gateway) addresses.insert(fixed);
    }
    for (const Ipv4 address : addresses) {
        Host host{&leg, leg.segment->anybody->port, address, {}, std::nullopt, &router};
        if (!find_fip(host)) continue;
        if (!host.fip && !serves_untranslated(leg, false)) continue;
        if (!host.fip) find_fip_elsewhere(host);
        group(host);
    }
}

/// Stable numbers: a collision goes to the next free one, in the order of the keys.
void Domains::number() {
    std::set<std::uint32_t> used{0};
    for (auto& [key, domain] : domains_) {
        domain.id = hash_of(key);
        while (!used.insert(domain.id).second)
            ++domain.id;
        if (domain.hosts.empty()) continue;
        std::ranges::sort(domain.hosts, {}, &Host::address);
        domain.source.kind = Source::Kind::kKnown;
        domain.source.address = domain.hosts.front().address;
        domain.fip = domain.hosts.front().fip;
        if (domain.is_translated()) ++translated_;
    }
}

/// What a followed router begins to leave to Linux had flows: the row says with which translation they go over.
void Domains::refuse(const Host& host, std::string reason) {
    verdict_of(host).reason = std::move(reason);
    if (!host.leg->segment->is_foreign() || !host.fip) return;
    fl_vm row{};
    copy_bytes(row.fip, *host.fip);
    world_.out.tables.vms.emplace(vm_key(host), row);
}

std::string Domains::refusal(const Host& host, const DestinationTree& tree) const {
    std::set<std::string> reasons;
    for (const SourceClaim& claim : tree.claims) {
        if (!holds(claim, claim.translated ? host.fip.value() : host.address)) reasons.insert(describe(claim));
    }
    return reasons.empty() ? std::string{} : *reasons.begin();
}

/// The host's own walk, whose steps are what explain shows.
Journey Domains::walk_host(const Domain& domain, const Host& host, const Prefix& destination) {
    const Source source{Source::Kind::kKnown, host.address, domain.source.throughout};
    Journey journey = world_.walker.walk(*host.leg, source, destination, true);
    verdict_of(host).steps = journey.steps;
    return journey;
}

void Domains::add_host(const Domain& domain, const Host& host, const DestinationTree& tree) {
    const std::string violated = refusal(host, tree);
    if (!violated.empty()) return refuse(host, violated);
    // Its address after translation is not the representative's.
    const Journey journey = walk_host(domain, host, *tree.sample);
    if (!journey.fast || journey.snat != host.fip) return refuse(host, journey.reason);
    fl_vm row{};
    copy_bytes(row.mac, host.mac);
    if (host.fip) copy_bytes(row.fip, *host.fip);
    row.domain = domain.id;
    world_.out.tables.vms.emplace(vm_key(host), row);
    Verdict& verdict = verdict_of(host);
    verdict.fast = true;
    verdict.reason.clear();
}

/// What keeps packets to the world from the fast path.
std::string Domains::why_not(const Domain& domain) const {
    const Journey journey = world_.walker.walk(*domain.leg, domain.source, {{0}, 0}, false);
    if (!journey.reason.empty() || !domain.is_translated()) return journey.reason;
    const Ipv4 leaves_as = journey.snat.value_or(domain.source.address);
    return fmt::format("packets to the world leave by {} as {}, not as {}", journey.via, leaves_as.str(),
                       domain.fip->str());
}

void Domains::add(const Domain& domain, const DestinationTree& tree) {
    std::string reason = tree.refusal;
    std::string outside;
    const bool to_the_world = tree.sample && (tree.destinations.at({{0}, 0}).fast || !domain.is_translated());
    if (reason.empty() && !to_the_world) outside = why_not(domain);
    if (reason.empty() && !tree.sample) {
        reason = outside.empty() ? "none of its destinations is fast" : outside;
    }
    if (reason.empty() && !write_rows(world_, domain, tree)) {
        reason = "fl_dests, fl_routes or fl_crossings has no room for its destinations";
    }
    if (!reason.empty()) {
        for (const Host& host : domain.hosts) {
            if (host.fip) walk_host(domain, host, {{0}, 0});
            refuse(host, reason);
        }
        return;
    }
    for (const Host& host : domain.hosts) {
        add_host(domain, host, tree);
        verdict_of(host).outside = outside;
    }
    write_senders(world_, domain, tree);
}

/// Floating IPs of other routers, where there are so many that journeys between all of them would fill the tables:
/// those grow with the square, and few are used.
std::vector<Ipv4> Domains::left_out(const Domain& domain) const {
    std::vector<Ipv4> addresses;
    if (translated_ * world_.out.fips.size() <= kMaxHairpins) return addresses;
    const auto& own = domain.leg->router->netfilter().dnats();
    for (const FipReport& report : world_.out.fips) {
        if (!own.contains(report.fip)) addresses.push_back(report.fip);
    }
    std::ranges::sort(addresses);
    return addresses;
}

void Domains::run() {
    index_translated();
    for (const BridgePort* leg : world_.legs) {
        if (!leg->segment->refusal.empty()) continue;
        if (leg->segment->is_foreign()) {
            find_foreign_hosts(*leg);
            continue;
        }
        find_hosts(*leg);
        find_routed_hosts(*leg);
        find_senders(*leg);
    }
    number();
    if (translated_ * world_.out.fips.size() > kMaxHairpins) {
        world_.note("packets between floating IPs of different routers of this node are left to Linux: too many pairs");
    }
    walk_all(true);  // floating IPs get room first
    walk_all(false);
    mark_tunnels();
    complete_reports();
}

void Domains::walk_all(bool translated) {
    for (const auto& [key, domain] : domains_) {
        if (domain.is_translated() != translated) continue;
        if (work_ > kMaxWork) {
            add(domain, {.refusal = "the sources of its router need too many tables of destinations"});
            continue;
        }
        const DestinationTree tree = walk_destinations(world_, domain, left_out(domain));
        const std::size_t rules = domain.leg->router->view().netfilter.rule_count();
        work_ += tree.destinations.size() * (1 + rules / 64);
        add(domain, tree);
    }
}

/// Tells the programs from which tunnels a router of this node has VMs. Everywhere else they save a look-up.
void Domains::mark_tunnels() {
    Tables& tables = world_.out.tables;
    std::set<std::uint32_t> ports;
    for (const auto& [key, row] : tables.vms)
        ports.insert(key.port);
    for (auto& [key, source] : tables.sources) {
        if (source.role == FL_ROLE_TUNNEL && ports.contains(key.ifindex)) source.flags |= FL_SRC_ROUTED;
    }
    for (auto& [key, tunnel] : tables.tunnels) {
        if (ports.contains(tunnel.ifindex)) tunnel.flags |= FL_SRC_ROUTED;
    }
}

void Domains::complete_reports() {
    for (FipReport& report : world_.out.fips) {
        const auto found = verdicts_.find({report.router, report.fixed});
        if (found == verdicts_.end()) {
            report.reason_out = fmt::format("{}: no router port has a neighbour {}", report.router, report.fixed.str());
            continue;
        }
        report.fast_out = found->second.fast;
        report.reason_out = found->second.reason;
        if (report.fast_out) report.reason_outside = found->second.outside;
        report.steps_out = found->second.steps;
    }
}

}  // namespace

void compile_domains(World& world) {
    Domains(world).run();
}

}  // namespace fiplane
