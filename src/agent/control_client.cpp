// SPDX-License-Identifier: Apache-2.0
#include "agent/control_client.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "linux/unique_fd.hpp"

namespace fiplane {
namespace {

/// A reload of a large topology may take this long; more means that the agent hangs.
constexpr int kPatienceSeconds = 120;

Result<UniqueFd> connect_to(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.empty() || path.size() >= sizeof address.sun_path)
        return fail(ExitCode::kUsage, "this cannot be the path of a socket", path);
    std::ranges::copy(path, address.sun_path);
    UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd) return fail_errno(errno, "cannot open a socket");
    if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return fd;
    if (errno == EACCES || errno == EPERM) return fail_errno(errno, "cannot ask the agent", path, "run it as root");
    return fail(ExitCode::kNoAgent, "no agent answers on this node", path,
                "start one by `fiplane agent --topology FILE`, or `--follow neutron`");
}

Result<> send_all(int fd, const std::string& data) {
    std::size_t offset = 0;
    while (offset < data.size()) {
        const ssize_t sent = send(fd, data.data() + offset, data.size() - offset, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0) return fail_errno(errno, "cannot send the request to the agent");
        offset += static_cast<std::size_t>(sent);
    }
    return {};
}

/// Up to the end of the line, which is left out.
Result<std::string> receive_line(int fd, const std::function<void(int)>& waiting) {
    std::string line;
    std::array<char, 65536> chunk{};
    for (int seconds = 0; seconds < kPatienceSeconds;) {
        pollfd readable{fd, POLLIN, 0};
        const int ready = poll(&readable, 1, 1000);
        if (ready < 0 && errno == EINTR) continue;
        if (ready < 0) return fail_errno(errno, "cannot wait for the agent's answer");
        if (ready == 0) {
            ++seconds;
            if (waiting) waiting(seconds);
            continue;
        }
        const ssize_t length = recv(fd, chunk.data(), chunk.size(), 0);
        if (length < 0 && errno == EINTR) continue;
        if (length < 0) return fail_errno(errno, "cannot read the agent's answer");
        if (length == 0) return fail(ExitCode::kNoAgent, "the agent went away before it answered", {}, "see its log");
        line.append(chunk.data(), static_cast<std::size_t>(length));
        if (line.back() == '\n') {
            line.pop_back();
            return line;
        }
    }
    return fail(ExitCode::kFailed, "the agent does not answer", {}, "see its log");
}

Result<std::string> exchange(const std::string& path, const std::string& request,
                             const std::function<void(int)>& waiting) {
    const auto fd = connect_to(path);
    if (!fd) return std::unexpected(fd.error());
    if (auto sent = send_all(fd->get(), request); !sent) return pass_on(sent);
    return receive_line(fd->get(), waiting);
}

}  // namespace

Response ask_agent(const std::string& path, const nlohmann::json& request, const std::function<void(int)>& waiting) {
    auto line = exchange(path, encode_request(request), waiting);
    if (!line) return std::unexpected(Refusal{std::move(line.error()), {}, {}});
    return decode_response(*line);
}

}  // namespace fiplane
