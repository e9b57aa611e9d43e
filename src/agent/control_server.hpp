// SPDX-License-Identifier: Apache-2.0
// The agent's end of the control socket. Root only (mode 0600). Never blocks: a client that reads slowly costs memory
// for its one answer, a client that stays silent is dropped.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "agent/control_protocol.hpp"
#include "agent/event_loop.hpp"
#include "core/result.hpp"
#include "linux/unique_fd.hpp"

namespace fiplane {

class ControlServer {
  public:
    using Handler = std::function<Response(const Request&)>;

    /// Binds and listens; makes the socket's directory. A stale socket file is replaced; one at which somebody answers
    /// is kAgentRunning.
    [[nodiscard]] static Result<ControlServer> open(const std::string& path);
    ControlServer(ControlServer&&) noexcept = default;
    ControlServer& operator=(ControlServer&&) = delete;
    ControlServer(const ControlServer&) = delete;
    ControlServer& operator=(const ControlServer&) = delete;
    /// Removes the socket file.
    ~ControlServer();

    /// Starts to serve. The loop must outlive this object, which must not be moved from now on.
    [[nodiscard]] Result<> serve(EventLoop& loop, Handler handler);

  private:
    struct Client {
        UniqueFd fd;
        std::string received;
        std::string unsent;
        EventLoop::TimerId deadline = 0;
    };

    ControlServer(std::string path, UniqueFd listener) : path_(std::move(path)), listener_(std::move(listener)) {}
    void accept_clients();
    void on_client(int fd, std::uint32_t events);
    void read_request(Client& client);
    void send_unsent(Client& client);
    void drop(int fd);

    std::string path_;
    UniqueFd listener_;
    EventLoop* loop_ = nullptr;
    Handler handler_;
    std::map<int, Client> clients_;
};

}  // namespace fiplane
