// SPDX-License-Identifier: Apache-2.0
#include "linux/descriptor_limit.hpp"

#include <sys/select.h>

#include <cerrno>

namespace fiplane {

Result<> raise_descriptor_limit() {
    constexpr const char* kWhat = "cannot raise the limit of open files";
    rlimit limit{};
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return fail_errno(errno, kWhat);
    if (limit.rlim_cur == limit.rlim_max) return {};
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0) return fail_errno(errno, kWhat);
    return {};
}

// Descriptors beyond the limit that are open stay open, and can be duplicated to those of the new process.
UsualDescriptorLimit::UsualDescriptorLimit() {
    if (getrlimit(RLIMIT_NOFILE, &own_) != 0 || own_.rlim_cur <= FD_SETSIZE) return;
    const rlimit usual{FD_SETSIZE, own_.rlim_max};
    lowered_ = setrlimit(RLIMIT_NOFILE, &usual) == 0;
}

UsualDescriptorLimit::~UsualDescriptorLimit() {
    if (lowered_) setrlimit(RLIMIT_NOFILE, &own_);
}

}  // namespace fiplane
