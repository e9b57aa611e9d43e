// SPDX-License-Identifier: Apache-2.0
// While it lives this process gets no further descriptor: EMFILE.
#pragma once

#include <sys/resource.h>

#include <catch2/catch_test_macros.hpp>

namespace fiplane::test {

class NoDescriptors {
  public:
    NoDescriptors() {
        REQUIRE(getrlimit(RLIMIT_NOFILE, &before_) == 0);
        const rlimit none{0, before_.rlim_max};
        REQUIRE(setrlimit(RLIMIT_NOFILE, &none) == 0);
    }
    ~NoDescriptors() { setrlimit(RLIMIT_NOFILE, &before_); }
    NoDescriptors(const NoDescriptors&) = delete;
    NoDescriptors& operator=(const NoDescriptors&) = delete;

  private:
    rlimit before_{};
};

}  // namespace fiplane::test
