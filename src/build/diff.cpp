// SPDX-License-Identifier: Apache-2.0
#include "build/diff.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "build/diff_impl.hpp"
#include "build/names.hpp"

namespace fiplane::build {
namespace {

std::string describe_owner(const Link& link) {
    if (link.kind == "openvswitch") return "it is Open vSwitch's";
    if (!link.alias.empty()) return fmt::format("its alias is \"{}\"", link.alias);
    return link.kind.empty() ? "it is a physical device" : fmt::format("it is a {} without fiplane's mark", link.kind);
}

std::unexpected<Error> foreign_netns(const NetnsName& name, const ActualNetns& found) {
    return fail(ExitCode::kForeignObject,
                fmt::format("network namespace {} was made by somebody else, probably a Neutron L3 agent: {}", name,
                            found.evidence),
                {}, "nothing was changed; fiplane builds only where no L3 agent does");
}

std::unexpected<Error> foreign_device(const std::string& name, const Link& link) {
    return fail(ExitCode::kForeignObject,
                fmt::format("device {} was made by somebody else: {}", name, describe_owner(link)), {},
                "nothing was changed; remove or rename it, or give the network another bridge name");
}

}  // namespace

void Draft::add(Stage stage, const NetnsName& netns, Change change, Step::Action action, std::string object,
                std::string detail) {
    operations.push_back(
        {stage, netns, std::move(change), {Step{action, netns, std::move(object), std::move(detail)}}});
}

void Draft::sort() {
    std::ranges::stable_sort(operations, {}, &Operation::stage);
}

Result<Draft> NodeDiff::run() {
    if (auto checked = check_owners(); !checked) return pass_on(checked);
    netns_differences();
    device_differences();
    remove_stale_links();
    remove_stale_ports();
    for (const auto& [name, wanted] : desired_.netns) {
        sysctl_differences(name, wanted);
        address_differences(name, wanted);
        neighbour_differences(name, wanted);
        // The node's own routes and rules are its operator's.
        if (!name.empty()) {
            route_differences(name, wanted);
            rule_differences(name, wanted);
        }
        nft_differences(name, wanted);
        withdraw_translations(name, wanted);
    }
    fdb_differences();
    draft_.sort();
    return std::move(draft_);
}

const ActualNetns& NodeDiff::now(const NetnsName& netns) const {
    static const ActualNetns kEmpty;
    const auto found = actual_.netns.find(netns);
    return found == actual_.netns.end() ? kEmpty : found->second;
}

Result<> NodeDiff::check_mark(const std::string& mark, const std::string& where) const {
    if (!is_marked(mark) || mark == desired_.mark) return {};
    return fail(ExitCode::kForeignObject,
                fmt::format("{} belongs to topology \"{}\" and not to \"{}\"", where, mark.substr(kMarkPrefix.size()),
                            desired_.mark.substr(kMarkPrefix.size())),
                {}, "a node has one topology: run `fiplane teardown` first");
}

Result<> NodeDiff::check_owners() const {
    const ActualNetns& root = now("");
    for (const auto& [name, device] : desired_.netns.at("").devices) {
        const Link* link = root.link(name);
        if (link == nullptr || std::holds_alternative<VmPortKind>(device.kind)) continue;
        if (!is_marked(link->alias)) return foreign_device(name, *link);
    }
    for (const auto& [name, found] : actual_.netns) {
        if (!found.ours && desired_.netns.contains(name)) return foreign_netns(name, found);
    }
    for (const auto& [name, link] : root.links) {
        if (auto ours = check_mark(link.alias, fmt::format("device {}", name)); !ours) return ours;
    }
    for (const auto& [name, found] : actual_.netns) {
        if (name.empty()) continue;
        if (auto ours = check_mark(found.mark, fmt::format("network namespace {}", name)); !ours) return ours;
    }
    return {};
}

void NodeDiff::netns_differences() {
    for (const auto& [name, wanted] : desired_.netns) {
        if (actual_.netns.contains(name)) continue;
        draft_.add(Stage::kCreateNetns, name, CreateNetns{desired_.mark}, Step::Action::kAdd, "netns " + name);
    }
    for (const auto& [name, found] : actual_.netns) {
        if (name.empty() || found.mark != desired_.mark || desired_.netns.contains(name)) continue;
        draft_.add(Stage::kRemoveNetns, name, RemoveNetns{}, Step::Action::kRemove, "netns " + name);
        for (const auto& [fip, fixed] : translations_of(found.netfilter)) {
            draft_.withdrawn.insert({fip, fixed});
        }
    }
}

void NodeDiff::withdraw_translations(const NetnsName& name, const DesiredNetns& wanted) {
    if (name.empty()) return;
    std::map<Ipv4, Ipv4> kept;
    for (const auto& table : wanted.tables) {
        const auto in = table.maps.find(kFipInMap);
        if (in != table.maps.end()) kept = in->second;
    }
    for (const auto& [fip, fixed] : translations_of(now(name).netfilter)) {
        const auto found = kept.find(fip);
        if (found != kept.end() && found->second == fixed) continue;
        for (const Ipv4 address : {fip, fixed}) {
            draft_.withdrawn.insert(address);
            draft_.add(Stage::kFlushConntrack, name, FlushConntrack{address}, Step::Action::kRemove,
                       fmt::format("conntrack entries of {}", address.str()));
        }
    }
}

Result<Draft> diff(const DesiredNode& desired, const ActualNode& actual) {
    return NodeDiff(desired, actual).run();
}

Result<> check_underlay(const Topology& topology, std::size_t node, const ActualNode& actual) {
    const Node& here = topology.nodes[node];
    const ActualNetns& root = actual.netns.at("");
    const Link* underlay = root.link(here.underlay_device);
    if (underlay == nullptr) {
        std::string present;
        for (const auto& [name, link] : root.links)
            present += (present.empty() ? "" : ", ") + name;
        return fail(ExitCode::kMissingDevice,
                    fmt::format("node {} has no underlay device {}", here.name, here.underlay_device), {},
                    fmt::format("devices here: {}; is this node {}?", present, here.name));
    }
    std::string present;
    bool found = false;
    for (const auto& address : root.addresses) {
        if (address.ifindex != underlay->ifindex) continue;
        found = found || address.address.address == here.underlay_address;
        present += (present.empty() ? "" : ", ") + address.address.str();
    }
    if (!found) {
        return fail(ExitCode::kMissingDevice,
                    fmt::format("underlay device {} of node {} does not have the address {}", here.underlay_device,
                                here.name, here.underlay_address.str()),
                    {}, fmt::format("it has {}; is this node {}?", present.empty() ? "none" : present, here.name));
    }
    for (const std::size_t index : place(topology, node).networks) {
        const Network& network = topology.networks[index];
        const std::uint32_t needed = network.mtu + tunnel_overhead(network.type);
        if (needed <= underlay->mtu) continue;
        return fail(ExitCode::kBadTopology,
                    fmt::format("network {} has MTU {}, which needs {} on {}, and that has {}", network.name,
                                network.mtu, needed, here.underlay_device, underlay->mtu),
                    topology.file, "raise the underlay's MTU or lower the network's");
    }
    return {};
}

}  // namespace fiplane::build
