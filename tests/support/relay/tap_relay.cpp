// SPDX-License-Identifier: Apache-2.0
// Stands in for QEMU: a tap device on the node (the VM's port) and a tap device inside the VM's namespace (its NIC),
// and frames copied between the two with their virtio_net_hdr, so that checksum and segmentation offloads travel as
// they do between vhost and a guest.
//
//   tap_relay NODE_NETNS NODE_DEVICE VM_NETNS VM_DEVICE
//
// A NODE_DEVICE with a slash is the character device of a macvtap that is there already (/dev/tap5).
// Network namespaces are paths (/proc/PID/ns/net). Prints "ready" when both devices exist; they vanish with the
// process. Ends on SIGTERM and SIGINT.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/result.hpp"
#include "linux/unique_fd.hpp"

namespace fiplane {
namespace {

/// Largest GSO frame that the stack hands to a tap (64 KiB of L3) with its link and virtio headers, rounded up.
constexpr std::size_t kBufferSize = 68 * 1024;
/// sizeof(virtio_net_hdr_v1), what QEMU uses for virtio 1 devices; linux/virtio_net.h does not compile as C++.
constexpr int kVnetHeaderSize = 12;
/// Frames moved in one direction before the other one gets its turn.
constexpr int kBurst = 64;

Result<> enter_netns(const std::string& path) {
    const UniqueFd netns(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!netns) return fail_errno(errno, "cannot open network namespace", path);
    if (::setns(netns.get(), CLONE_NEWNET) != 0) return fail_errno(errno, "cannot enter network namespace", path);
    return {};
}

/// What the reader of the tap accepts unsegmented. UDP segmentation came with Linux 6.2: without it, all the rest.
Result<> set_offloads(int fd, const std::string& device) {
    constexpr unsigned kTcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
    if (::ioctl(fd, TUNSETOFFLOAD, kTcp | TUN_F_USO4 | TUN_F_USO6) == 0) return {};
    if (::ioctl(fd, TUNSETOFFLOAD, kTcp) == 0) return {};
    return fail_errno(errno, "cannot set the offloads of tap", device);
}

/// Makes a tap in a network namespace, which lives as long as the descriptor; or opens a macvtap.
Result<UniqueFd> open_tap(const std::string& netns, const std::string& device) {
    const bool macvtap = device.contains('/');
    if (!macvtap && device.size() >= IFNAMSIZ) return fail(ExitCode::kUsage, "device name too long", device);
    if (auto entered = enter_netns(netns); !entered) return pass_on(entered);
    const std::string path = macvtap ? device : "/dev/net/tun";
    UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK));
    if (!fd) return fail_errno(errno, "cannot open " + path);
    ifreq request{};
    if (!macvtap) std::memcpy(&request.ifr_name, device.data(), device.size());
    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    if (::ioctl(fd.get(), TUNSETIFF, &request) != 0) return fail_errno(errno, "cannot create tap", device);
    int header_size = kVnetHeaderSize;
    if (::ioctl(fd.get(), TUNSETVNETHDRSZ, &header_size) != 0) {
        return fail_errno(errno, "cannot set the vnet header size of tap", device);
    }
    if (auto set = set_offloads(fd.get(), device); !set) return pass_on(set);
    return fd;
}

/// Moves up to kBurst frames. A frame that the receiving device refuses (it is down, or its queue is full) is lost, as
/// on a wire; a failing read is an error.
Result<> move_frames(int from, int to, std::span<std::byte> buffer) {
    for (int i = 0; i < kBurst; ++i) {
        const ssize_t length = ::read(from, buffer.data(), buffer.size());
        if (length < 0) {
            if (errno == EAGAIN || errno == EINTR) return {};
            return fail_errno(errno, "cannot read from tap");
        }
        [[maybe_unused]] const ssize_t written = ::write(to, buffer.data(), static_cast<std::size_t>(length));
    }
    return {};
}

Result<UniqueFd> open_termination() {
    sigset_t signals{};
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    if (::sigprocmask(SIG_BLOCK, &signals, nullptr) != 0) return fail_errno(errno, "cannot block signals");
    UniqueFd fd(::signalfd(-1, &signals, SFD_CLOEXEC));
    if (!fd) return fail_errno(errno, "cannot open a signalfd");
    return fd;
}

Result<> relay(int node, int vm, int termination) {
    std::vector<std::byte> buffer(kBufferSize);
    std::array<pollfd, 3> waits{pollfd{node, POLLIN, 0}, pollfd{vm, POLLIN, 0}, pollfd{termination, POLLIN, 0}};
    while (true) {
        if (::poll(waits.data(), waits.size(), -1) < 0 && errno != EINTR) return fail_errno(errno, "cannot poll");
        if (waits[2].revents != 0) return {};
        for (const auto& [from, to] : {std::pair{0U, 1U}, std::pair{1U, 0U}}) {
            if (waits.at(from).revents == 0) continue;
            if (auto moved = move_frames(waits.at(from).fd, waits.at(to).fd, buffer); !moved) return moved;
        }
    }
}

Result<> run(std::span<char*> arguments) {
    if (arguments.size() != 5) {
        return fail(ExitCode::kUsage, "usage: tap_relay NODE_NETNS NODE_DEVICE VM_NETNS VM_DEVICE");
    }
    auto termination = open_termination();
    if (!termination) return pass_on(termination);
    auto node = open_tap(arguments[1], arguments[2]);
    if (!node) return pass_on(node);
    auto vm = open_tap(arguments[3], arguments[4]);
    if (!vm) return pass_on(vm);
    std::puts("ready");
    std::fflush(stdout);
    return relay(node->get(), vm->get(), termination->get());
}

}  // namespace
}  // namespace fiplane

int main(int argc, char** argv) {
    const auto result = fiplane::run({argv, static_cast<std::size_t>(argc)});
    if (result) return 0;
    fmt::print(stderr, "tap_relay: {}\n", result.error().message());
    return static_cast<int>(result.error().code);
}
