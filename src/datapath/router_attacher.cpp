// SPDX-License-Identifier: Apache-2.0
#include "datapath/router_attacher.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fmt/format.h>
#include <net/if.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "datapath/clsact.hpp"
#include "datapath/device_program.hpp"
#include "datapath/device_query.hpp"
#include "datapath/preflight.hpp"
#include "linux/netns.hpp"
#include "linux/qdisc.hpp"
#include "linux/sysctl.hpp"

namespace fiplane {

namespace {

constexpr const char* kAnyWindow = "netfilter/nf_conntrack_tcp_be_liberal";

std::string directory_of(const PinPaths& paths, const NetnsName& netns) {
    return fmt::format("{}/{}", paths.routers(), netns);
}

std::string pin_of(const PinPaths& paths, const std::pair<NetnsName, std::string>& place) {
    return fmt::format("{}/{}", directory_of(paths, place.first), place.second);
}

/// The id of a link that is at a device; 0: its device is gone, or it is no such link.
std::uint32_t id_of(int link) {
    bpf_link_info info{};
    std::uint32_t length = sizeof(info);
    if (bpf_link_get_info_by_fd(link, &info, &length) != 0 || info.type != BPF_LINK_TYPE_TCX) return 0;
    return info.tcx.ifindex == 0 ? 0 : info.id;
}

/// Runs `what` inside a namespace.
template <typename What>
Result<> inside(const NetnsName& name, What what) {
    auto netns = Netns::open(name);
    if (!netns) return pass_on(netns);
    auto guard = NetnsGuard::enter(*netns);
    if (!guard) return pass_on(guard);
    return what();
}

/// Linux translates nothing that lies outside of the TCP windows that conntrack has seen, and of a connection that the
/// programs give back it has not seen the SYN, with the factor by which windows are to be multiplied. Of what it picks
/// up itself in mid-life it does not ask for windows (IP_CT_TCP_FLAG_BE_LIBERAL). A program can say that of no entry,
/// so the namespace says it of all, and goes on saying it when there is no agent.
Result<> allow_any_window(const NetnsName& name) {
    auto netns = Netns::open(name);
    if (!netns) return pass_on(netns);
    auto now = read_sysctl(*netns, kAnyWindow);
    if (!now) return pass_on(now);
    return *now == "1" ? Result<>{} : write_sysctl(*netns, kAnyWindow, "1");
}

/// A place for our filter that leaves Neutron's to Neutron.
Result<> make_place_for_filter(const DeviceRole& device) {
    auto netns = Netns::open(device.netns);
    if (!netns) return pass_on(netns);
    return ensure_ingress_qdisc(*netns, device.ifindex);
}

/// Whether there is certainly no namespace of that name.
bool is_gone(const NetnsName& name) {
    const auto found = Netns::find(name);
    return found && !*found;
}

/// Takes our filter off a device, if there is one. What was in a namespace is gone with it.
Result<> remove_filter(const NetnsName& netns, const std::string& device) {
    if (is_gone(netns)) return {};
    return inside(netns, [&]() -> Result<> {
        const int ifindex = static_cast<int>(if_nametoindex(device.c_str()));
        return ifindex == 0 ? Result<>{} : clsact_detach({FL_HOOK_TC_ROUTER, ifindex});
    });
}

/// Whether our filter is on a device; true where that cannot be found out.
bool has_filter(const NetnsName& netns, const std::string& device) {
    bool there = false;
    const auto asked = inside(netns, [&]() -> Result<> {
        auto query = DeviceQuery::open();
        if (!query) return pass_on(query);
        auto filters = query->filters(static_cast<int>(if_nametoindex(device.c_str())), false);
        if (!filters) return pass_on(filters);
        there = std::ranges::any_of(*filters, is_our_filter);
        return {};
    });
    return asked ? there : !is_gone(netns);
}

bool is_gone(const DeviceRole& device) {
    bool gone = false;
    const auto asked = inside(device.netns, [&]() -> Result<> {
        gone = static_cast<int>(if_nametoindex(device.name.c_str())) != device.ifindex;
        return {};
    });
    return asked ? gone : is_gone(device.netns);
}

/// The program array whose entry 0 all devices' programs call. It must be pinned: the kernel empties one that nothing
/// in userspace refers to any more.
Result<UniqueFd> open_stages(const PinPaths& paths) {
    const std::string path = paths.map(kStagesMap);
    UniqueFd stages(bpf_obj_get(path.c_str()));
    if (stages) return stages;
    stages = UniqueFd(
        bpf_map_create(BPF_MAP_TYPE_PROG_ARRAY, kStagesMap, sizeof(std::uint32_t), sizeof(std::uint32_t), 1, nullptr));
    if (!stages) return fail_errno(errno, "cannot make BPF map", kStagesMap);
    if (const int error = bpf_obj_pin(stages.get(), path.c_str()); error != 0)
        return fail_errno(error, "cannot pin a BPF map", path);
    return stages;
}

}  // namespace

Result<std::vector<std::pair<NetnsName, std::string>>> RouterAttacher::pinned(const PinPaths& paths) {
    std::vector<std::pair<NetnsName, std::string>> out;
    const auto names = list_pins(paths.routers());
    if (!names) return std::unexpected(names.error());
    for (const auto& netns : *names) {
        const auto devices = list_pins(directory_of(paths, netns));
        if (!devices) return std::unexpected(devices.error());
        for (const auto& device : *devices)
            out.emplace_back(netns, device);
        if (devices->empty()) rmdir(directory_of(paths, netns).c_str());
    }
    return out;
}

Result<RouterAttacher> RouterAttacher::open(PinPaths paths, UniqueFd program, TcBackend tc) {
    if (auto made = make_pin_directory(paths.routers()); !made) return pass_on(made);
    auto stages = open_stages(paths);
    if (!stages) return pass_on(stages);
    const std::uint32_t key = 0;
    const int fd = program.get();
    if (bpf_map_update_elem(stages->get(), &key, &fd, BPF_ANY) != 0)
        return fail_errno(errno, "cannot make tc_router the tail of devices' programs");
    RouterAttacher attacher(std::move(paths), std::move(program), std::move(*stages), tc);
    if (auto done = attacher.take_over(); !done) return pass_on(done);
    return attacher;
}

Result<> RouterAttacher::take_over() {
    const auto pins = pinned(paths_);
    if (!pins) return std::unexpected(pins.error());
    for (const Place& place : *pins) {
        UniqueFd link;
        if (tc_ == TcBackend::kTcx) link = UniqueFd(bpf_obj_get(pin_of(paths_, place).c_str()));
        if (link ? id_of(link.get()) != 0 : has_filter(place.first, place.second)) {
            held_.emplace(place, std::move(link));
        } else if (auto done = forget(place); !done) {
            return done;
        }
    }
    return {};
}

Result<> RouterAttacher::attach(const std::vector<DeviceRole>& devices, const std::set<NetnsName>& unread) {
    attachments_.clear();
    std::set<Place> wanted;
    for (const DeviceRole& device : devices)
        wanted.emplace(device.netns, device.name);
    std::vector<Place> unwanted;
    for (const auto& [place, link] : held_) {
        if (!wanted.contains(place) && !unread.contains(place.first)) unwanted.push_back(place);
    }
    Result<> first_error;
    const auto note = [&](Result<> done) {
        if (!done && first_error) first_error = std::move(done);
    };
    for (const Place& place : unwanted)
        note(detach(place));
    for (const DeviceRole& device : devices) {
        Attachment result{device.ifindex, device.name, FL_HOOK_TC_ROUTER, "none", device.refused, device.netns};
        auto there = attach_one(device, result);
        if (!there) note(pass_on(there));
        // What comes of a device that is gone the next look at Linux tells.
        if (there.value_or(true)) attachments_.push_back(std::move(result));
    }
    return first_error;
}

/// Whether what is held there is at the device that is there now. It goes with its device, of which there may be
/// another; and a namespace that lost its name may live on, while another one has the name. Where that cannot be found
/// out it is: what fails must not take a program off.
bool RouterAttacher::lives(const DeviceRole& device) const {
    const auto found = held_.find({device.netns, device.name});
    if (found == held_.end()) return false;
    if (!found->second) return has_filter(device.netns, device.name);
    const std::uint32_t id = id_of(found->second.get());
    bool there = false;
    const auto asked = inside(device.netns, [&]() -> Result<> {
        const auto programs = tcx_programs(device.ifindex, false);
        there = id != 0 && std::ranges::find(programs, id, &TcxFacts::link_id) != programs.end();
        return {};
    });
    return asked ? there : id != 0 && !is_gone(device.netns);
}

/// False: the device has gone in the meantime.
Result<bool> RouterAttacher::attach_one(const DeviceRole& device, Attachment& result) {
    const Place place{device.netns, device.name};
    const bool tcx = tc_ == TcBackend::kTcx;
    const bool there = lives(device);
    if (!there) {
        if (auto done = forget(place); !done) {
            result.why = done.error().message();
            return pass_on(done);
        }
        if (!device.refused.empty()) return true;
    }
    Result<> done;
    if (!there) done = allow_any_window(device.netns);
    if (!there && done && !tcx) done = make_place_for_filter(device);
    if (!there && done) done = inside(device.netns, [&] { return attach_here(place, device); });
    if (!done) {
        // A directory or a pin that was made for it would stay for as long as the agent lives.
        result.why = done.error().message();
        if (auto forgotten = forget(place); !forgotten) return pass_on(forgotten);
        if (is_gone(device)) return false;
        return pass_on(done);
    }
    result.mode = tcx ? "tcx" : "clsact";
    if (device.refused.empty())
        result.why = tcx ? "the kernel has tcx links" : "the kernel has no tcx links (they came with 6.6)";
    return true;
}

/// In the device's namespace. Its program stays for as long as the device lives: an upgrade changes the tail alone.
Result<> RouterAttacher::attach_here(const Place& place, const DeviceRole& device) {
    auto program = load_device_program(device.number, stages_.get(), BPF_TCX_INGRESS);
    if (!program) return pass_on(program);
    if (auto made = make_pin_directory(directory_of(paths_, device.netns)); !made) return made;
    const std::string pin = pin_of(paths_, place);
    UniqueFd link;
    if (tc_ == TcBackend::kTcx) {
        link = UniqueFd(bpf_link_create(program->get(), device.ifindex, BPF_TCX_INGRESS, nullptr));
        if (!link) return fail_errno(errno, "cannot attach tc_router by tcx", place.first + "/" + place.second);
    }
    // Of a filter the pin is a mark. It comes first, so that there is never a filter without one.
    const int pinned = link ? link.get() : program->get();
    if (const int error = bpf_obj_pin(pinned, pin.c_str()); error != 0) return fail_errno(error, "cannot pin", pin);
    if (!link) {
        if (auto done = clsact_attach({FL_HOOK_TC_ROUTER, device.ifindex}, program->get()); !done) return done;
    }
    held_.insert_or_assign(place, std::move(link));
    return {};
}

/// Without a word to the kernel: there is nothing any more.
Result<> RouterAttacher::forget(const Place& place) {
    held_.erase(place);
    if (auto done = unlink_pin(pin_of(paths_, place)); !done) return done;
    rmdir(directory_of(paths_, place.first).c_str());  // of a namespace without devices of ours
    return {};
}

Result<> RouterAttacher::detach(const Place& place) {
    const auto found = held_.find(place);
    if (found == held_.end()) return {};
    if (found->second) {
        const int error = bpf_link_detach(found->second.get());
        if (error != 0 && error != -ENOLINK && error != -ENODEV)
            return fail_errno(error, "cannot detach tc_router", place.first + "/" + place.second);
    } else if (auto done = remove_filter(place.first, place.second); !done) {
        return done;
    }
    return forget(place);
}

Result<> RouterAttacher::detach_all() {
    attachments_.clear();
    std::vector<Place> places;
    places.reserve(held_.size());
    for (const auto& [place, link] : held_)
        places.push_back(place);
    Result<> first_error;
    for (const Place& place : places) {
        auto done = detach(place);
        if (!done && first_error) first_error = std::move(done);
    }
    return first_error;
}

Result<> RouterAttacher::remove_pins(const PinPaths& paths) {
    const auto pins = pinned(paths);
    if (!pins) return std::unexpected(pins.error());
    for (const Place& place : *pins) {
        const UniqueFd fd(bpf_obj_get(pin_of(paths, place).c_str()));
        // EINVAL: a program, which marks one of our clsact filters.
        if (fd && bpf_link_detach(fd.get()) == -EINVAL) {
            if (auto done = remove_filter(place.first, place.second); !done) return done;
        }
        if (auto done = unlink_pin(pin_of(paths, place)); !done) return done;
        rmdir(directory_of(paths, place.first).c_str());
    }
    if (rmdir(paths.routers().c_str()) != 0 && errno != ENOENT)
        return fail_errno(errno, "cannot remove a directory of pins", paths.routers());
    return {};
}

}  // namespace fiplane
