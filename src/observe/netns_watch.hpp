// SPDX-License-Identifier: Apache-2.0
// One watched namespace: its notifications, what they made dirty, and the dumps that make it clean again.
#pragma once

#include <map>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "core/result.hpp"
#include "core/snapshot.hpp"
#include "linux/events.hpp"
#include "linux/netns.hpp"
#include "linux/rtnl.hpp"
#include "observe/observer.hpp"

namespace fiplane {

/// The parts of a namespace that are dumped each on its own.
struct Parts {
    bool links = false;  ///< with the sysctls, which have no notifications of their own
    bool addresses = false;
    bool routes = false;
    bool rules = false;
    bool neighbours = false;  ///< with the FDB
    bool netfilter = false;
    bool ipsec = false;
    bool ipv6_ways = false;  ///< of the node's own namespace

    [[nodiscard]] static Parts everything() { return {true, true, true, true, true, true, true, true}; }
    [[nodiscard]] bool any() const {
        return links || addresses || routes || rules || neighbours || netfilter || ipsec || ipv6_ways;
    }
    /// Those that `other` has, too.
    [[nodiscard]] Parts within(const Parts& other) const {
        return {links && other.links, addresses && other.addresses,   routes && other.routes,
                rules && other.rules, neighbours && other.neighbours, netfilter && other.netfilter,
                ipsec && other.ipsec, ipv6_ways && other.ipv6_ways};
    }
};

/// Local address, peer and device of a way over IPv6 that a vxlan device's table asks for.
using Ipv6Peer = std::tuple<IpAddress, IpAddress, int>;

class NetnsWatch {
  public:
    /// Subscribes first and leaves everything dirty, so nothing that happens before the first dump is missed.
    /// `watched`: what is read at all; the rest of the view stays empty.
    [[nodiscard]] static Result<NetnsWatch> open(Netns netns, const Parts& watched);

    [[nodiscard]] const Netns& netns() const { return netns_; }
    /// For epoll.
    [[nodiscard]] std::vector<int> fds() const;

    /// Drains the notifications and marks what they were about.
    EventBatch receive();
    void mark_everything() {
        dirty_ = watched_;
        is_whole_ = true;
        checking_ = false;
    }
    /// To read everything only in order to see whether something has changed without a notification: a change is what
    /// differs, then.
    void mark_for_check() {
        checking_ = checking_ || !dirty_.any();
        dirty_ = watched_;
        is_whole_ = true;
    }
    /// What changes of them without a notification (path MTUs, IPv6's own MTU of a device) is to be read again.
    void mark_ipv6_ways() { dirty_.ipv6_ways = dirty_.ipv6_ways || has_ipv6_ways_; }
    [[nodiscard]] bool is_dirty() const { return dirty_.any(); }
    /// The next refresh() reads everything, and not because each part has changed.
    [[nodiscard]] bool is_all_dirty() const { return is_whole_; }

    /// Dumps the dirty parts into `view`. `others` are the namespaces in which the other ends of veths may be;
    /// `foreign_programs` may be empty. What fails stays dirty; the rest is done and the first failure returned.
    [[nodiscard]] Result<> refresh(NetnsView& view, const std::vector<const Netns*>& others,
                                   const ForeignPrograms& foreign_programs, Changes& changes);

    /// A namespace came to be watched: veths whose other end could not be named may lead there.
    void other_appeared();
    /// A namespace is watched no more: the kernel may give its nsid to another one.
    void other_vanished(const NetnsName& name);

    [[nodiscard]] Result<> use_neighbour(int ifindex, const IpAddress& address) {
        return rtnl_.use_neighbour(ifindex, address);
    }
    [[nodiscard]] Result<bool> refresh_fdb(int ifindex, const Mac& mac, const std::optional<IpAddress>& destination) {
        return rtnl_.refresh_fdb(ifindex, mac, destination);
    }

  private:
    NetnsWatch(Netns netns, Rtnl rtnl, NetnsEvents events, const Parts& watched)
        : netns_(std::move(netns)),
          rtnl_(std::move(rtnl)),
          events_(std::move(events)),
          watched_(watched),
          dirty_(watched) {}

    [[nodiscard]] Result<std::map<int, Link>> dump_links(const std::vector<const Netns*>& others);
    [[nodiscard]] Result<Sysctls> dump_sysctls(const std::map<int, Link>& links);
    [[nodiscard]] bool learn_nsids(const std::vector<const Netns*>& others);

    [[nodiscard]] Result<> refresh_links(NetnsView& view, const std::vector<const Netns*>& others,
                                         const ForeignPrograms& foreign_programs, Changes& changes);
    [[nodiscard]] Result<> refresh_neighbours(NetnsView& view, Changes& changes);
    [[nodiscard]] Result<> refresh_netfilter(NetnsView& view, bool checking, Changes& changes);
    [[nodiscard]] Result<> refresh_ipv6_ways(NetnsView& view, Changes& changes);
    [[nodiscard]] Result<std::vector<Ipv6Way>> read_ipv6_ways(const NetnsView& view, const std::set<Ipv6Peer>& peers);

    Netns netns_;
    Rtnl rtnl_;
    NetnsEvents events_;
    Parts watched_;
    Parts dirty_;
    bool is_whole_ = true;
    std::map<int, NetnsName> nsid_names_;
    bool checking_ = false;  ///< see mark_for_check()
    bool unnamed_peers_ = false;
    bool has_ipv6_ways_ = false;    ///< else IPv6's notifications, of which hosts make many, matter to nobody
    bool ask_for_programs_ = true;  ///< of every device, as a full dump does
    bool programs_changed_ = false;
};

}  // namespace fiplane
