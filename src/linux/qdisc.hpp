// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/result.hpp"
#include "linux/netns.hpp"

namespace fiplane {

/// Makes sure that a device has something to hang filters at its ingress on: a qdisc of kind `ingress`, unless it has
/// one or a `clsact`. Whoever takes it for its own (Neutron's QoS extensions, neutron/agent/linux/l3_tc_lib.py) looks
/// for the kind `ingress`; both kinds have the same handle (ffff:), and the kernel makes no one of the other. Before
/// Linux 6.6 fiplane's filters hang on it. Errors: ENODEV if there is no such device, EPERM.
[[nodiscard]] Result<> ensure_ingress_qdisc(const Netns& netns, int ifindex);

}  // namespace fiplane
