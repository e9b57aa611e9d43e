// SPDX-License-Identifier: Apache-2.0
// Network namespaces by name (below /run/netns, as iproute2 keeps them), and running code inside one.
//
// Only the network namespace is entered, never a mount namespace: what `ip netns exec` does (a fresh /sys) would hide
// bpffs. /proc/sys/net follows the calling thread's network namespace by itself.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "core/result.hpp"
#include "core/snapshot.hpp"
#include "linux/unique_fd.hpp"

namespace fiplane {

/// An open handle on a network namespace. Holding it keeps the namespace alive.
class Netns {
  public:
    /// The namespace of the calling thread; its name is "".
    [[nodiscard]] static Result<Netns> current();
    /// An existing one below /run/netns.
    [[nodiscard]] static Result<Netns> open(const NetnsName& name);
    /// The same, but none if there certainly is none: no such name, or one to which no namespace is attached (yet, or
    /// any more). An error leaves open whether there is one.
    [[nodiscard]] static Result<std::optional<Netns>> find(const NetnsName& name);
    /// Makes a namespace and its mount point below /run/netns (which is made if absent), with lo up. The calling thread
    /// stays where it is. EEXIST is an error.
    [[nodiscard]] static Result<Netns> create(const NetnsName& name);
    /// Unmounts and unlinks the name; the namespace goes when its last user does. Absence is an error.
    [[nodiscard]] static Result<> remove(const NetnsName& name);
    /// Names below /run/netns, sorted; empty if the directory does not exist. All of them, or an error.
    [[nodiscard]] static Result<std::vector<NetnsName>> list();

    [[nodiscard]] const NetnsName& name() const { return name_; }
    [[nodiscard]] int fd() const { return fd_.get(); }
    [[nodiscard]] ino_t inode() const { return inode_; }

  private:
    Netns(NetnsName name, UniqueFd fd, ino_t inode) : name_(std::move(name)), fd_(std::move(fd)), inode_(inode) {}
    NetnsName name_;
    UniqueFd fd_;
    ino_t inode_ = 0;
};

/// Moves the calling thread into a namespace and back when it goes out of scope. Going back cannot fail in practice;
/// if it does, the process aborts, because every later call would act on the wrong namespace.
class NetnsGuard {
  public:
    [[nodiscard]] static Result<NetnsGuard> enter(const Netns& netns);
    NetnsGuard(NetnsGuard&&) noexcept = default;
    NetnsGuard& operator=(NetnsGuard&&) = delete;
    NetnsGuard(const NetnsGuard&) = delete;
    NetnsGuard& operator=(const NetnsGuard&) = delete;
    ~NetnsGuard();

  private:
    explicit NetnsGuard(UniqueFd home) : home_(std::move(home)) {}
    UniqueFd home_;
};

}  // namespace fiplane
