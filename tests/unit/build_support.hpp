// SPDX-License-Identifier: Apache-2.0
// From the text of a topology to what build holds against a node, for tests of a topology that must be right.
#pragma once

#include <catch2/catch_test_macros.hpp>
#include <initializer_list>
#include <string_view>
#include <utility>

#include "build/diff.hpp"
#include "topology/load.hpp"

namespace fiplane::build {

inline Topology load_cloud(std::string_view text) {
    auto loaded = parse_topology(text, "cloud.yaml");
    INFO(format_mistakes(loaded.mistakes, "cloud.yaml"));
    REQUIRE(loaded.topology);
    return *std::move(loaded.topology);
}

inline DesiredNode desired_node(const Topology& topology, std::size_t index, const Allocations& allocations = {}) {
    auto desired = desire(topology, index, allocations);
    INFO((desired ? "" : desired.error().message()));
    REQUIRE(desired);
    return *std::move(desired);
}

/// A node whose root namespace has these devices and nothing else.
inline ActualNode node_with(std::initializer_list<const char*> devices) {
    ActualNode out;
    ActualNetns& root = out.netns[""];
    root.ours = true;
    int index = 0;
    for (const char* name : devices) {
        Link link;
        link.ifindex = ++index;
        link.name = name;
        link.mtu = 1500;
        link.admin_up = true;
        root.names[index] = name;
        root.links[name] = link;
    }
    return out;
}

}  // namespace fiplane::build
