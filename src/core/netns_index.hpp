// SPDX-License-Identifier: Apache-2.0
// One namespace of a snapshot, indexed for the walk.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "core/netfilter.hpp"
#include "core/routing.hpp"
#include "core/snapshot.hpp"

namespace fiplane {

/// Keeps pointers into the view, which must outlive it unchanged.
class NetnsIndex {
  public:
    explicit NetnsIndex(const NetnsView& view);

    [[nodiscard]] const NetnsView& view() const { return view_; }
    [[nodiscard]] const NetnsName& name() const { return view_.name; }
    /// For messages: "fip-…", or "root namespace".
    [[nodiscard]] std::string label() const { return name().empty() ? "root namespace" : name(); }
    [[nodiscard]] const Routing& routing() const { return routing_; }
    [[nodiscard]] const nf::Evaluator& netfilter() const { return netfilter_; }
    [[nodiscard]] const Link* link(int ifindex) const { return view_.link(ifindex); }
    [[nodiscard]] const Neighbour* neighbour(int ifindex, Ipv4 address) const;
    /// All neighbours of a device, by address.
    [[nodiscard]] std::vector<const Neighbour*> neighbours_on(int ifindex) const;
    /// Settings of a device; all off and redirects on if the snapshot has none.
    [[nodiscard]] const Sysctls::Device& sysctls(const std::string& device) const;
    /// Why the fast path may not carry packets past this device, where it would skip its queue and its programs.
    /// Empty: it may.
    [[nodiscard]] const std::string& jump_refusal(const Link& link) const;
    /// A bound for what `rt mtu` lowers a TCP SYN's MSS to here, bytes: no device that is up and no route allows less
    /// (nft_rt.c, get_tcpmss, asks the route to the destination and the one back). Path MTUs that the kernel learns are
    /// not in it.
    [[nodiscard]] std::uint16_t lowest_mss() const { return lowest_mss_; }
    /// Prefixes that something in the namespace treats apart (routes, rules, neighbours, filters), ascending by
    /// address, then length; no doubles.
    [[nodiscard]] const std::vector<Prefix>& mentions() const { return mentions_; }

  private:
    void collect_mentions();

    const NetnsView& view_;
    Routing routing_;
    nf::Evaluator netfilter_;
    std::unordered_map<std::uint64_t, const Neighbour*> neighbours_;
    std::unordered_map<int, std::vector<const Neighbour*>> neighbours_on_;
    std::unordered_map<int, std::string> jump_refusals_;
    std::vector<Prefix> mentions_;
    std::uint16_t lowest_mss_ = 0;
};

/// Queues that only hold packets for a moment; others shape or drop on purpose.
[[nodiscard]] bool is_plain_qdisc(const std::string& kind);

}  // namespace fiplane
