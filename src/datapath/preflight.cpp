// SPDX-License-Identifier: Apache-2.0
#include "datapath/preflight.hpp"

#include <fmt/format.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <string_view>
#include <vector>

namespace fiplane {

namespace {

constexpr const char* kKernelBtf = "/sys/kernel/btf/vmlinux";
constexpr mode_t kRootOnly = 0700;

struct NeededCapability {
    int number;
    std::string_view name;
    bool admin_suffices;
};

constexpr std::array kNeeded = {
    NeededCapability{CAP_BPF, "CAP_BPF", true},
    NeededCapability{CAP_NET_ADMIN, "CAP_NET_ADMIN", false},
    // Without it the verifier masks every pointer against speculation and refuses some of what the programs do.
    NeededCapability{CAP_PERFMON, "CAP_PERFMON", true},
};

Result<std::uint64_t> effective_capabilities() {
    __user_cap_header_struct header{};
    header.version = _LINUX_CAPABILITY_VERSION_3;
    std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> data{};
    if (syscall(SYS_capget, &header, data.data()) != 0) return fail_errno(errno, "cannot read own capabilities");
    return std::uint64_t{data[1].effective} << 32 | data[0].effective;
}

bool on_bpffs(const std::filesystem::path& path) {
    struct statfs info{};
    return statfs(path.c_str(), &info) == 0 && static_cast<std::uint64_t>(info.f_type) == BPF_FS_MAGIC;
}

}  // namespace

Result<> check_capabilities() {
    auto effective = effective_capabilities();
    if (!effective) return pass_on(effective);
    const auto has = [&effective](int number) { return (*effective >> number & 1) != 0; };
    std::string missing;
    for (const auto& need : kNeeded) {
        if (has(need.number) || (need.admin_suffices && has(CAP_SYS_ADMIN))) continue;
        missing += fmt::format("{}{}", missing.empty() ? "" : ", ", need.name);
    }
    if (missing.empty()) return {};
    return fail(ExitCode::kNotPrivileged, fmt::format("cannot load BPF programs without {}", missing), {},
                "run as root or grant the capability");
}

Result<> check_kernel_btf() {
    if (access(kKernelBtf, R_OK) == 0) return {};
    const int error = errno;
    if (error == EACCES) return fail_errno(error, "cannot read the kernel's type information", kKernelBtf);
    return fail(ExitCode::kMissingFeature, "the kernel has no type information (BTF)", kKernelBtf,
                "use a kernel built with CONFIG_DEBUG_INFO_BTF, and mount /sys if it is not");
}

Result<> make_pin_directory(const std::string& directory) {
    // Outermost first; what does not exist yet is made, and taken back if it turns out not to be on bpffs.
    std::vector<std::filesystem::path> missing;
    std::filesystem::path path = std::filesystem::path(directory).lexically_normal();
    std::error_code ignored;
    while (!path.empty() && path != path.root_path() && !std::filesystem::exists(path, ignored)) {
        missing.push_back(path);
        path = path.parent_path();
    }
    if (!on_bpffs(path)) {
        return fail(ExitCode::kMissingFeature, "no BPF file system is mounted there, so nothing can be pinned",
                    directory, "mount -t bpf bpf /sys/fs/bpf");
    }
    for (auto next = missing.rbegin(); next != missing.rend(); ++next) {
        if (mkdir(next->c_str(), kRootOnly) != 0 && errno != EEXIST) {
            return fail_errno(errno, "cannot make the directory for pins", next->string());
        }
    }
    return {};
}

}  // namespace fiplane
