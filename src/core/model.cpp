// SPDX-License-Identifier: Apache-2.0
#include "core/model.hpp"

#include <algorithm>

namespace fiplane {

const Node* Topology::find_node(std::string_view node_name) const {
    const auto found = std::ranges::find(nodes, node_name, &Node::name);
    return found == nodes.end() ? nullptr : &*found;
}

}  // namespace fiplane
