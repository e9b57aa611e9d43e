// SPDX-License-Identifier: Apache-2.0
// Operators' names of hooks and verdicts: FL_HOOK_TC_PORT -> "tc_port", FL_REASON_FIP_IN -> "fip_in".
#pragma once

#include <string_view>

#include "fiplane/abi.h"

namespace fiplane {

// Numbers may come from maps that another build has written: one that this build does not know is "unknown".
[[nodiscard]] std::string_view hook_name(fl_hook hook);  ///< also the name of its program in bpf/
[[nodiscard]] std::string_view reason_name(fl_reason reason);
[[nodiscard]] fl_class reason_class(fl_reason reason);  ///< how a verdict counts in the fast-path share
[[nodiscard]] std::string_view reason_text(fl_reason reason);

}  // namespace fiplane
