// SPDX-License-Identifier: Apache-2.0
// Every row rests on certain Linux objects: each object of the snapshot is taken away in turn. The lists of what must
// kill a row are written by hand; everything else must leave it as it is.
#include <catch2/catch_test_macros.hpp>
#include <set>

#include "walk_expect.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

struct Removal {
    std::string name;
    Snapshot rest;
};

std::string short_name(const NetnsName& name) {
    return name.empty() ? "root" : name.substr(0, name.find('-'));
}

std::string device(const NetnsView& view, int ifindex) {
    const Link* link = view.link(ifindex);
    return link == nullptr ? std::to_string(ifindex) : link->name;
}

NetnsView& view_of(Snapshot& snapshot, const NetnsName& name) {
    return name.empty() ? snapshot.root : snapshot.routers.at(name);
}

/// One removal for each object of one namespace; `edit` takes the object away from a copy.
class Removals {
  public:
    explicit Removals(const Snapshot& whole) : whole_(whole) {
        add_all({});
        for (const auto& [name, view] : whole.routers)
            add_all(name);
    }
    std::vector<Removal> all;

  private:
    template <typename Edit>
    void add(const NetnsName& netns, const std::string& what, Edit edit) {
        Removal removal{short_name(netns) + " " + what, whole_};
        edit(view_of(removal.rest, netns));
        all.push_back(std::move(removal));
    }

    template <typename T, typename Name>
    void each(const NetnsName& netns, std::vector<T> NetnsView::* list, Name name) {
        Snapshot copy = whole_;
        const NetnsView& view = view_of(copy, netns);
        for (std::size_t i = 0; i < (view.*list).size(); ++i) {
            add(netns, name((view.*list)[i]), [&](NetnsView& edited) {
                (edited.*list).erase((edited.*list).begin() + static_cast<std::ptrdiff_t>(i));
            });
        }
    }

    void add_all(const NetnsName& netns) {
        Snapshot copy = whole_;
        const NetnsView& view = view_of(copy, netns);
        for (const auto& [ifindex, link] : view.links) {
            add(netns, "link " + link.name, [&](NetnsView& edited) { edited.links.erase(ifindex); });
        }
        each(netns, &NetnsView::addresses, [&](const Address& a) { return "address " + a.address.str(); });
        each(netns, &NetnsView::routes, [&](const Route& r) {
            return fmt::format("route {} dev {} table {}", r.destination.str(), device(view, r.oif), r.table);
        });
        each(netns, &NetnsView::rules, [](const PolicyRule& r) { return fmt::format("rule {}", r.priority); });
        each(netns, &NetnsView::neighbours, [&](const Neighbour& n) {
            return fmt::format("neighbour {} dev {}", n.address.str(), device(view, n.ifindex));
        });
        each(netns, &NetnsView::fdb, [&](const FdbEntry& e) {
            return fmt::format("fdb {} dev {}{}", e.mac.str(), device(view, e.ifindex),
                               e.destination ? " dst " + e.destination->str() : "");
        });
        for (const auto& [name, settings] : view.sysctls.devices) {
            add(netns, "sysctl " + name, [&](NetnsView& edited) { edited.sysctls.devices.erase(name); });
        }
        for (const auto& [name, map] : view.netfilter.maps) {
            for (const auto& [key, value] : map) {
                add(netns, "element " + key.str(), [&](NetnsView& edited) { edited.netfilter.maps[name].erase(key); });
            }
        }
        for (std::size_t i = 0; i < view.netfilter.chains.size(); ++i) {
            add(netns, "chain " + view.netfilter.chains[i].name, [&](NetnsView& edited) {
                edited.netfilter.chains.erase(edited.netfilter.chains.begin() + static_cast<std::ptrdiff_t>(i));
            });
        }
    }

    const Snapshot& whole_;
};

/// The names of all removals after which `row_of` gives something else than before.
template <typename RowOf>
std::set<std::string> what_matters(const Snapshot& whole, RowOf row_of) {
    const std::string before = row_of(compile(whole, scope()).tables);
    REQUIRE(before != "none");
    std::set<std::string> names;
    for (const Removal& removal : Removals(whole).all) {
        const std::string after = row_of(compile(removal.rest, scope()).tables);
        if (after != before) names.insert(removal.name);
    }
    return names;
}

template <typename K, typename V>
std::string row(const Table<K, V>& table, const K& key) {
    const auto found = table.find(key);
    return found == table.end() ? "none" : hex(found->second);
}

/// Between br-ex and the VM a: both router namespaces and all veth pairs.
const std::set<std::string> kWayIn{
    "root link br-ex", "root link tap41ab0005-50", "root link brq11111111-11", "root link tap21ab0001-10",
    "root link tapaaaaaaaa-aa", "root fdb fa:16:3e:00:01:11 dev tapaaaaaaaa-aa", "fip link fg-41ab0005-50",
    "fip link fpr-7b1f3c52-9", "fip rule 32766", "fip sysctl fg-41ab0005-50",
    "fip route 172.24.5.11/32 dev fpr-7b1f3c52-9 table 254", "fip neighbour 169.254.88.134 dev fpr-7b1f3c52-9",
    "qrouter link rfp-7b1f3c52-9", "qrouter link qr-21ab0001-10", "qrouter rule 32766", "qrouter sysctl rfp-7b1f3c52-9",
    "qrouter route 10.0.0.0/24 dev qr-21ab0001-10 table 254", "qrouter neighbour 10.0.0.11 dev qr-21ab0001-10",
    // Both directions of the translation, and their twins for invalid packets.
    "qrouter element 172.24.5.11", "qrouter element 10.0.0.11", "qrouter chain prerouting", "qrouter chain postrouting",
    "qrouter chain invalid_in"};

}  // namespace

