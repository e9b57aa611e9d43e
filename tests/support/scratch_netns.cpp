// SPDX-License-Identifier: Apache-2.0
#include "support/scratch_netns.hpp"

#include <fmt/format.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <mutex>
#include <stdexcept>
#include <system_error>

namespace fiplane::test {
namespace {

void require(bool good, const char* what) {
    if (!good) throw std::system_error(errno, std::generic_category(), what);
}

Netns make(const std::string& label) {
    static std::atomic<int> counter{0};
    isolate_mounts();
    auto made = Netns::create(fmt::format("flt-{}-{}-{}", getpid(), ++counter, label));
    if (!made) throw std::runtime_error(made.error().message());
    return std::move(*made);
}

}  // namespace

void isolate_mounts() {
    static std::once_flag done;
    std::call_once(done, [] {
        require(unshare(CLONE_NEWNS) == 0, "unshare(CLONE_NEWNS)");
        require(mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0, "make / private");
        require(mkdir("/run/netns", 0755) == 0 || errno == EEXIST, "mkdir /run/netns");
        require(mount("fiplane-test", "/run/netns", "tmpfs", 0, "mode=0755") == 0, "mount tmpfs on /run/netns");
    });
}

bool may_make_namespaces() {
    return geteuid() == 0;
}

ScratchNetns::ScratchNetns(const std::string& label) : netns_(make(label)) {}

ScratchNetns::~ScratchNetns() {
    static_cast<void>(Netns::remove(netns_.name()));
}

}  // namespace fiplane::test
