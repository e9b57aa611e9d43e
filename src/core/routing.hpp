// SPDX-License-Identifier: Apache-2.0
// IPv4 route lookup of one namespace as net/ipv4/fib_rules.c and fib_trie.c do it, for a packet of the walk, of which
// the destination may be a region and the source may be unknown.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/snapshot.hpp"

namespace fiplane {

/// What the walk knows of a packet's source.
struct Source {
    enum class Kind {
        kKnown,    ///< `address`
        kGeneric,  ///< one of a group of addresses, each of which is checked against the claims that the walk records
        kUnknown,  ///< anybody
    };
    Kind kind = Kind::kUnknown;
    Ipv4 address{};
    /// Known: in all namespaces, up to the one that translates it. Otherwise only in the first, behind which it is
    /// generic.
    bool throughout = false;
};

/// Result of a lookup: `route` with the rule that led to it, or the reason why there is none to rely on.
struct Lookup {
    const Route* route = nullptr;
    const PolicyRule* rule = nullptr;
    std::string stopped;
    /// For generic sources: the result holds for sources that none of the first `rules_passed` rules selects.
    std::size_t rules_passed = 0;
};

/// Rules and routes of one namespace, indexed: a lookup costs one hash probe per prefix length in use.
/// Keeps pointers into the view, which must outlive it unchanged.
class Routing {
  public:
    explicit Routing(const NetnsView& view);

    /// `region`: an address, or any address of a prefix that is in no longer prefix mentioned by the namespace.
    /// `iifname`: ingress device; "lo" for the host's own packets. `oif`: bound output device, 0 if none.
    [[nodiscard]] Lookup lookup(const Source& source, const Prefix& region, const std::string& iifname,
                                int oif = 0) const;

    /// The rules that apply to a known source, as a text: two sources with the same text are routed alike.
    [[nodiscard]] std::string signature(Ipv4 source) const;
    /// Does one of the first `count` rules select by source and select this one?
    [[nodiscard]] bool selected_before(Ipv4 source, std::size_t count) const;
    /// A local, broadcast or other address that Linux refuses as a source (martian).
    [[nodiscard]] bool is_own(Ipv4 address) const;
    /// Those addresses, as the prefixes of their routes.
    [[nodiscard]] std::vector<Prefix> own() const;
    /// Sources that the first `count` rules select, as far as they select by source.
    [[nodiscard]] std::vector<Prefix> selectors(std::size_t count) const;
    /// Local addresses, /32, ascending; loopback left out.
    [[nodiscard]] const std::vector<Ipv4>& local_addresses() const { return local_addresses_; }
    /// Is the address on the link of this device by some route without a gateway?
    [[nodiscard]] bool on_link(int ifindex, Ipv4 address) const;
    [[nodiscard]] std::vector<Prefix> on_link(int ifindex) const;
    /// Has a unicast or local route for exactly this address.
    [[nodiscard]] bool has_host_route(Ipv4 address) const;
    /// Addresses of unicast host routes, ascending.
    [[nodiscard]] const std::vector<Ipv4>& host_routes() const { return host_routes_; }

  private:
    /// Routes of one table: by length, then by network. Those with a TOS first, then by metric.
    using Table = std::map<std::uint8_t, std::unordered_map<std::uint32_t, std::vector<const Route*>>, std::greater<>>;

    [[nodiscard]] std::vector<std::size_t> selected(Ipv4 source) const;
    [[nodiscard]] bool applies(const PolicyRule& rule, const Prefix& region, const std::string& iifname, int oif) const;
    /// False: the table has no route, go on with the next rule.
    [[nodiscard]] bool look_in_table(std::uint32_t table, const Prefix& region, int oif, Lookup& result) const;
    /// True: the lookup ends with this rule.
    [[nodiscard]] bool try_rule(std::size_t position, const Prefix& region, const std::string& iifname, int oif,
                                Lookup& result) const;

    const NetnsView& view_;
    std::vector<const PolicyRule*> rules_;      ///< by priority
    std::vector<std::size_t> general_;          ///< positions of rules that may concern every source
    std::vector<std::size_t> by_source_order_;  ///< positions of those that select some
    std::map<std::uint8_t, std::unordered_map<std::uint32_t, std::vector<std::size_t>>> by_source_;
    std::unordered_map<std::uint32_t, Table> tables_;
    Table own_;
    std::vector<Ipv4> local_addresses_;
    std::vector<Ipv4> host_routes_;
    std::unordered_map<int, std::vector<Prefix>> on_link_;
};

/// "rule 32768: from 10.0.0.11 lookup 16", as `ip rule` prints it.
[[nodiscard]] std::string describe(const PolicyRule& rule);
/// "172.24.5.11/32 via 169.254.64.0 dev fpr-… (table main)".
[[nodiscard]] std::string describe(const Route& route, const NetnsView& view);

}  // namespace fiplane
