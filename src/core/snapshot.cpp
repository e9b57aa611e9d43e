// SPDX-License-Identifier: Apache-2.0
#include "core/snapshot.hpp"

namespace fiplane {

const Link* NetnsView::find_link(const std::string& link_name) const {
    for (const auto& [ifindex, candidate] : links) {
        if (candidate.name == link_name) return &candidate;
    }
    return nullptr;
}

const Link* NetnsView::link(int ifindex) const {
    const auto found = links.find(ifindex);
    return found == links.end() ? nullptr : &found->second;
}

const NetnsView* Snapshot::netns(const NetnsName& name) const {
    if (name.empty()) return &root;
    const auto found = routers.find(name);
    return found == routers.end() ? nullptr : &found->second;
}

}  // namespace fiplane
