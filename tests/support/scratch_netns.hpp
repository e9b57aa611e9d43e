// SPDX-License-Identifier: Apache-2.0
// Network namespaces for tests. The first one moves the test process into a mount namespace of its own with an empty
// tmpfs on /run/netns: names cannot clash with the machine's or with another test process, tests see only their own in
// Netns::list(), and the kernel removes everything when the process ends, however it ends.
#pragma once

#include <string>

#include "linux/netns.hpp"

namespace fiplane::test {

/// A namespace that lives as long as this object, named "flt-<pid>-<counter>-<label>" below the private /run/netns.
/// Needs root: tests begin with REQUIRE_ROOT(). Failure to make one throws, which fails the test.
class ScratchNetns {
  public:
    explicit ScratchNetns(const std::string& label = "ns");
    ~ScratchNetns();
    ScratchNetns(const ScratchNetns&) = delete;
    ScratchNetns& operator=(const ScratchNetns&) = delete;

    [[nodiscard]] const Netns& netns() const { return netns_; }
    [[nodiscard]] const NetnsName& name() const { return netns_.name(); }

  private:
    Netns netns_;
};

/// Gives the calling thread a mount namespace with a private /run/netns; once per process, further calls do nothing.
/// Call it from the main thread before others start: threads that exist already keep the old mounts.
void isolate_mounts();

/// Whether this process has the privileges (CAP_SYS_ADMIN and CAP_NET_ADMIN) for all of this.
[[nodiscard]] bool may_make_namespaces();

}  // namespace fiplane::test

/// First statement of a test case that needs those privileges. Only a test program that is run by hand gets to skip:
/// tools/test refuses to begin without root. A macro, because SKIP must stand in the test itself to end it.
#define REQUIRE_ROOT() \
    if (!::fiplane::test::may_make_namespaces()) SKIP("network namespaces need root")
