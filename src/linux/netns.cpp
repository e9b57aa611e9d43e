// SPDX-License-Identifier: Apache-2.0
#include "linux/netns.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <thread>

namespace fiplane {
namespace {

constexpr const char* kDirectory = "/run/netns";
/// The calling thread's, not the process's: /proc/self is the main thread, which may be elsewhere.
constexpr const char* kOwnNetns = "/proc/thread-self/ns/net";

std::string path_of(const NetnsName& name) {
    return fmt::format("{}/{}", kDirectory, name);
}

Result<> check_name(const NetnsName& name) {
    const bool good =
        !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos && name.size() <= NAME_MAX;
    if (good) return {};
    return fail(ExitCode::kFailed, fmt::format("\"{}\" cannot name a network namespace", name), {},
                "a name is a file name without slashes");
}

Result<ino_t> inode_of(int fd, const std::string& path) {
    struct stat info{};
    if (fstat(fd, &info) != 0) return fail_errno(errno, fmt::format("cannot stat {}", path));
    return info.st_ino;
}

/// Makes /run/netns a shared mount, as iproute2 does: names made here then appear in the mount namespaces of
/// services that were started before, and names made there appear here.
Result<> prepare_directory() {
    std::error_code status;
    std::filesystem::create_directories(kDirectory, status);
    if (status) return fail_errno(status.value(), fmt::format("cannot create directory {}", kDirectory));
    if (mount("", kDirectory, "none", MS_SHARED | MS_REC, nullptr) == 0) return {};
    // EINVAL: not a mount point yet.
    if (errno != EINVAL) return fail_errno(errno, fmt::format("cannot make mount {} shared", kDirectory));
    if (mount(kDirectory, kDirectory, "none", MS_BIND | MS_REC, nullptr) != 0) {
        return fail_errno(errno, fmt::format("cannot bind-mount {} on itself", kDirectory));
    }
    if (mount("", kDirectory, "none", MS_SHARED | MS_REC, nullptr) != 0) {
        return fail_errno(errno, fmt::format("cannot make mount {} shared", kDirectory));
    }
    return {};
}

Result<> bring_loopback_up() {
    const UniqueFd socket_fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!socket_fd) return fail_errno(errno, "cannot open a socket to bring lo up");
    ifreq request{};
    std::copy_n("lo", 3, request.ifr_name);
    if (ioctl(socket_fd.get(), SIOCGIFFLAGS, &request) != 0) return fail_errno(errno, "cannot read the flags of lo");
    request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
    if (ioctl(socket_fd.get(), SIOCSIFFLAGS, &request) != 0) return fail_errno(errno, "cannot bring lo up");
    return {};
}

/// Runs in a thread of its own, which ends inside the new namespace and so never has to find its way back.
Result<UniqueFd> make_namespace_here(const std::string& path) {
    if (unshare(CLONE_NEWNET) != 0) return fail_errno(errno, "cannot create a network namespace");
    if (auto up = bring_loopback_up(); !up) return pass_on(up);
    UniqueFd fd(::open(kOwnNetns, O_RDONLY | O_CLOEXEC));
    if (!fd) return fail_errno(errno, fmt::format("cannot open {}", kOwnNetns));
    if (mount(kOwnNetns, path.c_str(), "none", MS_BIND, nullptr) != 0) {
        return fail_errno(errno, fmt::format("cannot bind-mount the namespace on {}", path));
    }
    return fd;
}

Result<UniqueFd> make_namespace(const std::string& path) {
    Result<UniqueFd> made = fail(ExitCode::kFailed, "the namespace's thread did not run");
    try {
        std::thread([&] { made = make_namespace_here(path); }).join();
    } catch (const std::system_error& error) {
        return fail(ExitCode::kFailed, fmt::format("cannot start a thread: {}", error.what()));
    }
    return made;
}

}  // namespace

Result<Netns> Netns::current() {
    UniqueFd fd(::open(kOwnNetns, O_RDONLY | O_CLOEXEC));
    if (!fd) return fail_errno(errno, fmt::format("cannot open {}", kOwnNetns), {}, "is /proc mounted?");
    auto inode = inode_of(fd.get(), kOwnNetns);
    if (!inode) return pass_on(inode);
    return Netns("", std::move(fd), *inode);
}