TEST_CASE("a floating IP's row rests on exactly the objects of its journey") {
    const auto found = what_matters(
        dvr_snapshot(), [](const Tables& tables) { return row(tables.fip_in, fip_row_key(kBrEx, "172.24.5.11")); });
    CHECK(found == kWayIn);
}

TEST_CASE("a VM's row rests on what the filter, the rules and both translations need") {
    const auto found = what_matters(dvr_snapshot(), [](const Tables& tables) {
        std::string text = row(tables.vms, vm_key(kTapA, "10.0.0.11"));
        const auto out = tables.vms.find(vm_key(kTapA, "10.0.0.11"));
        if (out == tables.vms.end()) return text;
        return text + row(tables.routes, route_row_key(out->second.domain, "0.0.0.0/0"));
    });
    const std::set<std::string> wanted{
        // From the port to the router ...
        "root link brq11111111-11", "root link tap21ab0001-10", "root link tapaaaaaaaa-aa",
        "root fdb fa:16:3e:00:01:11 dev tapaaaaaaaa-aa", "qrouter neighbour 10.0.0.11 dev qr-21ab0001-10",
        "qrouter link qr-21ab0001-10", "qrouter sysctl qr-21ab0001-10",
        // ... through it (32767 stands before the FIP's rule: it only names the domain) ...
        "qrouter rule 32767", "qrouter rule 44590", "qrouter route 0.0.0.0/0 dev rfp-7b1f3c52-9 table 16",
        "qrouter link rfp-7b1f3c52-9", "qrouter neighbour 169.254.88.135 dev rfp-7b1f3c52-9",
        "qrouter element 172.24.5.11", "qrouter element 10.0.0.11", "qrouter chain prerouting",
        "qrouter chain postrouting", "qrouter chain invalid_out",
        // ... and by the default route of the fip namespace to the gateway behind the tunnel.
        "fip link fpr-7b1f3c52-9", "fip link fg-41ab0005-50", "fip sysctl fpr-7b1f3c52-9", "fip rule 2852018311",
        "fip route 0.0.0.0/0 dev fg-41ab0005-50 table 2852018311", "fip neighbour 172.24.4.1 dev fg-41ab0005-50",
        "root link tap41ab0005-50", "root link br-ex", "root link vxlan-100", "root link eth0",
        "root fdb fa:16:3e:00:00:01 dev vxlan-100", "root fdb fa:16:3e:00:00:01 dev vxlan-100 dst 198.51.100.1",
        "root neighbour 198.51.100.1 dev eth0", "root route 198.51.100.0/24 dev eth0 table 254", "root rule 32766"};
    CHECK(found == wanted);
}

TEST_CASE("a hairpin rests on the whole way out and in") {
    const auto found = what_matters(dvr_snapshot(), [](const Tables& tables) {
        // b sends to the floating IP of a.
        const auto out = tables.vms.find(vm_key(kTapB, "10.0.0.12"));
        if (out == tables.vms.end()) return std::string("none");
        return row(tables.dests, dest_row_key(out->second.domain, "172.24.5.11"));
    });
    // The way in does not start on br-ex here.
    std::set<std::string> wanted = kWayIn;
    for (const char* name : {"root link br-ex", "root link tap41ab0005-50", "fip link fg-41ab0005-50",
                             "fip sysctl fg-41ab0005-50", "qrouter element 10.0.0.11"}) {
        wanted.erase(name);
    }
    CHECK(std::ranges::includes(found, wanted));
    CHECK(std::ranges::includes(
        found, std::set<std::string>{"fip sysctl fpr-7b1f3c52-9", "qrouter rule 71189",
                                     "qrouter route 0.0.0.0/0 dev rfp-7b1f3c52-9 table 16", "qrouter element 10.0.0.12",
                                     "qrouter chain invalid_out", "root fdb fa:16:3e:00:01:12 dev tapbbbbbbbb-bb"}));
    CHECK_FALSE(found.contains("root link vxlan-100"));
    CHECK_FALSE(found.contains("root link tapdddddddd-dd"));
}

TEST_CASE("taking something away never makes more of the journeys fast") {
    const Snapshot whole = dvr_snapshot();
    const Tables before = compile(whole, scope()).tables;
    for (const Removal& removal : Removals(whole).all) {
        // Without a rule or a filter Linux does something else, which may be fast as well.
        const bool opens = removal.name.find("chain") != std::string::npos ||
                           removal.name.find("rule") != std::string::npos ||
                           removal.name.find("sysctl") != std::string::npos;
        if (opens) continue;
        INFO(removal.name);
        const Tables after = compile(removal.rest, scope()).tables;
        for (const auto& [key, value] : after.fip_in)
            CHECK(before.fip_in.contains(key));
        for (const auto& [key, value] : after.vms)
            CHECK(before.vms.contains(key));
    }
}
