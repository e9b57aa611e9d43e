// SPDX-License-Identifier: Apache-2.0
#include "build/names.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace fiplane::build {
namespace {

/// neutron-lib constants.py, LINUX_DEV_LEN.
constexpr std::size_t kDeviceLength = 14;

std::string cut(std::string_view prefix, const std::string& id) {
    return fmt::format("{}{}", prefix, id).substr(0, kDeviceLength);
}

bool starts_with_any(std::string_view text, std::initializer_list<std::string_view> prefixes) {
    return std::ranges::any_of(prefixes, [&](std::string_view prefix) { return text.starts_with(prefix); });
}

}  // namespace

std::string mark_of(const std::string& topology_name) {
    return std::string{kMarkPrefix} + topology_name;
}

bool is_marked(std::string_view alias) {
    return alias.starts_with(kMarkPrefix);
}

NetnsName router_netns(const Router& router) {
    return "qrouter-" + router.id;
}

NetnsName fip_netns(const Network& network) {
    return "fip-" + network.id;
}

NetnsName snat_netns(const Router& router) {
    return "snat-" + router.id;
}

bool is_router_like(std::string_view netns) {
    return starts_with_any(netns, {"qrouter-", "fip-", "snat-"});
}

std::string rfp_device(const Router& router) {
    return cut("rfp-", router.id);
}

std::string fpr_device(const Router& router) {
    return cut("fpr-", router.id);
}

std::string leg_device(const Port& port) {
    return cut("tap", port.id);
}

bool is_router_device(std::string_view device) {
    return starts_with_any(device, {"qr-", "qg-", "fg-", "sg-", "rfp-", "fpr-"});
}

Mac derived_mac(std::string_view seed) {
    // FNV-1a, 64 bit: stable over compilers and releases, unlike std::hash.
    std::uint64_t hash = 0xcbf29ce484222325;
    for (const char character : seed) {
        hash ^= static_cast<unsigned char>(character);
        hash *= 0x100000001b3;
    }
    hash ^= hash >> 32;
    return {{0xfe, 0x16, 0x3e, static_cast<std::uint8_t>(hash >> 16), static_cast<std::uint8_t>(hash >> 8),
             static_cast<std::uint8_t>(hash)}};
}

}  // namespace fiplane::build
