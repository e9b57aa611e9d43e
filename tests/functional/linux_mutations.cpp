// SPDX-License-Identifier: Apache-2.0
#include "functional/linux_mutations.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>

#include "build/nft_tables.hpp"
#include "functional/agent_bench.hpp"

namespace fiplane::test {
namespace {

template <typename T>
const T& one_of(Random& random, const std::vector<T>& items) {
    return items[pick(random, items.size())];
}

bool coin(Random& random) {
    return pick(random, 2) == 0;
}

/// One namespace in which something is to be changed.
class Place {
  public:
    Place(Random& random, const NetnsView& view) : random_(random), view_(view) {
        for (const auto& [ifindex, link] : view.links) {
            if (link.name != "lo") links_.push_back(&link);
        }
    }

    using Kind = std::optional<Mutation> (Place::*)();
    static const std::vector<Kind>& kinds() {
        static const std::vector<Kind> all = {
            &Place::link_state,     &Place::link_mtu,   &Place::link_master, &Place::link_gone,
            &Place::bridge_option,  &Place::address,    &Place::route_gone,  &Place::route_added,
            &Place::rule_gone,      &Place::rule_added, &Place::neighbour,   &Place::neighbour_added,
            &Place::fdb_gone,       &Place::fdb_added,  &Place::nat_element, &Place::nft_rule,
            &Place::nft_chain_gone, &Place::forwarding, &Place::netns_gone,  &Place::route_gone,
            &Place::nat_element,    &Place::fdb_gone,   &Place::neighbour};
        return all;
    }

  private:
    [[nodiscard]] Mutation here(const std::string& command) const {
        const std::string entered =
            view_.name.empty() ? command : fmt::format("nsenter --net=/run/netns/{} {}", view_.name, command);
        return {entered, words(entered)};
    }
    [[nodiscard]] const Link* any_link() { return links_.empty() ? nullptr : one_of(random_, links_); }
    [[nodiscard]] std::string name_of(int ifindex) const {
        const Link* link = view_.link(ifindex);
        return link == nullptr ? "none" : link->name;
    }
    /// An address that the topology could use, or one next to it.
    [[nodiscard]] std::string some_address() {
        static const std::array kNetworks = {"172.24.5", "10.0.0", "172.24.4", "192.0.2", "169.254.64"};
        return fmt::format("{}.{}", kNetworks[pick(random_, kNetworks.size())], 1 + pick(random_, 40));
    }
    [[nodiscard]] std::string some_mac() {
        return fmt::format("fa:16:3e:00:{:02x}:{:02x}", pick(random_, 4), pick(random_, 256));
    }

