// SPDX-License-Identifier: Apache-2.0
// How many descriptors a process may have open (RLIMIT_NOFILE). Only the soft limit is ever changed.
#pragma once

#include <sys/resource.h>

#include "core/result.hpp"

namespace fiplane {

/// Raises the limit as far as the hard one allows.
[[nodiscard]] Result<> raise_descriptor_limit();

/// While it lives, processes that are started get no more than what programs expect that wait with select(2).
class UsualDescriptorLimit {
  public:
    UsualDescriptorLimit();
    ~UsualDescriptorLimit();
    UsualDescriptorLimit(const UsualDescriptorLimit&) = delete;
    UsualDescriptorLimit& operator=(const UsualDescriptorLimit&) = delete;

  private:
    rlimit own_{};
    bool lowered_ = false;
};

}  // namespace fiplane