Result<Netns> Netns::open(const NetnsName& name) {
    if (auto good = check_name(name); !good) return pass_on(good);
    const std::string path = path_of(name);
    UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) return fail_errno(errno, fmt::format("cannot open network namespace {}", name), path);
    auto inode = inode_of(fd.get(), path);
    if (!inode) return pass_on(inode);
    return Netns(name, std::move(fd), *inode);
}

Result<std::optional<Netns>> Netns::find(const NetnsName& name) {
    if (auto good = check_name(name); !good) return pass_on(good);
    const std::string path = path_of(name);
    const std::string what = fmt::format("cannot open network namespace {}", name);
    // First of all: a bare file below /run/netns is one that the agent may not even open.
    struct statfs system{};
    if (statfs(path.c_str(), &system) != 0) {
        if (errno == ENOENT || errno == ENOTDIR) return std::nullopt;
        return fail_errno(errno, what, path);
    }
    if (system.f_type != NSFS_MAGIC) return std::nullopt;
    UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd && errno == ENOENT) return std::nullopt;
    if (!fd) return fail_errno(errno, what, path);
    // It may have been detached meanwhile.
    if (fstatfs(fd.get(), &system) != 0) return fail_errno(errno, what, path);
    if (system.f_type != NSFS_MAGIC) return std::nullopt;
    auto inode = inode_of(fd.get(), path);
    if (!inode) return pass_on(inode);
    return Netns(name, std::move(fd), *inode);
}

Result<Netns> Netns::create(const NetnsName& name) {
    if (auto good = check_name(name); !good) return pass_on(good);
    if (auto ready = prepare_directory(); !ready) return pass_on(ready);
    const std::string path = path_of(name);
    const UniqueFd mount_point(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_CREAT | O_EXCL, 0));
    if (!mount_point) return fail_errno(errno, fmt::format("cannot create network namespace {}", name), path);
    const auto abandon = [&path](Error error) {
        umount2(path.c_str(), MNT_DETACH);
        unlink(path.c_str());
        error.where = path;
        return std::unexpected(std::move(error));
    };
    auto fd = make_namespace(path);
    if (!fd) return abandon(std::move(fd.error()));
    auto inode = inode_of(fd->get(), path);
    if (!inode) return abandon(std::move(inode.error()));
    return Netns(name, std::move(*fd), *inode);
}

Result<> Netns::remove(const NetnsName& name) {
    if (auto good = check_name(name); !good) return pass_on(good);
    const std::string path = path_of(name);
    const std::string what = fmt::format("cannot remove network namespace {}", name);
    // EINVAL: a bare file, left behind when somebody else unmounted it; unlinking it is all that remains to do.
    if (umount2(path.c_str(), MNT_DETACH) != 0 && errno != EINVAL) return fail_errno(errno, what, path);
    if (unlink(path.c_str()) != 0) return fail_errno(errno, what, path);
    return {};
}

Result<std::vector<NetnsName>> Netns::list() {
    std::vector<NetnsName> names;
    std::error_code status;
    std::filesystem::directory_iterator entry(kDirectory, status);
    if (status == std::errc::no_such_file_or_directory) return names;
    for (const std::filesystem::directory_iterator end; !status && entry != end; entry.increment(status))
        names.push_back(entry->path().filename().string());
    if (status) return fail_errno(status.value(), "cannot list network namespaces", kDirectory);
    std::ranges::sort(names);
    return names;
}

Result<NetnsGuard> NetnsGuard::enter(const Netns& netns) {
    UniqueFd home(::open(kOwnNetns, O_RDONLY | O_CLOEXEC));
    if (!home) return fail_errno(errno, fmt::format("cannot open {}", kOwnNetns), {}, "is /proc mounted?");
    if (setns(netns.fd(), CLONE_NEWNET) != 0) {
        return fail_errno(errno, fmt::format("cannot enter network namespace {}", netns.name()));
    }
    return NetnsGuard(std::move(home));
}

NetnsGuard::~NetnsGuard() {
    if (!home_ || setns(home_.get(), CLONE_NEWNET) == 0) return;
    std::perror("fiplane: cannot return to the home network namespace");
    std::abort();
}

}  // namespace fiplane
