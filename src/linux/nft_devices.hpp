// SPDX-License-Identifier: Apache-2.0
// The devices of netdev base chains, straight from nf_tables: libnftables 1.0.6 leaves them out of its JSON. Private to
// this folder.
#pragma once

#include <string>
#include <vector>

#include "core/result.hpp"
#include "linux/netns.hpp"
#include "linux/nl_socket.hpp"

namespace fiplane::nft {

/// A netdev base chain's devices.
struct ChainDevices {
    std::string table;
    std::string chain;
    std::vector<std::string> devices;
    bool wildcard = false;  ///< bound to all devices with a prefix
};

[[nodiscard]] Result<std::vector<ChainDevices>> list_chain_devices(const Netns& netns);

}  // namespace fiplane::nft
