// SPDX-License-Identifier: Apache-2.0
// IPsec of one namespace: whether its policies may wrap or refuse packets (net/xfrm).
#pragma once

#include <vector>

#include "core/result.hpp"
#include "core/snapshot.hpp"
#include "linux/netns.hpp"

namespace fiplane {

/// Whether the kernel has IPsec's netlink interface (xfrm_user, which this loads).
[[nodiscard]] bool kernel_has_ipsec();

/// Policies of all directions, sockets' own aside, in the kernel's order; behind them one for everybody for each
/// direction in which the default is to refuse. None on a kernel without IPsec.
[[nodiscard]] Result<std::vector<IpsecPolicy>> list_ipsec_policies(const Netns& netns);

}  // namespace fiplane
