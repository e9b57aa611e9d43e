// SPDX-License-Identifier: Apache-2.0
// Programs of others at a device. A packet that the fast path takes past them would miss what they do to it.
#include <bpf/bpf.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>

#include "datapath/attacher.hpp"
#include "datapath/clsact.hpp"
#include "datapath/program_info.hpp"

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

}  // namespace

std::vector<std::string> Attacher::foreign_programs(int ifindex) const {
    std::vector<std::string> out;
    list_foreign_xdp(ifindex, out);
    for (const bool egress : {false, true}) {
        if (tc_ == TcBackend::kTcx) list_foreign_tcx(ifindex, egress, out);
        list_foreign_filters(ifindex, egress, out);
    }
    return out;
}

void Attacher::list_foreign_tcx(int ifindex, bool egress, std::vector<std::string>& out) const {
    std::array<std::uint32_t, kMostTcxPrograms> programs{};
    std::array<std::uint32_t, kMostTcxPrograms> links{};
    struct bpf_prog_query_opts options{};
    options.sz = sizeof(options);
    options.prog_ids = programs.data();
    options.link_ids = links.data();
    options.count = kMostTcxPrograms;
    if (bpf_prog_query_opts(ifindex, egress ? BPF_TCX_EGRESS : BPF_TCX_INGRESS, &options) != 0) return;
    for (std::size_t i = 0; i < options.count && i < programs.size(); ++i) {
        const auto is_this = [id = links[i]](const auto& entry) { return id != 0 && entry.second.link_id == id; };
        if (std::any_of(held_.begin(), held_.end(), is_this)) continue;
        out.push_back(phrase(fmt::format("tcx {}", direction(egress)), programs[i]));
    }
}

void Attacher::list_foreign_filters(int ifindex, bool egress, std::vector<std::string>& out) const {
    const auto filters = query_.filters(ifindex, egress);
    if (!filters) {
        // Not to know is no proof of absence.
        out.push_back(fmt::format("clsact {}: {}", direction(egress), filters.error().message()));
        return;
    }
    for (const auto& filter : *filters) {
        if (is_our_filter(filter)) continue;
        if (filter.program_id != 0) {
            out.push_back(phrase(fmt::format("clsact {}", direction(egress)), filter.program_id));
        } else {
            out.push_back(
                fmt::format("clsact {} {} filter of priority {}", direction(egress), filter.kind, filter.priority));
        }
    }
}

void Attacher::list_foreign_xdp(int ifindex, std::vector<std::string>& out) const {
    const auto device = query_.device(ifindex);
    if (!device) return;
    const auto own = held_.find(HookPoint{FL_HOOK_XDP_UNDERLAY, ifindex});
    const std::uint32_t own_id = own == held_.end() ? 0 : own->second.program_id;
    const auto add = [&](std::string_view mode, std::uint32_t id) {
        if (id != 0 && id != own_id) out.push_back(phrase(mode, id));
    };
    add("xdp native", device->xdp_native);
    add("xdp generic", device->xdp_generic);
    add("xdp hardware", device->xdp_hardware);
}

}  // namespace fiplane
