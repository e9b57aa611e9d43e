// SPDX-License-Identifier: Apache-2.0
// What an agent that followed others' routers has left pinned, read without loading a program: for taking it away with
// its flows in hand.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/result.hpp"
#include "core/snapshot.hpp"
#include "core/tables.hpp"
#include "datapath/bpf_map.hpp"

namespace fiplane {

class FlowTable {
  public:
    /// None if nothing of such an agent is below `pin_dir`. kForeignObject if an agent with a topology has its programs
    /// there, kFailed if the maps have another layout than this version.
    [[nodiscard]] static Result<std::optional<FlowTable>> open(const std::string& pin_dir);

    /// Devices that have a program, by namespace and name.
    [[nodiscard]] const std::vector<std::pair<NetnsName, std::string>>& devices() const { return devices_; }

    /// From when it returns, no program begins a flow, and each next packet of a flow takes it to Linux.
    [[nodiscard]] Result<> end_lease();
    /// Flows that the programs carry still.
    [[nodiscard]] Result<Table<fl_flow_key, fl_flow>> flows() const;
    /// Those that `wanted` picks, without a copy of the others.
    [[nodiscard]] Result<std::vector<fl_flow_key>> find(
        const std::function<bool(const fl_flow_key&, const fl_flow&)>& wanted) const;
    /// Absence is fine: the programs remove rows, too.
    [[nodiscard]] Result<> forget(const std::vector<fl_flow_key>& keys);

  private:
    using Config = Map<std::uint32_t, fl_config>;
    using Flows = Map<fl_flow_key, fl_flow>;
    FlowTable() = default;
    /// Of fl_config; 0: its maker ended before anything was attached.
    [[nodiscard]] Result<std::uint32_t> layout() const;

    std::vector<std::pair<NetnsName, std::string>> devices_;
    std::optional<Config> config_;  ///< absent where somebody has removed a part already, as is the next one
    std::optional<Flows> flows_;
};

}  // namespace fiplane
