// SPDX-License-Identifier: Apache-2.0
// Programs of others at a device. A packet that the fast path takes past them would miss what they do to it.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "datapath/attacher.hpp"
#include "datapath/clsact.hpp"
#include "datapath/datapath.hpp"
#include "datapath/device_program.hpp"
#include "datapath/device_query.hpp"
#include "datapath/program_info.hpp"

namespace fiplane {

namespace {

std::string_view direction(bool egress) {
    return egress ? "egress" : "ingress";
}

std::string phrase(std::string_view where, std::uint32_t program_id) {
    const std::string name = program_name(program_id);
    return fmt::format("{} prog {}{}{}", where, program_id, name.empty() ? "" : " ", name);
}

template <typename IsOurs>
void list_tcx(int ifindex, bool egress, IsOurs is_ours, std::vector<std::string>& out) {
    for (const TcxFacts& at : tcx_programs(ifindex, egress)) {
        if (!is_ours(at)) out.push_back(phrase(fmt::format("tcx {}", direction(egress)), at.program_id));
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
            ifindex, egress, [](const TcxFacts& at) { return program_name(at.program_id) == kDeviceProgramName; }, out);
        list_filters(*query, ifindex, egress, is_our_filter, out);
    }
    return out;
}

std::vector<std::string> Attacher::foreign_programs(int ifindex) const {
    std::vector<std::string> out;
    const auto is_held = [this](const TcxFacts& at) {
        return at.link_id != 0 &&
               std::ranges::any_of(held_, [&at](const auto& entry) { return entry.second.link_id == at.link_id; });
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
