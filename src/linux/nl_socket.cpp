// SPDX-License-Identifier: Apache-2.0
#include "linux/nl_socket.hpp"

#include <fmt/format.h>
#include <linux/netlink.h>
#include <netlink/errno.h>
#include <netlink/netlink.h>
#include <sys/socket.h>

#include <cstdlib>
#include <vector>

namespace fiplane::nl {
namespace {

constexpr int kReceiveBuffer = 4 << 20;
/// The kernel fills dump messages up to the size of the reader's buffer, but never beyond 32 KiB.
constexpr std::size_t kMessageBuffer = 32 << 10;
constexpr int kDumpAttempts = 5;
/// MAX_ERRNO of the kernel's linux/err.h.
constexpr int kMaxErrno = 4095;

struct FreeBuffer {
    void operator()(unsigned char* buffer) const { std::free(buffer); }
};

bool set_option(int fd, int option) {
    const int on = 1;
    return setsockopt(fd, SOL_NETLINK, option, &on, sizeof on) == 0;
}

/// The text behind an error or the end of a dump. With NETLINK_CAP_ACK the kernel does not repeat the request, so the
/// attributes start right behind the fixed part, of `fixed` bytes.
std::string ack_text(const nlmsghdr& message, std::size_t fixed) {
    if ((message.nlmsg_flags & NLM_F_ACK_TLVS) == 0) return {};
    return Attributes(message, fixed).text(NLMSGERR_ATTR_MSG);
}

/// What NLMSG_ERROR or NLMSG_DONE say.
Answer verdict_of(const nlmsghdr& message) {
    const bool done = message.nlmsg_type == NLMSG_DONE;
    int number = 0;
    if (!nlmsg_valid_hdr(&message, sizeof number)) {
        if (done) return {};
        return std::unexpected(KernelError{EPROTO, "netlink error message too short"});
    }
    std::memcpy(&number, nlmsg_data(&message), sizeof number);
    if (number == 0 || (done && number > 0)) return {};
    if (number > 0 || number < -kMaxErrno) return std::unexpected(KernelError{EPROTO, "no error number"});
    return std::unexpected(KernelError{-number, ack_text(message, done ? sizeof number : sizeof(nlmsgerr))});
}

}  // namespace

Result<Socket> Socket::open(const Netns& netns, int protocol) {
    auto inside = NetnsGuard::enter(netns);
    if (!inside) return pass_on(inside);
    std::unique_ptr<nl_sock, Free> socket(nl_socket_alloc());
    if (!socket) return fail_errno(ENOMEM, "cannot allocate a netlink socket", where_of(netns));
    errno = 0;
    if (const int status = nl_connect(socket.get(), protocol); status < 0) {
        if (errno != 0) return fail_errno(errno, "cannot open a netlink socket", where_of(netns));
        return fail(ExitCode::kFailed, fmt::format("cannot open a netlink socket: {}", nl_geterror(status)),
                    where_of(netns));
    }
    nl_socket_set_msg_buf_size(socket.get(), kMessageBuffer);
    nl_socket_enable_msg_peek(socket.get());
    const int fd = nl_socket_get_fd(socket.get());
    set_receive_buffer(fd, kReceiveBuffer);
    if (!set_option(fd, NETLINK_EXT_ACK) || !set_option(fd, NETLINK_CAP_ACK) ||
        !set_option(fd, NETLINK_GET_STRICT_CHK)) {
        return fail_errno(errno, "cannot set netlink socket options", where_of(netns));
    }
    return Socket(std::move(socket));
}

Answer Socket::send(Request& request) {
    if (!request.complete()) return std::unexpected(KernelError{EMSGSIZE, "request does not fit its buffer"});
    nlmsghdr* header = nlmsg_hdr(request.get());
    sequence_ = nl_socket_use_seq(socket_.get());
    header->nlmsg_seq = sequence_;
    header->nlmsg_pid = nl_socket_get_local_port(socket_.get());
    errno = 0;
    if (const int status = nl_send(socket_.get(), request.get()); status < 0) {
        return std::unexpected(KernelError{errno != 0 ? errno : EIO, nl_geterror(status)});
    }
    return {};
}

Answer Socket::receive(const OnMessage& on_message, bool* interrupted) {
    for (;;) {
        sockaddr_nl from{};
        unsigned char* raw = nullptr;
        errno = 0;
        const int received = nl_recv(socket_.get(), &from, &raw, nullptr);
        const int saved = errno;
        const std::unique_ptr<unsigned char, FreeBuffer> buffer(raw);
        if (received < 0) return std::unexpected(KernelError{saved != 0 ? saved : EIO, nl_geterror(received)});
        if (from.nl_pid != 0) continue;  // only the kernel's word counts
        int rest = received;
        for (auto* at = static_cast<nlmsghdr*>(static_cast<void*>(raw)); nlmsg_ok(at, rest);
             at = nlmsg_next(at, &rest)) {
            // An answer to an earlier request that was abandoned on an error.
            if (at->nlmsg_seq != sequence_) continue;
            if (interrupted != nullptr && (at->nlmsg_flags & NLM_F_DUMP_INTR) != 0) *interrupted = true;
            if (at->nlmsg_type == NLMSG_ERROR || at->nlmsg_type == NLMSG_DONE) return verdict_of(*at);
            if (on_message) on_message(*at);
        }
    }
}

Answer Socket::transact(Request& request, const OnMessage& on_message) {
    if (request.complete()) nlmsg_hdr(request.get())->nlmsg_flags |= NLM_F_ACK;
    if (auto sent = send(request); !sent) return sent;
    return receive(on_message, nullptr);
}

Answer Socket::dump(Request& request, const std::function<void()>& restart, const OnMessage& on_message) {
    for (int attempt = 0; attempt < kDumpAttempts; ++attempt) {
        restart();
        bool interrupted = false;
        if (auto sent = send(request); !sent) return sent;
        if (auto received = receive(on_message, &interrupted); !received) return received;
        if (!interrupted) return {};
    }
    return std::unexpected(KernelError{EINTR, "the table changed during each of five dumps"});
}

std::unexpected<Error> fail_kernel(const KernelError& error, const std::string& what, std::string where) {
    auto failed = fail_errno(error.number, what, std::move(where));
    Error out = std::move(failed.error());
    if (!error.text.empty()) out.what += fmt::format(" ({})", error.text);
    if (error.number == ENODEV) out.code = ExitCode::kMissingDevice;
    if (error.number == EOPNOTSUPP || error.number == EAFNOSUPPORT) out.code = ExitCode::kMissingFeature;
    return std::unexpected(std::move(out));
}

void set_receive_buffer(int fd, int bytes) {
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes) == 0) return;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
}

std::string where_of(const Netns& netns) {
    return netns.name().empty() ? "" : fmt::format("netns {}", netns.name());
}

}  // namespace fiplane::nl
