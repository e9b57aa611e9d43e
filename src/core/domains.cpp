// SPDX-License-Identifier: Apache-2.0
// fl_fip_out: VMs with a floating IP, grouped into router domains.
#include "core/domains.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace fiplane {

namespace {

constexpr std::size_t kMaxHairpins = FL_MAX_DESTS / 4;
/// Destinations walked, weighted with the rules that each passes. Own mode stays far below it; a router with a rule
/// for each source (iptables) makes a domain of each, and compile must not take minutes for rows that find no room.
constexpr std::size_t kMaxWork = std::size_t{FL_MAX_DESTS} * 2;

/// FNV-1a. An identifier only has to be the same for the same text on every run.
std::uint32_t hash_of(const std::string& text) {
    std::uint32_t hash = 2166136261U;
    for (const char c : text)
        hash = (hash ^ static_cast<unsigned char>(c)) * 16777619U;
    return hash;
}

fl_fip_out_key out_key(const Host& host) {
    fl_fip_out_key key{};
    key.port = static_cast<std::uint32_t>(host.port->link->ifindex);
    copy_bytes(key.fixed, host.address);
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
        std::vector<WalkStep> steps;
    };
    using HostKey = std::pair<NetnsName, Ipv4>;

    void find_hosts(const BridgePort& leg);
    [[nodiscard]] std::optional<Host> find_host(const BridgePort& leg, const Neighbour& neighbour);
    void number();
    void add(const Domain& domain, const DestinationTree& tree);
    [[nodiscard]] std::vector<Ipv4> left_out(const Domain& domain) const;
    [[nodiscard]] std::string refusal(const Host& host, const DestinationTree& tree) const;
    void add_host(const Domain& domain, const Host& host, const DestinationTree& tree);
    void mark_tunnels();
    void complete_reports();
    void refuse(const Host& host, std::string reason) {
        verdicts_[{host.leg->router->name(), host.address}].reason = std::move(reason);
    }

    World& world_;
    std::map<std::string, Domain> domains_;
    std::map<HostKey, Verdict> verdicts_;
    std::map<fl_fip_out_key, NetnsName, ByteLess<fl_fip_out_key>> routers_of_rows_;
};

/// The VM behind a neighbour entry, if it is on a port of this node or behind a tunnel from which frames may be taken.
std::optional<Host> Domains::find_host(const BridgePort& leg, const Neighbour& neighbour) {
    Verdict& verdict = verdicts_[{leg.router->name(), neighbour.address}];
    if (!neighbour.usable()) {
        verdict.reason = fmt::format("{}: neighbour {} on {} is not resolved", leg.router->label(),
                                     neighbour.address.str(), leg.leg->name);
        return std::nullopt;
    }
    const MacTarget* target = leg.segment->find(neighbour.mac);
    const bool remote = target != nullptr && target->kind == MacTarget::Kind::kTunnel;
    if (target == nullptr || (target->kind != MacTarget::Kind::kPort && !remote)) {
        verdict.reason = fmt::format("{} is behind no port of {}", neighbour.address.str(), leg.segment->bridge->name);
        return std::nullopt;
    }
    fl_source_key source{};
    source.ifindex = static_cast<std::uint32_t>(target->port->link->ifindex);
    const auto row = world_.out.tables.sources.find(source);
    if (row == world_.out.tables.sources.end()) {
        verdict.reason = (remote ? "tunnel " : "port ") + target->port->link->name + " stays slow";
        return std::nullopt;
    }
    Host host{&leg, target->port, neighbour.address, neighbour.mac, {}};
    const auto& snats = leg.router->netfilter().snats();
    const auto& dnats = leg.router->netfilter().dnats();
    const auto fip = snats.find(host.address);
    if (fip == snats.end()) {
        verdict.reason =
            fmt::format("{}: {} is not translated to an address of its own", leg.router->label(), host.address.str());
        return std::nullopt;
    }
    host.fip = fip->second;
    // Answers must find back without state: see floating_ips.cpp.
    const auto back = dnats.find(host.fip);
    if (back == dnats.end() || back->second != host.address) {
        verdict.reason =
            fmt::format("{}: {} is not translated back to {}", leg.router->label(), host.fip.str(), host.address.str());
        return std::nullopt;
    }
    return host;
}

void Domains::find_hosts(const BridgePort& leg) {
    std::size_t without = 0;
    for (const Neighbour* neighbour : leg.router->neighbours_on(leg.leg->ifindex)) {
        const auto host = find_host(leg, *neighbour);
        const auto& snats = leg.router->netfilter().snats();
        if (!host) {
            const MacTarget* target = leg.segment->find(neighbour->mac);
            const bool here = target != nullptr && target->kind == MacTarget::Kind::kPort;
            if (here && !snats.contains(neighbour->address)) ++without;
            continue;
        }
        // Two hosts with one key take the same way: the rules that select their source are the same in order and
        // effect, and so are the netfilter tests that know it. A map counts as one test: what it gives is their fip.
        std::string key =
            leg.router->name() + "/" + leg.leg->name + "/" + leg.router->routing().signature(host->address);
        for (const std::size_t hit : leg.router->netfilter().source_hits(host->address))
            key += fmt::format("/{}", hit);
        Domain& domain = domains_[key];
        domain.key = key;
        domain.hosts.push_back(*host);
    }
    if (without == 0) return;
    world_.note(fmt::format("{}: packets that {} hosts without a floating IP send to {} are left to Linux",
                            leg.router->label(), without, leg.leg->name));
}

