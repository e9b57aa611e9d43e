// SPDX-License-Identifier: Apache-2.0
#include "linux/sysctl.hpp"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

#include "linux/nl_socket.hpp"

namespace fiplane {
namespace {

constexpr const char* kRoot = "/proc/sys/net";

/// The keys are relative to a directory that is opened inside the namespace: what it shows is decided by the thread
/// that looks files up, at that moment (net/sysctl_net.c), so the guard must live as long as the look-ups.
Result<std::string> read_at(int directory, const std::string& key) {
    const UniqueFd file(openat(directory, key.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file) return fail_errno(errno, fmt::format("cannot read sysctl net/{}", key));
    std::array<char, 512> buffer{};
    const ssize_t size = ::read(file.get(), buffer.data(), buffer.size());
    if (size < 0) return fail_errno(errno, fmt::format("cannot read sysctl net/{}", key));
    std::string value(buffer.data(), static_cast<std::size_t>(size));
    while (value.ends_with('\n'))
        value.pop_back();
    return value;
}

Result<UniqueFd> open_root() {
    UniqueFd directory(::open(kRoot, O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!directory) return fail_errno(errno, fmt::format("cannot open {}", kRoot), {}, "is /proc mounted?");
    return directory;
}

/// The number in a sysctl that may be absent.
std::optional<int> number_at(int directory, const std::string& key) {
    const auto text = read_at(directory, key);
    if (!text) return std::nullopt;
    int value = 0;
    const auto [end, status] = std::from_chars(text->data(), text->data() + text->size(), value);
    if (status != std::errc{} || end != text->data() + text->size()) return std::nullopt;
    return value;
}

/// How the kernel joins conf/all and conf/<device>: see IN_DEV_* in include/linux/inetdevice.h.
std::optional<Sysctls::Device> read_device(int directory, const std::string& device) {
    const auto of = [&](const std::string& which, const char* key) {
        return number_at(directory, fmt::format("ipv4/conf/{}/{}", which, key));
    };
    const auto forwarding = of(device, "forwarding");
    if (!forwarding) return std::nullopt;
    const auto joined = [&](const char* key) {
        return std::pair{of("all", key).value_or(0), of(device, key).value_or(0)};
    };
    const auto [proxy_all, proxy_own] = joined("proxy_arp");
    const auto [ignore_all, ignore_own] = joined("arp_ignore");
    const auto [filter_all, filter_own] = joined("rp_filter");
    const auto [redirects_all, redirects_own] = joined("send_redirects");
    return Sysctls::Device{.forwarding = *forwarding != 0,
                           .proxy_arp = proxy_all != 0 || proxy_own != 0,
                           .arp_ignore = std::max(ignore_all, ignore_own),
                           .rp_filter = std::max(filter_all, filter_own),
                           .send_redirects = redirects_all != 0 || redirects_own != 0};
}

}  // namespace

Result<std::string> read_sysctl(const Netns& netns, const std::string& key) {
    const auto located = [&](Error error) {
        error.where = nl::where_of(netns);
        return std::unexpected(std::move(error));
    };
    auto inside = NetnsGuard::enter(netns);
    if (!inside) return pass_on(inside);
    auto directory = open_root();
    if (!directory) return located(std::move(directory.error()));
    auto value = read_at(directory->get(), key);
    if (!value) return located(std::move(value.error()));
    return value;
}

Result<> write_sysctl(const Netns& netns, const std::string& key, const std::string& value) {
    auto inside = NetnsGuard::enter(netns);
    if (!inside) return pass_on(inside);
    const std::string what = fmt::format("cannot set sysctl net/{} to {}", key, value);
    const std::string path = fmt::format("{}/{}", kRoot, key);
    const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    if (!file) return fail_errno(errno, what, nl::where_of(netns));
    const ssize_t written = ::write(file.get(), value.data(), value.size());
    if (written < 0) return fail_errno(errno, what, nl::where_of(netns));
    if (static_cast<std::size_t>(written) != value.size()) return fail_errno(EIO, what, nl::where_of(netns));
    return {};
}

Result<Sysctls> read_sysctls(const Netns& netns, const std::vector<std::string>& devices) {
    auto inside = NetnsGuard::enter(netns);
    if (!inside) return pass_on(inside);
    auto directory = open_root();
    if (!directory) return pass_on(directory);
    Sysctls sysctls;
    auto forward = read_at(directory->get(), "ipv4/ip_forward");
    if (!forward) {
        forward.error().where = nl::where_of(netns);
        return pass_on(forward);
    }
    sysctls.ip_forward = *forward != "0";
    sysctls.bridge_nf_call_iptables = number_at(directory->get(), "bridge/bridge-nf-call-iptables").value_or(0) != 0;
    for (const auto& device : devices) {
        // A device that went since the caller listed it is left out.
        if (const auto read = read_device(directory->get(), device)) sysctls.devices.emplace(device, *read);
    }
    return sysctls;
}

}  // namespace fiplane
