// SPDX-License-Identifier: Apache-2.0
#include "agent/control_server.hpp"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <system_error>

namespace fiplane {
namespace {

constexpr std::size_t kMaxClients = 64;
/// How long a client may take to send its request and to fetch its answer.
constexpr std::chrono::seconds kPatience{30};

bool somebody_answers(const sockaddr_un& address) {
    const UniqueFd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!probe) return false;
    return connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 || errno == EAGAIN;
}

/// bind() makes the file with the mode that umask leaves, so that there is no moment in which others may connect.
int bind_privately(int fd, const sockaddr_un& address) {
    const mode_t previous = umask(0177);
    const int result = bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address);
    const int saved_errno = errno;
    umask(previous);
    errno = saved_errno;
    return result;
}

}  // namespace

Result<ControlServer> ControlServer::open(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.empty() || path.size() >= sizeof address.sun_path) {
        return fail(ExitCode::kUsage, "cannot use this path for the control socket", path,
                    fmt::format("it may have up to {} characters", sizeof address.sun_path - 1));
    }
    std::ranges::copy(path, address.sun_path);

    std::error_code status;
    const auto directory = std::filesystem::path(path).parent_path();
    if (!directory.empty()) std::filesystem::create_directories(directory, status);
    if (status) return fail_errno(status.value(), "cannot make the control socket's directory", directory.string());

    UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!listener) return fail_errno(errno, "cannot open the control socket", path);
    if (bind_privately(listener.get(), address) != 0) {
        if (errno != EADDRINUSE) return fail_errno(errno, "cannot bind the control socket", path);
        if (somebody_answers(address)) {
            return fail(ExitCode::kAgentRunning, "another agent answers at this control socket", path,
                        "stop it, or choose another path by --socket");
        }
        struct stat there{};
        if (lstat(path.c_str(), &there) == 0 && !S_ISSOCK(there.st_mode)) {
            return fail(ExitCode::kForeignObject, "something that is not a socket has the control socket's path", path,
                        "choose another path by --socket");
        }
        if (unlink(path.c_str()) != 0) return fail_errno(errno, "cannot remove the stale control socket", path);
        if (bind_privately(listener.get(), address) != 0)
            return fail_errno(errno, "cannot bind the control socket", path);
    }
    if (listen(listener.get(), 16) != 0) return fail_errno(errno, "cannot listen on the control socket", path);
    return ControlServer(path, std::move(listener));
}

ControlServer::~ControlServer() {
    if (!listener_) return;  // moved from
    if (loop_ != nullptr) {
        loop_->unwatch(listener_.get());
        while (!clients_.empty())
            drop(clients_.begin()->first);
    }
    unlink(path_.c_str());
}

Result<> ControlServer::serve(EventLoop& loop, Handler handler) {
    loop_ = &loop;
    handler_ = std::move(handler);
    return loop.watch(listener_.get(), EPOLLIN, [this](std::uint32_t) { accept_clients(); });
}

void ControlServer::accept_clients() {
    for (;;) {
        UniqueFd accepted(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (!accepted) return;
        if (clients_.size() >= kMaxClients) {
            spdlog::warn("control socket: {} clients at once, refusing another one", clients_.size());
            continue;
        }
        const int fd = accepted.get();
        if (!loop_->watch(fd, EPOLLIN, [this, fd](std::uint32_t events) { on_client(fd, events); })) continue;
        const auto deadline = loop_->after(kPatience, [this, fd] { drop(fd); });
        clients_.insert_or_assign(fd, Client{std::move(accepted), {}, {}, deadline});
    }
}

void ControlServer::on_client(int fd, std::uint32_t events) {
    const auto found = clients_.find(fd);
    if (found == clients_.end()) return;
    if ((events & EPOLLOUT) != 0) {
        send_unsent(found->second);
    } else {
        read_request(found->second);
    }
}

void ControlServer::read_request(Client& client) {
    const int fd = client.fd.get();
    std::array<char, 4096> chunk{};
    for (;;) {
        const ssize_t length = recv(fd, chunk.data(), chunk.size(), 0);
        if (length < 0 && errno == EINTR) continue;
        if (length < 0 && errno == EAGAIN) break;
        if (length <= 0 || client.received.size() > kMaxRequest) {
            drop(fd);
            return;
        }
        client.received.append(chunk.data(), static_cast<std::size_t>(length));
    }
    std::size_t end = 0;
    while ((end = client.received.find('\n')) != std::string::npos) {
        const auto request = decode_request(client.received.substr(0, end));
        client.received.erase(0, end + 1);
        const Response response =
            request ? handler_(*request) : Response(std::unexpect, Refusal{request.error(), {}, {}});
        client.unsent += encode_response(response);
    }
    send_unsent(client);
}

void ControlServer::send_unsent(Client& client) {
    const int fd = client.fd.get();
    while (!client.unsent.empty()) {
        const ssize_t sent = send(fd, client.unsent.data(), client.unsent.size(), MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0 && errno == EAGAIN) {
            if (!loop_->change(fd, EPOLLOUT)) drop(fd);
            return;
        }
        if (sent < 0) {
            drop(fd);
            return;
        }
        client.unsent.erase(0, static_cast<std::size_t>(sent));
    }
    if (!loop_->change(fd, EPOLLIN)) drop(fd);
}

void ControlServer::drop(int fd) {
    const auto found = clients_.find(fd);
    if (found == clients_.end()) return;
    loop_->unwatch(fd);
    loop_->cancel(found->second.deadline);
    clients_.erase(found);
}

}  // namespace fiplane
