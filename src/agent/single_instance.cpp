// SPDX-License-Identifier: Apache-2.0
#include "agent/single_instance.hpp"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <string_view>

namespace fiplane {
namespace {

constexpr std::string_view kName = "fiplane-agent";

/// The length tells the kernel where an abstract name ends; the first byte of it is zero.
socklen_t fill(sockaddr_un& address) {
    address.sun_family = AF_UNIX;
    std::ranges::copy(kName, address.sun_path + 1);
    return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + kName.size());
}

/// "(pid 4711)", or nothing if it cannot be told.
std::string holder() {
    const UniqueFd socket_fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un address{};
    const socklen_t length = fill(address);
    if (connect(socket_fd.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0) return "";
    ucred peer{};
    socklen_t size = sizeof peer;
    if (getsockopt(socket_fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.pid == 0) return "";
    return fmt::format(" (pid {})", peer.pid);
}

}  // namespace

Result<SingleInstance> SingleInstance::acquire() {
    UniqueFd socket_fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket_fd) return fail_errno(errno, "cannot open a socket");
    sockaddr_un address{};
    const socklen_t length = fill(address);
    if (bind(socket_fd.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0) {
        if (errno != EADDRINUSE) return fail_errno(errno, "cannot claim this node for one agent");
        return fail(ExitCode::kAgentRunning,
                    fmt::format("another fiplane process manages this node already{}", holder()), {},
                    "stop it first; `fiplane status` asks a running agent");
    }
    // Listening lets others learn the pid of the holder.
    if (listen(socket_fd.get(), SOMAXCONN) != 0) return fail_errno(errno, "cannot claim this node for one agent");
    return SingleInstance(std::move(socket_fd));
}

void SingleInstance::dismiss_callers() const {
    while (UniqueFd(accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK))) {
    }
}

}  // namespace fiplane
