// SPDX-License-Identifier: Apache-2.0
#include "core/snapshot.hpp"

namespace fiplane {

namespace {

bool has_prefix(const IpAddress& address, const IpAddress& prefix, std::uint8_t length) {
    const auto bits = [](const IpAddress& value, std::size_t byte) { return value.bytes()[byte]; };
    for (std::size_t byte = 0; byte * 8 < length; ++byte) {
        const unsigned rest = length - static_cast<unsigned>(byte * 8);
        const unsigned mask = rest >= 8 ? 0xffU : 0xffU << (8 - rest) & 0xffU;
        if (((bits(address, byte) ^ bits(prefix, byte)) & mask) != 0) return false;
    }
    return true;
}

}  // namespace

bool IpsecPolicy::concerns(const IpAddress& from, const IpAddress& to) const {
    return has_prefix(from, source, source_length) && has_prefix(to, destination, destination_length);
}

std::string Link::program_refusal() const {
    if (!foreign_programs.empty()) return name + " has a foreign program: " + foreign_programs.front();
    return unserved.empty() ? std::string{} : name + " has no program: " + unserved;
}

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
