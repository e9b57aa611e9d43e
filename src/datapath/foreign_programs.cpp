// SPDX-License-Identifier: Apache-2.0
// Programs of others at a device. A packet that the fast path takes past them would miss what they do to it.
#include <bpf/bpf.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>

#include "datapath/attacher.hpp"
#include "datapath/clsact.hpp"
#include "datapath/datapath.hpp"
#include "datapath/device_query.hpp"
#include "datapath/program_info.hpp"
#include "datapath/router_stub.hpp"

namespace fiplane {

namespace {

/// The kernel allows 64 programs per tcx hook.
constexpr std::size_t kMostTcxPrograms = 64;

std::string_view direction(bool egress) {
    return egress ? "egress" : "ingress";
}

std::string phrase(std::string_view where, std::uint32_t program_id) {
    const std::string name = program_name(program_id);
    return fmt::format("{} prog {}{}{}", where, program_id, name.empty() ? "" : " ", name);
}

/// `is_ours`: of ids of a link and its program.
template <typename IsOurs>
void list_tcx(int ifindex, bool egress, IsOurs is_ours, std::vector<std::string>& out) {
    std::array<std::uint32_t, kMostTcxPrograms> programs{};
    std::array<std::uint32_t, kMostTcxPrograms> links{};
    struct bpf_prog_query_opts options{};
    options.sz = sizeof(options);
    options.prog_ids = programs.data();
    options.link_ids = links.data();
    options.count = kMostTcxPrograms;
    // A kernel without tcx refuses the question.
    if (bpf_prog_query_opts(ifindex, egress ? BPF_TCX_EGRESS : BPF_TCX_INGRESS, &options) != 0) return;
    for (std::size_t i = 0; i < options.count && i < programs.size(); ++i) {
        if (!is_ours(links[i], programs[i]))
            out.push_back(phrase(fmt::format("tcx {}", direction(egress)), programs[i]));
    }
}

/// `is_ours`: of a filter.
template <typename IsOurs>
void list_filters(DeviceQuery& query, int ifindex, bool egress, IsOurs is_ours, std::vector<std::string>& out) {
    const auto filters = query.filters(ifindex, egress);
    if (!filters) {
        // Not to know is no proof of absence.
        out.push_back(fmt::format("clsact {}: {}", direction(egress), filters.error().message()));
        return;
    }
    for (const auto& filter : *filters) {
        if (is_ours(filter)) continue;
        if (filter.program_id != 0) {
            out.push_back(phrase(fmt::format("clsact {}", direction(egress)), filter.program_id));
        } else {
            out.push_back(
                fmt::format("clsact {} {} filter of priority {}", direction(egress), filter.kind, filter.priority));
        }
    }
}

void list_xdp(DeviceQuery& query, int ifindex, std::uint32_t own_program, std::vector<std::string>& out) {
    const auto device = query.device(ifindex);
    if (!device) return;
    const auto add = [&](std::string_view mode, std::uint32_t id) {
        if (id != 0 && id != own_program) out.push_back(phrase(mode, id));
    };
    add("xdp native", device->xdp_native);
    add("xdp generic", device->xdp_generic);
    add("xdp hardware", device->xdp_hardware);
}

}  // namespace

std::vector<std::string> programs_here(int ifindex) {
    std::vector<std::string> out;
    auto query = DeviceQuery::open();
    if (!query) return {query.error().message()};
    list_xdp(*query, ifindex, 0, out);
    for (const bool egress : {false, true}) {
        list_tcx(
            ifindex, egress, [](std::uint32_t, std::uint32_t program) { return program_name(program) == kStubName; },
            out);
        list_filters(*query, ifindex, egress, is_our_filter, out);
    }
    return out;
}

std::vector<std::string> Attacher::foreign_programs(int ifindex) const {
    std::vector<std::string> out;
    const auto is_held = [this](std::uint32_t link, std::uint32_t /*program*/) {
        return link != 0 &&
               std::ranges::any_of(held_, [link](const auto& entry) { return entry.second.link_id == link; });
    };
    list_foreign_xdp(ifindex, out);
    for (const bool egress : {false, true}) {
        if (tc_ == TcBackend::kTcx) list_tcx(ifindex, egress, is_held, out);
        list_filters(query_, ifindex, egress, is_our_filter, out);
    }
    return out;
}

void Attacher::list_foreign_xdp(int ifindex, std::vector<std::string>& out) const {
    const auto own = held_.find(HookPoint{FL_HOOK_XDP_UNDERLAY, ifindex});
    list_xdp(query_, ifindex, own == held_.end() ? 0 : own->second.program_id, out);
}

}  // namespace fiplane
