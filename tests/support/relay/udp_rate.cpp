// SPDX-License-Identifier: Apache-2.0
// Small-packet rate from socket to socket: one send() and one recv() per datagram, as an application does it.
//
//   udp_rate receive PORT SECONDS            prints {"packets":N,"seconds":S}
//   udp_rate send ADDRESS PORT BYTES SECONDS prints {"packets":N,"seconds":S}
//
// The receiver's clock runs from its first datagram, and it ends after SECONDS of it, or after twice as long without
// any.
#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string_view>
#include <vector>

#include "core/result.hpp"
#include "linux/unique_fd.hpp"

namespace fiplane {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

struct Rate {
    std::uint64_t packets = 0;
    Seconds time{};
};

template <typename T>
Result<T> parse(std::string_view text) {
    T value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size()) {
        return fail(ExitCode::kUsage, fmt::format("not a number: {}", text));
    }
    return value;
}

Result<sockaddr_in> parse_address(const char* address, std::uint16_t port) {
    sockaddr_in out{};
    out.sin_family = AF_INET;
    out.sin_port = htons(port);
    if (::inet_pton(AF_INET, address, &out.sin_addr) != 1) {
        return fail(ExitCode::kUsage, fmt::format("not an IPv4 address: {}", address));
    }
    return out;
}

Result<UniqueFd> open_socket() {
    UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!fd) return fail_errno(errno, "cannot open a UDP socket");
    return fd;
}

const sockaddr* generic(const sockaddr_in& address) {
    return reinterpret_cast<const sockaddr*>(&address);
}

Result<Rate> receive(std::uint16_t port, Seconds duration) {
    auto fd = open_socket();
    if (!fd) return pass_on(fd);
    const int buffer_bytes = 8 << 20;
    ::setsockopt(fd->get(), SOL_SOCKET, SO_RCVBUFFORCE, &buffer_bytes, sizeof(buffer_bytes));
    auto address = parse_address("0.0.0.0", port);
    if (!address) return pass_on(address);
    if (::bind(fd->get(), generic(*address), sizeof(*address)) != 0) return fail_errno(errno, "cannot bind");
    std::puts("ready");
    std::fflush(stdout);

    pollfd first{fd->get(), POLLIN, 0};
    const auto patience = std::chrono::duration_cast<std::chrono::milliseconds>(2 * duration);
    if (::poll(&first, 1, static_cast<int>(patience.count())) <= 0) return Rate{.packets = 0, .time = duration};
    const timeval tick{.tv_sec = 0, .tv_usec = 50'000};
    ::setsockopt(fd->get(), SOL_SOCKET, SO_RCVTIMEO, &tick, sizeof(tick));
    Rate rate;
    std::array<std::byte, 2048> datagram{};
    const auto begin = Clock::now();
    while ((rate.time = Clock::now() - begin) < duration) {
        for (int i = 0; i < 64; ++i) {
            if (::recv(fd->get(), datagram.data(), datagram.size(), 0) < 0) break;
            ++rate.packets;
        }
    }
    return rate;
}

Result<Rate> send(const char* destination, std::uint16_t port, std::size_t bytes, Seconds duration) {
    auto fd = open_socket();
    if (!fd) return pass_on(fd);
    auto address = parse_address(destination, port);
    if (!address) return pass_on(address);
    if (::connect(fd->get(), generic(*address), sizeof(*address)) != 0) return fail_errno(errno, "cannot connect");
    const std::vector<std::byte> datagram(bytes);
    Rate rate;
    const auto begin = Clock::now();
    while ((rate.time = Clock::now() - begin) < duration) {
        for (int i = 0; i < 64; ++i) {
            if (::send(fd->get(), datagram.data(), datagram.size(), 0) >= 0) ++rate.packets;
        }
    }
    return rate;
}

Result<Rate> run(std::span<char*> arguments) {
    const std::string_view mode = arguments.size() > 1 ? arguments[1] : "";
    if (mode == "receive" && arguments.size() == 4) {
        auto port = parse<std::uint16_t>(arguments[2]);
        if (!port) return pass_on(port);
        auto seconds = parse<double>(arguments[3]);
        if (!seconds) return pass_on(seconds);
        return receive(*port, Seconds(*seconds));
    }
    if (mode == "send" && arguments.size() == 6) {
        auto port = parse<std::uint16_t>(arguments[3]);
        if (!port) return pass_on(port);
        auto bytes = parse<std::size_t>(arguments[4]);
        if (!bytes) return pass_on(bytes);
        auto seconds = parse<double>(arguments[5]);
        if (!seconds) return pass_on(seconds);
        return send(arguments[2], *port, *bytes, Seconds(*seconds));
    }
    return fail(ExitCode::kUsage, "usage: udp_rate receive PORT SECONDS | udp_rate send ADDRESS PORT BYTES SECONDS");
}

}  // namespace
}  // namespace fiplane

int main(int argc, char** argv) {
    const auto rate = fiplane::run({argv, static_cast<std::size_t>(argc)});
    if (!rate) {
        fmt::print(stderr, "udp_rate: {}\n", rate.error().message());
        return static_cast<int>(rate.error().code);
    }
    fmt::print("{{\"packets\":{},\"seconds\":{:.6f}}}\n", rate->packets, rate->time.count());
    return 0;
}
