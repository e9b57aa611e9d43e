// SPDX-License-Identifier: Apache-2.0
// From the text of a topology to what build holds against a node, for tests of a topology that must be right.
#pragma once

#include <catch2/catch_test_macros.hpp>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "build/diff.hpp"
#include "topology/load.hpp"

namespace fiplane::build {

inline Topology load_cloud(std::string_view text) {
    auto loaded = parse_topology(text, "cloud.yaml");
    INFO(format_mistakes(loaded.mistakes, "cloud.yaml"));
    REQUIRE(loaded.topology);
    return *std::move(loaded.topology);
}

/// What users are shown. `before`: keys that the file does not have.
inline Topology load_example(const std::string& name, const std::string& before = {}) {
    std::ifstream file(FIPLANE_SOURCE_DIR "/examples/" + name + ".yaml");
    REQUIRE(file);
    return load_cloud(before + std::string(std::istreambuf_iterator(file), {}));
}

inline DesiredNode desired_node(const Topology& topology, std::size_t index, const Allocations& allocations = {}) {
    auto desired = desire(topology, index, allocations);
    INFO((desired ? "" : desired.error().message()));
    REQUIRE(desired);
    return *std::move(desired);
}

/// A namespace's tables but for the chain that lowers the MSS, which every router has.
inline std::vector<NftTable> without_mss(std::vector<NftTable> tables) {
    for (NftTable& table : tables)
        std::erase_if(table.chains, [](const NftChain& chain) { return chain.name == "mss"; });
    std::erase_if(tables, [](const NftTable& table) { return table.chains.empty(); });
    return tables;
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
