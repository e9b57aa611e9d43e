// SPDX-License-Identifier: Apache-2.0
#include "agent/privileges.hpp"

#include <cap-ng.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <string>
#include <vector>

namespace fiplane {
namespace {

/// What the agent does all its life, and the capability that the kernel asks for.
constexpr std::array kNeeded{
    CAP_NET_ADMIN,  // rtnetlink, nf_tables, conntrack, net.* sysctls, XDP and tcx links
    CAP_NET_RAW,    // packet sockets: gratuitous ARP
    CAP_SYS_ADMIN,  // setns, making network namespaces and mounting them below /run/netns, bpf(2) look-ups by id
    CAP_BPF,        // maps and programs
    CAP_PERFMON,    // the verifier then treats programs as trusted: no speculation barriers, pointers may be compared
};
// Files need none: the state directory, /run/fiplane, /run/netns and bpffs belong to root, which the agent stays.

std::string name_of(int capability) {
    const char* name = capng_capability_to_name(static_cast<unsigned>(capability));
    return name == nullptr ? std::to_string(capability) : fmt::format("cap_{}", name);
}

}  // namespace

Result<> require_privileges(const std::string& action) {
    if (capng_get_caps_process() != 0) return fail(ExitCode::kFailed, "cannot read the process's capabilities");
    std::vector<std::string> missing;
    for (const int capability : kNeeded) {
        if (capng_have_capability(CAPNG_EFFECTIVE, static_cast<unsigned>(capability)) == 0)
            missing.push_back(name_of(capability));
    }
    if (missing.empty()) return {};
    return fail(ExitCode::kNotPrivileged,
                fmt::format("cannot {}: missing capabilities {}", action, fmt::join(missing, ", ")), {},
                "run it as root");
}

Result<> drop_other_privileges() {
    if (capng_get_caps_process() != 0) return fail(ExitCode::kFailed, "cannot read the process's capabilities");
    // Only cap_setpcap may shrink the bounding set; a service manager that gave less has done so itself.
    const auto select = capng_have_capability(CAPNG_EFFECTIVE, CAP_SETPCAP) != 0 ? CAPNG_SELECT_ALL : CAPNG_SELECT_CAPS;
    capng_clear(select);
    for (const int capability : kNeeded) {
        // The enumeration stands for a set of bits in libcap-ng's interface. NOLINTNEXTLINE(*.EnumCastOutOfRange)
        const auto sets = static_cast<capng_type_t>(CAPNG_EFFECTIVE | CAPNG_PERMITTED | CAPNG_BOUNDING_SET);
        if (capng_update(CAPNG_ADD, sets, static_cast<unsigned>(capability)) != 0)
            return fail(ExitCode::kFailed, fmt::format("cannot select {}", name_of(capability)));
    }
    if (const int code = capng_apply(select); code != 0)
        return fail(ExitCode::kNotPrivileged, fmt::format("cannot give up capabilities (libcap-ng says {})", code));
    return {};
}

}  // namespace fiplane
