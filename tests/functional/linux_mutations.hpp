// SPDX-License-Identifier: Apache-2.0
// Random changes of what Linux holds, as an operator or another program could make them by hand.
#pragma once

#include <random>
#include <string>
#include <vector>

#include "core/snapshot.hpp"

namespace fiplane::test {

using Random = std::mt19937;

/// A command, ready to run in the node's own namespaces, and what it does in a few words.
struct Mutation {
    std::string what;
    std::vector<std::string> command;
};

/// Any index below `size`, which is not 0.
[[nodiscard]] std::size_t pick(Random& random, std::size_t size);

/// One change that is possible in the state that `snapshot` shows: a link's state, MTU, master, bridge options or
/// existence, an address, route, rule, neighbour, FDB entry, NAT map element, netfilter rule, forwarding sysctl or a
/// whole namespace. Half of them remove something. Commands may fail, as things depend on each other.
[[nodiscard]] Mutation random_mutation(Random& random, const Snapshot& snapshot);

}  // namespace fiplane::test