/// Stable numbers: a collision goes to the next free one, in the order of the keys.
void Domains::number() {
    std::set<std::uint32_t> used{0};
    for (auto& [key, domain] : domains_) {
        domain.id = hash_of(key);
        while (!used.insert(domain.id).second)
            ++domain.id;
        std::ranges::sort(domain.hosts, {}, &Host::address);
    }
}

std::string Domains::refusal(const Host& host, const DestinationTree& tree) const {
    std::set<std::string> reasons;
    for (const SourceClaim& claim : tree.claims) {
        if (!holds(claim, claim.translated ? host.fip : host.address)) reasons.insert(describe(claim));
    }
    return reasons.empty() ? std::string{} : *reasons.begin();
}

void Domains::add_host(const Domain& domain, const Host& host, const DestinationTree& tree) {
    const std::string violated = refusal(host, tree);
    if (!violated.empty()) return refuse(host, violated);
    // The host's own walk: for explain, and because its address after translation is not the representative's.
    const Source source{Source::Kind::kKnown, host.address};
    const Journey journey = world_.walker.walk(*host.leg, source, *tree.sample, true);
    Verdict& verdict = verdicts_[{host.leg->router->name(), host.address}];
    verdict.steps = journey.steps;
    if (!journey.fast || journey.snat != host.fip) return refuse(host, journey.reason);
    const fl_fip_out_key key = out_key(host);
    const auto [owner, fresh] = routers_of_rows_.try_emplace(key, host.leg->router->name());
    if (!fresh) {
        world_.out.tables.fip_out.erase(key);
        verdicts_[{owner->second, host.address}] = {false, "two routers translate it", {}};
        return refuse(host, "two routers translate it");
    }
    fl_fip_out row{};
    copy_bytes(row.vm_mac, host.mac);
    copy_bytes(row.router_mac, host.leg->leg->mac);
    copy_bytes(row.fip, host.fip);
    row.domain = domain.id;
    world_.out.tables.fip_out.emplace(key, row);
    verdict.fast = true;
    verdict.reason.clear();
}

void Domains::add(const Domain& domain, const DestinationTree& tree) {
    std::string reason = tree.refusal;
    if (reason.empty() && !tree.sample) {
        reason =
            world_.walker
                .walk(*domain.hosts.front().leg, {Source::Kind::kKnown, domain.hosts.front().address}, {{0}, 0}, false)
                .reason;
    }
    if (reason.empty() && !write_rows(world_, domain, tree)) {
        reason = "fl_dests or fl_routes has no room for its destinations";
    }
    if (!reason.empty()) {
        for (const Host& host : domain.hosts)
            refuse(host, reason);
        return;
    }
    for (const Host& host : domain.hosts)
        add_host(domain, host, tree);
}

/// Floating IPs of other routers, where there are so many that journeys between all of them would fill the tables:
/// those grow with the square, and few are used.
std::vector<Ipv4> Domains::left_out(const Domain& domain) const {
    std::vector<Ipv4> addresses;
    if (domains_.size() * world_.out.fips.size() <= kMaxHairpins) return addresses;
    const auto& own = domain.hosts.front().leg->router->netfilter().dnats();
    for (const FipReport& report : world_.out.fips) {
        if (!own.contains(report.fip)) addresses.push_back(report.fip);
    }
    std::ranges::sort(addresses);
    return addresses;
}

void Domains::run() {
    for (const BridgePort* leg : world_.legs) {
        if (leg->segment->refusal.empty()) find_hosts(*leg);
    }
    number();
    if (domains_.size() * world_.out.fips.size() > kMaxHairpins) {
        world_.note("packets between floating IPs of different routers of this node are left to Linux: too many pairs");
    }
    std::size_t work = 0;
    for (const auto& [key, domain] : domains_) {
        if (work > kMaxWork) {
            add(domain, {.refusal = "the sources of its router need too many tables of destinations"});
            continue;
        }
        const DestinationTree tree = walk_destinations(world_, domain, left_out(domain));
        const std::size_t rules = domain.hosts.front().leg->router->view().netfilter.rule_count();
        work += tree.destinations.size() * (1 + rules / 64);
        add(domain, tree);
    }
    mark_tunnels();
    complete_reports();
}

/// Tells the programs from which tunnels a router of this node has VMs. Everywhere else they save a look-up.
void Domains::mark_tunnels() {
    Tables& tables = world_.out.tables;
    std::set<std::uint32_t> ports;
    for (const auto& [key, row] : tables.fip_out)
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
        report.steps_out = found->second.steps;
    }
}

}  // namespace

void compile_domains(World& world) {
    Domains(world).run();
}

}  // namespace fiplane