    std::optional<Mutation> link_state() {
        const Link* link = any_link();
        if (link == nullptr) return std::nullopt;
        return here(fmt::format("ip link set {} {}", link->name, link->admin_up ? "down" : "up"));
    }
    std::optional<Mutation> link_mtu() {
        const Link* link = any_link();
        if (link == nullptr) return std::nullopt;
        static const std::array kSizes = {1280, 1400, 1450, 1500};
        return here(fmt::format("ip link set {} mtu {}", link->name, kSizes[pick(random_, kSizes.size())]));
    }
    std::optional<Mutation> link_master() {
        const Link* link = any_link();
        if (link == nullptr) return std::nullopt;
        if (link->master != 0) return here(fmt::format("ip link set {} nomaster", link->name));
        const auto bridge = std::ranges::find_if(links_, [](const Link* l) { return l->bridge.has_value(); });
        if (bridge == links_.end() || link->bridge) return std::nullopt;
        return here(fmt::format("ip link set {} master {}", link->name, (*bridge)->name));
    }
    std::optional<Mutation> link_gone() {
        const Link* link = any_link();
        if (link == nullptr || link->name == "eth0" || link->name == "wire") return std::nullopt;
        return here(fmt::format("ip link delete {}", link->name));
    }
    std::optional<Mutation> bridge_option() {
        const Link* link = any_link();
        if (link == nullptr) return std::nullopt;
        if (link->bridge) {
            return here(fmt::format("ip link set {} type bridge vlan_filtering {}", link->name,
                                    link->bridge->vlan_filtering ? 0 : 1));
        }
        if (!link->bridge_port) return std::nullopt;
        static const std::array kFlags = {"learning", "isolated", "neigh_suppress", "hairpin", "flood"};
        return here(fmt::format("bridge link set dev {} {} {}", link->name, kFlags[pick(random_, kFlags.size())],
                                coin(random_) ? "on" : "off"));
    }
    std::optional<Mutation> address() {
        if (!view_.addresses.empty() && coin(random_)) {
            const Address& gone = one_of(random_, view_.addresses);
            return here(fmt::format("ip address delete {} dev {}", gone.address.str(), name_of(gone.ifindex)));
        }
        const Link* link = any_link();
        if (link == nullptr) return std::nullopt;
        return here(fmt::format("ip address add {}/24 dev {}", some_address(), link->name));
    }
    std::optional<Mutation> route_gone() {
        if (view_.routes.empty()) return std::nullopt;
        const Route& route = one_of(random_, view_.routes);
        if (route.table == 255) return std::nullopt;  // the kernel's own, by address
        return here(
            fmt::format("ip route delete {} table {} metric {}", route.destination.str(), route.table, route.priority));
    }
    std::optional<Mutation> route_added() {
        const Link* link = any_link();
        const auto* table = coin(random_) ? "main" : "16";
        if (link == nullptr) return std::nullopt;
        switch (pick(random_, 3)) {
            case 0:
                return here(fmt::format("ip route replace {}/32 dev {} table {}", some_address(), link->name, table));
            case 1:
                return here(fmt::format("ip route replace {}/32 via {} dev {} onlink table {}", some_address(),
                                        some_address(), link->name, table));
            default:
                return here(fmt::format("ip route replace unreachable {}/32 table {}", some_address(), table));
        }
    }
    std::optional<Mutation> rule_gone() {
        if (view_.rules.empty()) return std::nullopt;
        const PolicyRule& rule = one_of(random_, view_.rules);
        if (rule.priority == 0) return std::nullopt;
        return here(fmt::format("ip rule delete priority {}", rule.priority));
    }
    std::optional<Mutation> rule_added() {
        return here(fmt::format("ip rule add from {}/32 lookup {} priority {}", some_address(),
                                coin(random_) ? "16" : "main", 100 + pick(random_, 70000)));
    }
    std::optional<Mutation> neighbour() {
        if (view_.neighbours.empty()) return std::nullopt;
        const Neighbour& entry = one_of(random_, view_.neighbours);
        const std::string device = name_of(entry.ifindex);
        if (coin(random_)) return here(fmt::format("ip neighbour delete {} dev {}", entry.address.str(), device));
        return here(fmt::format("ip neighbour replace {} lladdr {} dev {} nud permanent", entry.address.str(),
                                some_mac(), device));
    }
    std::optional<Mutation> neighbour_added() {
        const Link* link = any_link();
        if (link == nullptr) return std::nullopt;
        static const std::array kStates = {"permanent", "stale", "noarp", "reachable"};
        return here(fmt::format("ip neighbour replace {} lladdr {} dev {} nud {}", some_address(), some_mac(),
                                link->name, kStates[pick(random_, kStates.size())]));
    }
    std::optional<Mutation> fdb_gone() {
        if (view_.fdb.empty()) return std::nullopt;
        const FdbEntry& entry = one_of(random_, view_.fdb);
        const std::string where = entry.bridge != 0 ? "master" : "self";
        const std::string remote = entry.destination ? fmt::format(" dst {}", entry.destination->str()) : "";
        return here(
            fmt::format("bridge fdb delete {} dev {} {}{}", entry.mac.str(), name_of(entry.ifindex), where, remote));
    }
    std::optional<Mutation> fdb_added() {
        const Link* link = any_link();
        if (link == nullptr || !link->bridge_port) return std::nullopt;
        const std::string mac = view_.fdb.empty() || coin(random_) ? some_mac() : one_of(random_, view_.fdb).mac.str();
        if (link->vxlan && coin(random_)) {
            return here(
                fmt::format("bridge fdb replace {} dev {} dst {} self static", mac, link->name, some_address()));
        }
        return here(fmt::format("bridge fdb replace {} dev {} master {}", mac, link->name,
                                coin(random_) ? "static" : "dynamic"));
    }
    std::optional<Mutation> nat_element() {
        if (view_.netfilter.maps.empty()) return std::nullopt;
        auto map = view_.netfilter.maps.begin();
        std::advance(map, static_cast<std::ptrdiff_t>(pick(random_, view_.netfilter.maps.size())));
        if (!map->second.empty() && coin(random_)) {
            auto element = map->second.begin();
            std::advance(element, static_cast<std::ptrdiff_t>(pick(random_, map->second.size())));
            return here(fmt::format("nft delete element {} {{ {} }}", map->first, element->first.str()));
        }
        return here(fmt::format("nft add element {} {{ {} : {} }}", map->first, some_address(), some_address()));
    }
    std::optional<Mutation> nft_rule() {
        if (view_.netfilter.chains.empty()) return here("nft add table ip stranger");
        const nf::Chain& chain = one_of(random_, view_.netfilter.chains);
        static const std::array kRules = {"counter drop", "ip daddr 10.0.0.11 counter accept", "notrack",
                                          "ip saddr 10.0.0.0/8 meta mark set 7"};
        return here(fmt::format("nft insert rule {} {} {} {}", build::family_word(chain.family), chain.table,
                                chain.name, kRules[pick(random_, kRules.size())]));
    }
    std::optional<Mutation> nft_chain_gone() {
        if (view_.netfilter.chains.empty()) return std::nullopt;
        const nf::Chain& chain = one_of(random_, view_.netfilter.chains);
        return here(fmt::format("nft flush chain {} {} {}", build::family_word(chain.family), chain.table, chain.name));
    }
    std::optional<Mutation> forwarding() {
        const Link* link = any_link();
        if (link == nullptr) return std::nullopt;
        const std::string which = coin(random_) ? "all" : link->name;
        return here(fmt::format("sysctl -qw net/ipv4/conf/{}/forwarding={}", which, coin(random_) ? 1 : 0));
    }
    std::optional<Mutation> netns_gone() {
        if (view_.name.empty() || pick(random_, 4) != 0) return std::nullopt;
        const std::string command = "ip netns delete " + view_.name;
        return Mutation{command, words(command)};
    }

    Random& random_;
    const NetnsView& view_;
    std::vector<const Link*> links_;
};

}  // namespace

std::size_t pick(Random& random, std::size_t size) {
    return std::uniform_int_distribution<std::size_t>(0, size - 1)(random);
}

Mutation random_mutation(Random& random, const Snapshot& snapshot) {
    for (;;) {
        const std::size_t which = pick(random, snapshot.routers.size() + 1);
        auto router = snapshot.routers.begin();
        if (which > 0) std::advance(router, static_cast<std::ptrdiff_t>(which - 1));
        Place place(random, which == 0 ? snapshot.root : router->second);
        const auto& kinds = Place::kinds();
        if (auto mutation = (place.*kinds[pick(random, kinds.size())])()) return std::move(*mutation);
    }
}

}  // namespace fiplane::test
