// SPDX-License-Identifier: Apache-2.0
// When the kernel is done with what follows from bringing devices up.
#pragma once

#include <string>
#include <vector>

#include "linux/netns.hpp"

namespace fiplane::test {

/// Waits until the kernel has announced the carrier of each of these devices (for 5 s, scaled; then throws). It does so
/// up to a second after they have got it (net/core/link_watch.c): until then what `ip` shows changes by itself, and a
/// device loses what it is given. For veth pairs and taps: a tunnel's state stays unknown.
void wait_for_carriers(const std::vector<std::string>& devices);
void wait_for_carriers(const Netns& netns, const std::vector<std::string>& devices);

}  // namespace fiplane::test
