// SPDX-License-Identifier: Apache-2.0
// A ruleset made ready for evaluation. Private to netfilter*.cpp.
#pragma once

#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "core/netfilter.hpp"

namespace fiplane::nf {

/// What conntrack knows of the packet.
enum class Tracking {
    kTracked,      ///< new, established or related; NAT takes it for new
    kEstablished,  ///< not the first packet of its connection
    kInvalid,      ///< seen by conntrack, no entry
    kUntracked,    ///< notrack
};

/// Priority of conntrack's own prerouting hook (NF_IP_PRI_CONNTRACK): before it there is no entry, and only there does
/// notrack have an effect.
inline constexpr int kConntrackPriority = -200;

/// Literal or set members, split by type for constant-time membership.
struct ValueSet {
    std::unordered_set<std::uint32_t> hosts;
    std::vector<Prefix> prefixes;  ///< shorter than /32
    std::vector<Mac> macs;
    std::unordered_set<std::string> names;
    std::vector<std::string> wildcards;  ///< without the '*'
    std::unordered_set<std::uint64_t> numbers;

    void add(const Value& value);
    /// Is every address of the region in the set? A region stands for addresses that no longer prefix mentions, so it
    /// lies inside a member or outside of all of them.
    [[nodiscard]] bool contains(const Prefix& region) const;
    [[nodiscard]] bool contains_name(const std::string& name) const;
};

/// One base chain at its place in a hook.
struct HookChain {
    const Chain* chain = nullptr;
    int priority = 0;  ///< effective: all NAT chains of a hook run where the kernel's NAT hook sits
    /// From this chain on, the number of those whose order among each other is not known and may matter.
    std::size_t peers = 1;
    bool operator<(const HookChain& other) const;
};

/// What a statement makes of the marks: all statements but four leave them alone.
[[nodiscard]] Marks changed(const Marks& marks, const Statement& statement);

struct Evaluator::Prepared {
    explicit Prepared(const Ruleset& ruleset);

    const Ruleset& ruleset;
    std::map<Hook, std::vector<HookChain>> ip_hooks;              ///< families ip and inet
    std::map<Hook, std::vector<HookChain>> ip6_hooks;             ///< families ip6 and inet
    std::map<std::string, std::vector<HookChain>> ingress_hooks;  ///< netdev, by device
    std::map<std::string, std::vector<HookChain>> egress_hooks;   ///< the same
    std::map<Hook, bool> tracking_matters;  ///< a NAT chain, or what looks at conntrack, is in reach of the hook
    /// Marks that rules in reach of the IPv4 hooks may leave on connections, other than 0; none if they are too many to
    /// tell.
    std::optional<std::set<std::uint32_t>> connection_marks;
    std::unordered_map<const Match*, ValueSet> values;
    std::unordered_map<const AddressSource*, const std::map<Ipv4, Ipv4>*> maps;
    std::unordered_map<const Verdict*, const Chain*> targets;
    std::vector<SourceTest> source_tests;
    std::unordered_map<std::uint32_t, std::vector<std::size_t>> source_hosts;  ///< tests by /32 literal
    std::vector<std::size_t> broad_source_tests;                               ///< all others
    std::vector<Prefix> destinations;
    std::map<Ipv4, Ipv4> dnats;
    std::map<Ipv4, Ipv4> snats;
    /// Address after a translation: those that it may have been before, 0.0.0.0 for "not known which".
    using Origins = std::map<Ipv4, std::set<Ipv4>>;
    Origins dnat_origins;
    Origins snat_origins;
    std::string hidden_translation;  ///< text of the rule

    [[nodiscard]] bool is_paired(Ipv4 translated, const std::set<Ipv4>& origins) const;

  private:
    void add_chain(const Chain& chain);
    void add_match(const Chain& chain, const Match& match);
    void add_address_source(const Chain& chain, const AddressSource& source);
    /// What a translation does to single addresses: into `pairs` where the rule says that much, into `origins` always.
    void add_pairs(const Rule& rule, const AddressSource& source, Field key, std::map<Ipv4, Ipv4>& pairs,
                   Origins& origins) const;
    void add_unknown(const Rule& rule, const Unknown& unknown);
    void drop_shared_snats();
    void add_unpaired_destinations();
    void note_source_test(const SourceTest& test);
    void note_peers(std::vector<HookChain>& chains) const;
    /// Does the chain, or one that it leads to, change what other chains look at?
    [[nodiscard]] bool changes_packets(const Chain& chain) const;
    void note_tracking();
    void note_connection_marks();
    /// Adds the chain, and those that it leads to.
    void add_reachable(const Chain& chain, std::unordered_set<const Chain*>& reached) const;
    std::unordered_map<std::string, const Chain*> chains_by_name_;
};

}  // namespace fiplane::nf
