// SPDX-License-Identifier: Apache-2.0
#include "observe/netns_directory.hpp"

#include <sys/inotify.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string_view>

namespace fiplane {
namespace {

constexpr const char* kParent = "/run";
constexpr const char* kDirectory = "/run/netns";
constexpr std::string_view kDirectoryName = "netns";

}  // namespace

bool is_router_netns(const NetnsName& name) {
    return name.starts_with("qrouter-") || name.starts_with("fip-") || name.starts_with("snat-");
}

Result<NetnsDirectory> NetnsDirectory::open() {
    UniqueFd inotify(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
    if (!inotify) return fail_errno(errno, "cannot watch namespaces (inotify)", kDirectory);
    NetnsDirectory directory(std::move(inotify));
    directory.arm();
    return directory;
}

void NetnsDirectory::arm() {
    // The kernel gives the same descriptor for the same inode, so arming again what is armed changes nothing.
    const int fresh = inotify_add_watch(
        inotify_.get(), kDirectory,
        IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR);
    const bool gone = fresh < 0 && (errno == ENOENT || errno == ENOTDIR);
    if (fresh < 0 && !gone && directory_watch_ >= 0) return;  // what is watched still is
    if (directory_watch_ >= 0 && directory_watch_ != fresh) inotify_rm_watch(inotify_.get(), directory_watch_);
    directory_watch_ = fresh;
    if (parent_watch_ < 0)
        parent_watch_ = inotify_add_watch(inotify_.get(), kParent, IN_CREATE | IN_MOVED_TO | IN_ONLYDIR);
}

NetnsDirectory::Events NetnsDirectory::receive() {
    Events events;
    alignas(inotify_event) std::array<std::byte, 16384> buffer{};
    for (;;) {
        const ssize_t length = read(inotify_.get(), buffer.data(), buffer.size());
        if (length < 0 && errno == EINTR) continue;
        if (length <= 0) break;
        std::size_t offset = 0;
        while (offset < static_cast<std::size_t>(length)) {
            inotify_event event{};
            std::memcpy(&event, buffer.data() + offset, sizeof event);
            const NetnsName name =
                event.len == 0 ? NetnsName{}
                               : NetnsName(reinterpret_cast<const char*>(buffer.data() + offset + sizeof event));
            offset += sizeof event + event.len;
            if ((event.mask & (IN_Q_OVERFLOW | IN_DELETE_SELF | IN_MOVE_SELF)) != 0) {
                events.rescan = true;
            } else if (event.wd == parent_watch_) {
                if (name == kDirectoryName) events.rescan = true;
            } else if (event.wd == directory_watch_ && is_router_netns(name)) {
                events.touched.insert(name);
            }
        }
    }
    return events;
}

}  // namespace fiplane
