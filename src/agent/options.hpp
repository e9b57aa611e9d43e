// SPDX-License-Identifier: Apache-2.0
// What the command line says to the agent.
#pragma once

#include <string>

#include "agent/control_protocol.hpp"
#include "build/builder.hpp"
#include "datapath/datapath.hpp"

namespace fiplane {

struct AgentOptions {
    std::string topology_file;  ///< empty: nothing is built here; routers that somebody else builds are followed
    std::string node;
    std::string socket = kDefaultSocket;
    bool fast_path = true;
    BuildOptions build;
    DatapathOptions datapath;

    [[nodiscard]] bool follows() const { return topology_file.empty(); }
};

}  // namespace fiplane
