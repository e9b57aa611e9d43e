// SPDX-License-Identifier: Apache-2.0
// The difference between what a node must hold and what it holds, as an ordered list of changes. Pure: reads nothing.
#pragma once

#include <set>
#include <string>

#include "build/actual.hpp"
#include "build/desired.hpp"
#include "build/operations.hpp"

namespace fiplane::build {

/// Everything but allocations. kForeignObject: a needed name belongs to somebody else; kMissingDevice: the underlay
/// device or its address is not there.
[[nodiscard]] Result<Draft> diff(const DesiredNode& desired, const ActualNode& actual);

/// Everything on the node that carries our mark, whatever topology made it.
[[nodiscard]] Draft diff_teardown(const ActualNode& actual);

/// kMissingDevice if a physical network's device that the node needs is not there. Only for who starts: later its
/// absence keeps nothing else from being built.
[[nodiscard]] Result<> check_physical_devices(const Topology& topology, std::size_t node, const ActualNode& actual);

/// The underlay device, its address, and whether the MTUs of networks fit into those of their devices.
[[nodiscard]] Result<> check_underlay(const Topology& topology, std::size_t node, const ActualNode& actual);

}  // namespace fiplane::build
