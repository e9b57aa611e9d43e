// SPDX-License-Identifier: Apache-2.0
// net.* sysctls of a namespace.
#pragma once

#include <string>
#include <vector>

#include "core/result.hpp"
#include "core/snapshot.hpp"
#include "linux/netns.hpp"

namespace fiplane {

/// `key` is a path below /proc/sys/net with slashes: "ipv4/conf/fg-41ab0005-50/proxy_arp" (names may hold dots).
[[nodiscard]] Result<std::string> read_sysctl(const Netns& netns, const std::string& key);
[[nodiscard]] Result<> write_sysctl(const Netns& netns, const std::string& key, const std::string& value);

/// What the walk needs, for the named devices.
[[nodiscard]] Result<Sysctls> read_sysctls(const Netns& netns, const std::vector<std::string>& devices);

}  // namespace fiplane
