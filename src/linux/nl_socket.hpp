// SPDX-License-Identifier: Apache-2.0
// A netlink socket of one namespace: sends requests, hands out answers, and keeps the kernel's errno and extended-ack
// text. Private to this folder. One thread at a time.
#pragma once

#include <netlink/socket.h>

#include <expected>
#include <functional>
#include <memory>
#include <string>

#include "core/result.hpp"
#include "linux/netns.hpp"
#include "linux/nl_message.hpp"

namespace fiplane::nl {

/// What the kernel answered instead of doing it.
struct KernelError {
    int number = 0;    ///< errno, positive
    std::string text;  ///< extended ack; often empty
};

using Answer = std::expected<void, KernelError>;
using OnMessage = std::function<void(const nlmsghdr&)>;

class Socket {
  public:
    /// `protocol` is NETLINK_ROUTE or NETLINK_NETFILTER. The socket stays in the namespace; the caller's thread does
    /// not.
    [[nodiscard]] static Result<Socket> open(const Netns& netns, int protocol);

    /// Sends one request and waits for its acknowledgement; messages that come before it go to `on_message`.
    [[nodiscard]] Answer transact(Request& request, const OnMessage& on_message = {});
    /// Runs a dump. If the kernel says that the table changed meanwhile (NLM_F_DUMP_INTR) the dump is run again, up to
    /// five times; `restart` is called before each run and must forget what was collected. EINTR if all were
    /// interrupted.
    [[nodiscard]] Answer dump(Request& request, const std::function<void()>& restart, const OnMessage& on_message);

    [[nodiscard]] int fd() const { return nl_socket_get_fd(socket_.get()); }

  private:
    struct Free {
        void operator()(nl_sock* socket) const { nl_socket_free(socket); }
    };
    explicit Socket(std::unique_ptr<nl_sock, Free> socket) : socket_(std::move(socket)) {}

    [[nodiscard]] Answer send(Request& request);
    /// Reads until the answer to the request that was sent last is complete.
    [[nodiscard]] Answer receive(const OnMessage& on_message, bool* interrupted);

    std::unique_ptr<nl_sock, Free> socket_;
    unsigned sequence_ = 0;
};

/// The project's error for a kernel error: "what: File exists (extended ack)".
[[nodiscard]] std::unexpected<Error> fail_kernel(const KernelError& error, const std::string& what, std::string where);

/// Lets the socket queue up to `bytes`, past the system's limit where we may; best effort.
void set_receive_buffer(int fd, int bytes);

/// For Error::where: "netns NAME", or nothing for the node's own namespace.
[[nodiscard]] std::string where_of(const Netns& netns);

}  // namespace fiplane::nl
