// SPDX-License-Identifier: Apache-2.0
#include "datapath/clsact.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fmt/format.h>

#include <cerrno>

#include "core/reasons.hpp"
#include "datapath/datapath.hpp"

namespace fiplane {

namespace {

constexpr int kLoopback = 1;

bpf_tc_hook tc_hook(const HookPoint& point) {
    bpf_tc_hook hook{};
    hook.sz = sizeof(hook);
    hook.ifindex = point.ifindex;
    hook.attach_point = is_egress(point.hook) ? BPF_TC_EGRESS : BPF_TC_INGRESS;
    return hook;
}

bpf_tc_opts tc_options() {
    bpf_tc_opts options{};
    options.sz = sizeof(options);
    options.handle = kClsactHandle;
    options.priority = kClsactPriority;
    return options;
}

}  // namespace

bool kernel_has_tcx() {
    struct bpf_prog_query_opts options{};
    options.sz = sizeof(options);
    return bpf_prog_query_opts(kLoopback, BPF_TCX_INGRESS, &options) == 0;
}

bool is_egress(fl_hook hook) {
    return hook == FL_HOOK_TC_HOST;
}

Result<> clsact_attach(const HookPoint& point, int program_fd) {
    bpf_tc_hook hook = tc_hook(point);
    if (const int error = bpf_tc_hook_create(&hook); error != 0 && error != -EEXIST) {
        return fail_errno(error, fmt::format("cannot make a clsact qdisc on device {}", point.ifindex));
    }
    bpf_tc_opts options = tc_options();
    options.prog_fd = program_fd;
    options.flags = BPF_TC_F_REPLACE;
    if (const int error = bpf_tc_attach(&hook, &options); error != 0) {
        return fail_errno(error,
                          fmt::format("cannot attach {} to device {} by clsact", hook_name(point.hook), point.ifindex));
    }
    return {};
}

Result<> clsact_detach(const HookPoint& point) {
    auto query = DeviceQuery::open();
    if (!query) return pass_on(query);
    auto filters = query->filters(point.ifindex, is_egress(point.hook));
    if (!filters) return pass_on(filters);
    for (const auto& filter : *filters) {
        if (!is_our_filter(filter) || !filter.program_name.starts_with(hook_name(point.hook))) continue;
        const bpf_tc_hook hook = tc_hook(point);
        const bpf_tc_opts options = tc_options();
        const int error = bpf_tc_detach(&hook, &options);
        if (error == 0 || error == -ENOENT || error == -ENODEV || error == -EINVAL) return {};
        return fail_errno(
            error, fmt::format("cannot detach {} from device {} by clsact", hook_name(point.hook), point.ifindex));
    }
    return {};
}

bool is_our_filter(const FilterFacts& filter) {
    if (filter.kind != "bpf" || filter.handle != kClsactHandle || filter.priority != kClsactPriority) return false;
    for (int hook = 0; hook < FL_HOOK_COUNT; ++hook) {
        if (filter.program_name.starts_with(hook_name(static_cast<fl_hook>(hook)))) return true;
    }
    return false;
}

}  // namespace fiplane
