// SPDX-License-Identifier: Apache-2.0
// What `fiplane status` and `fiplane explain` say, as JSON with stable keys (docs/fiplane.8.md documents them).
// Pure: the agent hands in everything.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "agent/control_protocol.hpp"
#include "agent/fast_path.hpp"
#include "agent/problems.hpp"
#include "core/compile.hpp"
#include "core/model.hpp"
#include "core/neutron.hpp"
#include "datapath/datapath.hpp"
#include "observe/observer.hpp"

namespace fiplane {

struct AgentStatus {
    std::string node;
    const Topology* topology = nullptr;  ///< null: routers that somebody else built are followed
    std::vector<NeutronRouter> routers;  ///< those that have a namespace here, whoever built it
    int pid = 0;
    std::chrono::seconds uptime{};
    bool fast_path = false;
    const Compiled* compiled = nullptr;
    const std::set<Ipv4>* left_out = nullptr;
    std::vector<Attachment> attachments;
    std::vector<CounterValue> counters;
    std::map<Ipv4, FipCounters> fip_counters;
    std::vector<std::string> waiting_for;
    const Problems* problems = nullptr;
    Observer::Counters observer;
    FastPath::Statistics fast_path_statistics;
    std::uint64_t changes_applied = 0;        ///< steps of the builder
    std::uint64_t confirmations = 0;          ///< neighbours kept alive
    std::uint64_t refreshes = 0;              ///< learned entries kept alive
    std::chrono::microseconds last_change{};  ///< from the notification to the last row written
};

[[nodiscard]] nlohmann::json status_json(const AgentStatus& status);

/// Packets that BPF finished as a share of all overlay unicast that it saw, and the number of the latter.
struct Share {
    std::uint64_t fast = 0;
    std::uint64_t counted = 0;                   ///< fast, slow and dropped
    [[nodiscard]] nlohmann::json ratio() const;  ///< null if nothing was counted
};
[[nodiscard]] Share share_of(const std::vector<CounterValue>& counters);

/// Everything known about what `text` names: a floating IP, a fixed IP, a router's namespace or its id. The walks of
/// this node ("here"; several, if tenants share a fixed address) and what the topology has without a walk here
/// ("elsewhere"). kFailed if nobody knows it, kUsage if it can be none of these.
[[nodiscard]] Result<nlohmann::json> explain_json(const AgentStatus& status, const std::string& text);

}  // namespace fiplane
