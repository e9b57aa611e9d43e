// SPDX-License-Identifier: Apache-2.0
#include "datapath/attacher.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fmt/format.h>
#include <linux/if_link.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "core/reasons.hpp"
#include "datapath/clsact.hpp"
#include "datapath/preflight.hpp"
#include "datapath/program_info.hpp"

namespace fiplane {

namespace {

std::vector<fl_hook> hooks_of(DeviceRole::Kind kind) {
    switch (kind) {
        case DeviceRole::Kind::kUnderlay:
            return {FL_HOOK_TC_UNDERLAY, FL_HOOK_XDP_UNDERLAY};
        case DeviceRole::Kind::kTunnel:
            return {FL_HOOK_TC_TUNNEL};
        case DeviceRole::Kind::kPort:
        case DeviceRole::Kind::kTrunk:
            return {FL_HOOK_TC_PORT};
        case DeviceRole::Kind::kHost:
            return {FL_HOOK_TC_HOST};
        case DeviceRole::Kind::kRouter:
            return {};  // RouterAttacher's
    }
    return {};
}

/// The device that a link is attached to, and what it runs.
struct LinkFacts {
    std::uint32_t id = 0;
    std::uint32_t program_id = 0;
    int ifindex = 0;  ///< 0: the device is gone, or somebody detached the link
};

Result<LinkFacts> link_facts(int link_fd) {
    bpf_link_info info{};
    std::uint32_t length = sizeof(info);
    if (const int error = bpf_link_get_info_by_fd(link_fd, &info, &length); error != 0) {
        return fail_errno(error, "cannot inspect a BPF link");
    }
    LinkFacts facts{info.id, info.prog_id, 0};
    if (info.type == BPF_LINK_TYPE_XDP) facts.ifindex = static_cast<int>(info.xdp.ifindex);
    if (info.type == BPF_LINK_TYPE_TCX) facts.ifindex = static_cast<int>(info.tcx.ifindex);
    return facts;
}

/// The driver's own word (NETDEV_XDP_ACT_*) over generic netlink; 0 where the kernel has none (before 6.3).
std::uint64_t xdp_features(int ifindex) {
    bpf_xdp_query_opts options{};
    options.sz = sizeof(options);
    return bpf_xdp_query(ifindex, 0, &options) == 0 ? options.feature_flags : 0;
}

}  // namespace

Result<Attacher> Attacher::open(PinPaths paths, Programs programs, XdpMode xdp, TcBackend tc) {
    auto query = DeviceQuery::open();
    if (!query) return pass_on(query);
    if (auto made = make_pin_directory(paths.links()); !made) return pass_on(made);
    Attacher attacher(std::move(paths), std::move(programs), xdp, tc, std::move(*query));
    if (auto done = attacher.take_over(); !done) return pass_on(done);
    return attacher;
}

Result<> Attacher::take_over() {
    auto names = list_pins(paths_.links());
    if (!names) return pass_on(names);
    for (const auto& name : *names) {
        const auto point = parse_link_name(name);
        // What is left of an exchange of pins that was cut short, or nothing of ours: it holds no packet up.
        if (!point) {
            if (auto done = unlink_pin(paths_.links() + "/" + name); !done) return done;
            continue;
        }
        if (auto done = take_over_one(*point); !done) return done;
    }
    return {};
}

Result<> Attacher::take_over_one(const HookPoint& point) {
    UniqueFd fd(bpf_obj_get(paths_.link(point).c_str()));
    if (!fd) return fail_errno(errno, "cannot open a pin", paths_.link(point));
    if (point.hook != FL_HOOK_XDP_UNDERLAY && tc_ == TcBackend::kClsact) {
        // No filter: the device took it along, or the pin's maker died before it attached.
        auto filters = query_.filters(point.ifindex, is_egress(point.hook));
        if (!filters) return pass_on(filters);
        if (std::ranges::none_of(*filters, is_our_filter)) return unlink_pin(paths_.link(point));
        held_.emplace(point, Held{});
        return {};
    }
    auto facts = link_facts(fd.get());
    if (!facts) return pass_on(facts);
    if (facts->ifindex != point.ifindex) return unlink_pin(paths_.link(point));
    held_.emplace(point, Held{std::move(fd), facts->id, facts->program_id, false});
    return {};
}

Result<> Attacher::attach(const std::vector<DeviceRole>& devices) {
    std::vector<Wish> wishes;
    std::set<HookPoint> wanted;
    for (const auto& device : devices) {
        for (const auto hook : hooks_of(device.kind)) {
            const HookPoint point{hook, device.ifindex};
            if (wanted.insert(point).second) wishes.push_back({point, &device});
        }
    }
    std::vector<HookPoint> unwanted;
    for (const auto& [point, held] : held_) {
        if (!wanted.contains(point)) unwanted.push_back(point);
    }
    attachments_.clear();
    // Every device is served, whatever happens at another; the first error is the call's.
    Result<> first_error;
    const auto note = [&first_error](auto& result) {
        if (!result && first_error) first_error = std::unexpected(result.error());
    };
    for (const auto& point : unwanted) {
        auto done = detach(point);
        note(done);
    }
    for (const auto& wish : wishes) {
        Attachment result{wish.point.ifindex, wish.device->name, wish.point.hook, "none", {}};
        auto done = fulfil(wish, result);
        note(done);
        attachments_.push_back(std::move(result));
    }
    return first_error;
}

Result<> Attacher::fulfil(const Wish& wish, Attachment& result) {
    if (!wish.device->refused.empty()) {
        result.why = wish.device->refused;
        return detach(wish.point);
    }
    if (wish.point.hook == FL_HOOK_XDP_UNDERLAY) return attach_xdp(wish, result);
    const bool tcx = tc_ == TcBackend::kTcx;
    auto done = tcx ? attach_tcx(wish.point) : attach_clsact(wish.point);
    if (done) {
        result.mode = tcx ? "tcx" : "clsact";
        result.why = tcx ? "the kernel has tcx links" : "the kernel has no tcx links (they came with 6.6)";
    } else {
        result.why = done.error().message();
    }
    return {};
}

Attacher::Held* Attacher::living(const HookPoint& point) {
    const auto found = held_.find(point);
    if (found == held_.end()) return nullptr;
    if (!found->second.link) return &found->second;
    const auto facts = link_facts(found->second.link.get());
    if (facts && facts->ifindex == point.ifindex) return &found->second;
    // The device went, and another one may have come under its index.
    held_.erase(found);
    if (auto gone = unlink_pin(paths_.link(point)); !gone) spdlog::warn("{}", gone.error().message());
    return nullptr;
}

Result<> Attacher::attach_tcx(const HookPoint& point) {
    if (Held* held = living(point)) return bring_up_to_date(point, *held);
    const auto type = is_egress(point.hook) ? BPF_TCX_EGRESS : BPF_TCX_INGRESS;
    UniqueFd link(bpf_link_create(programs_[point.hook].get(), point.ifindex, type, nullptr));
    if (!link) {
        return fail_errno(errno,
                          fmt::format("cannot attach {} to device {} by tcx", hook_name(point.hook), point.ifindex));
    }
    return hold_link(point, std::move(link));
}

Result<> Attacher::hold_link(const HookPoint& point, UniqueFd link) {
    auto facts = link_facts(link.get());
    if (!facts) return pass_on(facts);
    const std::string path = paths_.link(point);
    // A pin of the same name that take_over() did not see can only be a dead agent's of a moment ago.
    if (auto done = unlink_pin(path); !done) return done;
    if (const int error = bpf_obj_pin(link.get(), path.c_str()); error != 0) {
        return fail_errno(error, "cannot pin a link", path);
    }
    held_.insert_or_assign(point, Held{std::move(link), facts->id, facts->program_id, true});
    return {};
}

bool Attacher::runs_same_program(const HookPoint& point, const Held& held) const {
    // Whatever cannot be read (ids need CAP_SYS_ADMIN) counts as different: a replacement is atomic and harmless.
    const auto old_program = open_program(held.program_id);
    if (!old_program) return false;
    const auto old_print = program_fingerprint(old_program->get());
    const auto new_print = program_fingerprint(programs_[point.hook].get());
    return old_print && new_print && *old_print == *new_print;
}

Result<> Attacher::bring_up_to_date(const HookPoint& point, Held& held) {
    if (held.current) return {};
    if (!runs_same_program(point, held)) {
        if (const int error = bpf_link_update(held.link.get(), programs_[point.hook].get(), nullptr); error != 0) {
            return fail_errno(error,
                              fmt::format("cannot replace {} on device {}", hook_name(point.hook), point.ifindex));
        }
        auto facts = link_facts(held.link.get());
        if (!facts) return pass_on(facts);
        held.program_id = facts->program_id;
    }
    held.current = true;
    return {};
}

Result<> Attacher::attach_clsact(const HookPoint& point) {
    const auto found = held_.find(point);
    auto own = program_info(programs_[point.hook].get());
    if (!own) return pass_on(own);
    if (found != held_.end() && found->second.current) {
        // The filter goes with the device, and a new device may have its index: look at what is there.
        auto filters = query_.filters(point.ifindex, is_egress(point.hook));
        if (!filters) return pass_on(filters);
        const auto there = [&own](const FilterFacts& filter) {
            return is_our_filter(filter) && filter.program_id == own->id;
        };
        if (std::ranges::any_of(*filters, there)) return {};
    }
    // The mark comes before the filter and is exchanged in one step after it, so there is never a filter without one.
    const std::string path = paths_.link(point);
    const std::string fresh = path + "-new";
    const int program = programs_[point.hook].get();
    if (auto done = unlink_pin(fresh); !done) return done;
    if (const int error = bpf_obj_pin(program, fresh.c_str()); error != 0) {
        return fail_errno(error, "cannot pin a program", fresh);
    }
    if (found == held_.end() && std::rename(fresh.c_str(), path.c_str()) != 0) {
        return fail_errno(errno, "cannot pin a program", path);
    }
    held_.insert_or_assign(point, Held{});
    if (auto done = clsact_attach(point, program); !done) return done;
    if (found != held_.end() && std::rename(fresh.c_str(), path.c_str()) != 0) {
        return fail_errno(errno, "cannot pin a program", path);
    }
    held_.insert_or_assign(point, Held{{}, 0, own->id, true});
    return {};
}

Result<> Attacher::attach_xdp(const Wish& wish, Attachment& result) {
    const HookPoint& point = wish.point;
    auto device = query_.device(point.ifindex);
    if (!device) {
        result.why = device.error().message();
        return {};
    }
    const XdpChoice choice = choose_xdp(xdp_, *device, wish.device->wire_to_wire);
    if (const Held* held = living(point);
        held != nullptr && mode_of_program(*device, held->program_id) != choice.mode) {
        if (auto done = detach(point); !done) return done;
    }
    result.why = choice.why;
    if (choice.mode == XdpChoice::Mode::kNone) return {};
    Held* held = living(point);
    auto done = held != nullptr ? bring_up_to_date(point, *held) : link_xdp(point, choice.mode);
    if (done) {
        result.mode = mode_name(choice.mode);
        return {};
    }
    result.why = done.error().message();
    if (!choice.forced) return {};
    return fail(ExitCode::kMissingFeature,
                fmt::format("no {} on {}: {}", mode_name(choice.mode), wish.device->name, result.why), {},
                "use XDP mode auto");
}

Result<> Attacher::link_xdp(const HookPoint& point, XdpChoice::Mode mode) {
    // Asked only now: what was held a moment ago in another mode is no reason to refuse.
    std::vector<std::string> others;
    list_foreign_xdp(point.ifindex, others);
    if (!others.empty()) {
        return fail(ExitCode::kForeignObject, "another XDP program is attached already: " + others.front());
    }
    const bool native = mode == XdpChoice::Mode::kNative;
    bpf_link_create_opts options{};
    options.sz = sizeof(options);
    // Without a mode flag the kernel would fall back to generic mode in silence.
    options.flags = native ? XDP_FLAGS_DRV_MODE : XDP_FLAGS_SKB_MODE;
    UniqueFd link(bpf_link_create(programs_[point.hook].get(), point.ifindex, BPF_XDP, &options));
    if (link) return hold_link(point, std::move(link));
    const int error = errno;
    if (native) return fail(ExitCode::kFailed, explain_native_refusal(error, xdp_features(point.ifindex)));
    return fail(ExitCode::kFailed, fmt::format("the kernel refused generic XDP: {}", std::strerror(error)));
}

Result<> Attacher::detach(const HookPoint& point) {
    const auto found = held_.find(point);
    if (found == held_.end()) return {};
    if (found->second.link) {
        // Closing would not do while another process holds the link. ENOLINK: the device took the link along.
        const int error = bpf_link_detach(found->second.link.get());
        if (error != 0 && error != -ENOLINK && error != -ENODEV) {
            return fail_errno(error,
                              fmt::format("cannot detach {} from device {}", hook_name(point.hook), point.ifindex));
        }
    } else if (auto done = clsact_detach(point); !done) {
        return done;
    }
    held_.erase(found);
    return unlink_pin(paths_.link(point));
}

Result<> Attacher::detach_all() {
    attachments_.clear();
    std::vector<HookPoint> points;
    points.reserve(held_.size());
    for (const auto& [point, held] : held_)
        points.push_back(point);
    Result<> first_error;
    for (const auto& point : points) {
        auto done = detach(point);
        if (!done && first_error) first_error = pass_on(done);
    }
    return first_error;
}

}  // namespace fiplane
