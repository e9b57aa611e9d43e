// SPDX-License-Identifier: Apache-2.0
#include "build/actual.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "build/names.hpp"
#include "linux/netns.hpp"
#include "linux/nft.hpp"
#include "linux/rtnl.hpp"
#include "linux/sysctl.hpp"

namespace fiplane::build {
namespace {

/// Moves a dump into `out`, or hands its error on.
template <typename T>
Result<> store(Result<T> dumped, T& out) {
    if (!dumped) return pass_on(dumped);
    out = std::move(*dumped);
    return {};
}

Result<> read_links(Rtnl& rtnl, const NetnsName& name, ActualNetns& out) {
    // veth ends are paired by their indices, so no namespace ids are needed.
    auto links = rtnl.links({}, name);
    if (!links) return pass_on(links);
    for (auto& [ifindex, link] : *links) {
        out.names.emplace(ifindex, link.name);
        out.links.emplace(link.name, std::move(link));
    }
    return {};
}

Result<> read_all(const Netns& netns, Rtnl& rtnl, ActualNetns& out) {
    if (auto done = store(rtnl.addresses(), out.addresses); !done) return done;
    if (netns.name().empty()) {
        if (auto done = store(rtnl.ipv6_addresses(), out.ipv6_addresses); !done) return done;
    }
    if (auto done = store(rtnl.routes(), out.routes); !done) return done;
    if (auto done = store(rtnl.rules(), out.rules); !done) return done;
    if (auto done = store(rtnl.neighbours(), out.neighbours); !done) return done;
    if (auto done = store(rtnl.fdb(), out.fdb); !done) return done;
    out.has_ipv6 = read_sysctl(netns, "ipv6/conf/all/disable_ipv6").has_value();
    return store(read_ruleset(netns), out.netfilter);
}

/// What says whose a namespace without our mark is: the chains of a Neutron agent, else devices.
std::string evidence_in(const Netns& netns, const ActualNetns& found) {
    if (auto ruleset = read_ruleset(netns)) {
        const auto chain = std::ranges::find_if(
            ruleset->chains, [](const nf::Chain& each) { return each.name.find("l3-agent-") != std::string::npos; });
        if (chain != ruleset->chains.end()) return fmt::format("it has the chain {}", chain->name);
        for (const auto* opaque : {&ruleset->opaque, &ruleset->opaque_ipv4}) {
            if (!opaque->empty()) return fmt::format("it has {}", opaque->front());
        }
    }
    const auto device = std::ranges::find_if(found.links, [](const auto& each) { return each.first != "lo"; });
    if (device != found.links.end()) return fmt::format("it has the device {}", device->first);
    return "it is empty";
}

Result<ActualNetns> read_netns(const Netns& netns) {
    ActualNetns out;
    auto rtnl = Rtnl::open(netns);
    if (!rtnl) {
        // A name that another tool left below /run/netns without a namespace behind it.
        if (netns.name().empty()) return pass_on(rtnl);
        out.evidence = "it cannot be entered: " + rtnl.error().what;
        return out;
    }
    if (auto done = read_links(*rtnl, netns.name(), out); !done) return pass_on(done);
    if (const Link* lo = out.link("lo"); lo != nullptr) out.mark = lo->alias;
    out.ours = netns.name().empty() || is_marked(out.mark);
    if (!out.ours) {
        out.evidence = evidence_in(netns, out);
        return out;
    }
    if (auto done = read_all(netns, *rtnl, out); !done) return pass_on(done);
    return out;
}

}  // namespace

const Link* ActualNetns::link(const std::string& name) const {
    const auto found = links.find(name);
    return found == links.end() ? nullptr : &found->second;
}

Result<ActualNode> read_actual() {
    ActualNode node;
    auto own = Netns::current();
    if (!own) return pass_on(own);
    auto root = read_netns(*own);
    if (!root) return pass_on(root);
    node.netns.emplace("", std::move(*root));
    const auto names = Netns::list();
    if (!names) return std::unexpected(names.error());
    for (const auto& name : *names) {
        if (!is_router_like(name)) continue;
        auto netns = Netns::open(name);
        if (!netns) return pass_on(netns);
        auto read = read_netns(*netns);
        if (!read) return pass_on(read);
        node.netns.emplace(name, std::move(*read));
    }
    return node;
}

Result<ActualNode> read_underlay() {
    ActualNode node;
    auto own = Netns::current();
    if (!own) return pass_on(own);
    auto rtnl = Rtnl::open(*own);
    if (!rtnl) return pass_on(rtnl);
    ActualNetns root;
    root.ours = true;
    if (auto done = read_links(*rtnl, "", root); !done) return pass_on(done);
    if (auto done = store(rtnl->addresses(), root.addresses); !done) return pass_on(done);
    if (auto done = store(rtnl->ipv6_addresses(), root.ipv6_addresses); !done) return pass_on(done);
    node.netns.emplace("", std::move(root));
    return node;
}

Result<> read_sysctls_for(const DesiredNode& desired, ActualNode& actual) {
    for (const auto& [name, wanted] : desired.netns) {
        const auto found = actual.netns.find(name);
        if (found == actual.netns.end() || !found->second.ours) continue;
        auto netns = name.empty() ? Netns::current() : Netns::open(name);
        if (!netns) return pass_on(netns);
        for (const auto& sysctl : wanted.sysctls) {
            // One that cannot be read belongs to a device or a module that is not there yet.
            if (auto value = read_sysctl(*netns, sysctl.key)) found->second.sysctls.emplace(sysctl.key, *value);
        }
    }
    return {};
}

std::optional<Ipv4> live_pair(const ActualNode& actual, const Router& router) {
    const auto netns = actual.netns.find(router_netns(router));
    if (netns == actual.netns.end() || !netns->second.ours) return std::nullopt;
    const Link* rfp = netns->second.link(rfp_device(router));
    if (rfp == nullptr) return std::nullopt;
    for (const auto& address : netns->second.addresses) {
        if (address.ifindex == rfp->ifindex && address.address.length == 31) return address.address.address;
    }
    return std::nullopt;
}

std::map<Ipv4, std::uint32_t> live_priorities(const ActualNode& actual, const Router& router) {
    std::map<Ipv4, std::uint32_t> out;
    const auto netns = actual.netns.find(router_netns(router));
    if (netns == actual.netns.end() || !netns->second.ours) return out;
    for (const auto& rule : netns->second.rules) {
        if (rule.source.length == 32 && rule.table == kFipTable) out.emplace(rule.source.address, rule.priority);
    }
    return out;
}

}  // namespace fiplane::build
