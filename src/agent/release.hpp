// SPDX-License-Identifier: Apache-2.0
// Leaving routers that somebody else built to Linux, with the flows that the programs carry there.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/result.hpp"
#include "core/snapshot.hpp"
#include "datapath/flow_table.hpp"

namespace fiplane {

/// What became of the flows that programs carried at routers that somebody else built.
struct Release {
    struct Router {
        std::vector<std::string> devices;
        std::size_t flows = 0;
    };
    std::map<NetnsName, Router> routers;
    std::size_t flows = 0;                        ///< that Linux goes on with
    std::map<std::string, std::size_t> left_out;  ///< flows, by the reason why
    std::vector<Error> refusals;                  ///< of Linux, one a namespace
};

/// Ends the lease and gives conntrack an entry for each flow. Programs and maps stay, for whoever removes them next.
/// `step` (may be empty) is told of each namespace when its rules are read and when its flows go over, and how many
/// such steps there are in all.
[[nodiscard]] Result<Release> release_flows(FlowTable& table,
                                            const std::function<void(const NetnsName&, std::size_t)>& step = {});

/// Removes the rows of flows that conntrack would have forgotten. How many.
[[nodiscard]] Result<std::size_t> forget_flows(FlowTable& table);

}  // namespace fiplane
