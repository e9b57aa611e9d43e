// SPDX-License-Identifier: Apache-2.0
// While it lives this process gets no further descriptor, or only a few: EMFILE.
#pragma once

#include <fcntl.h>
#include <sys/resource.h>

#include <catch2/catch_test_macros.hpp>

#include "linux/unique_fd.hpp"

namespace fiplane::test {

class NoDescriptors {
  public:
    NoDescriptors() { allow(0); }
    /// `spare` more, if the process has no gaps among those that it has.
    explicit NoDescriptors(unsigned spare) {
        const UniqueFd next(open("/dev/null", O_RDONLY | O_CLOEXEC));
        allow(static_cast<rlim_t>(next.get()) + spare);
    }
    ~NoDescriptors() { setrlimit(RLIMIT_NOFILE, &before_); }
    NoDescriptors(const NoDescriptors&) = delete;
    NoDescriptors& operator=(const NoDescriptors&) = delete;

  private:
    void allow(rlim_t limit) {
        REQUIRE(getrlimit(RLIMIT_NOFILE, &before_) == 0);
        const rlimit few{limit, before_.rlim_max};
        REQUIRE(setrlimit(RLIMIT_NOFILE, &few) == 0);
    }
    rlimit before_{};
};

}  // namespace fiplane::test
