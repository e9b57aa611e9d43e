// SPDX-License-Identifier: Apache-2.0
// What must be true of the system before a BPF program is loaded, checked one by one so that each lack has its own
// message: a load that fails deep inside libbpf says only EPERM or EINVAL.
#pragma once

#include <string>

#include "core/result.hpp"

namespace fiplane {

/// CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON in the effective set (CAP_SYS_ADMIN stands for the first and the last).
[[nodiscard]] Result<> check_capabilities();

/// The kernel describes its own types, which maps and programs refer to.
[[nodiscard]] Result<> check_kernel_btf();

/// Makes `directory` and its parents, for root only, on a mounted bpffs. kMissingFeature if it would not be on one.
[[nodiscard]] Result<> make_pin_directory(const std::string& directory);

}  // namespace fiplane
