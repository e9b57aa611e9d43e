// SPDX-License-Identifier: Apache-2.0
#include "agent/status.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>

#include "agent/walk_json.hpp"
#include "core/reasons.hpp"

namespace fiplane {
namespace {

using nlohmann::json;

const char* class_name(fl_class kind) {
    switch (kind) {
        case FL_CLASS_FAST:
            return "fast";
        case FL_CLASS_PASS:
            return "pass";
        case FL_CLASS_FLOOD:
            return "flood";
        case FL_CLASS_SLOW:
            return "slow";
        case FL_CLASS_DROP:
            return "drop";
    }
    return "unknown";
}

bool is_counted(fl_class kind) {
    return kind == FL_CLASS_FAST || kind == FL_CLASS_SLOW || kind == FL_CLASS_DROP;
}

/// What compile says, overruled by what keeps its rows from being used.
json floating_ip_json(const AgentStatus& status, FipReport report) {
    std::string obstacle;
    if (!status.fast_path) {
        obstacle = "the fast path is switched off";
    } else if (status.left_out->contains(report.fip)) {
        obstacle = "its rows did not fit into the tables (see problems)";
    }
    if (report.fast_in) report.reason_in = obstacle;
    if (report.fast_out) report.reason_out = obstacle;
    report.fast_in = report.fast_in && obstacle.empty();
    report.fast_out = report.fast_out && obstacle.empty();
    const auto found = status.fip_counters.find(report.fip);
    const FipCounters counters = found == status.fip_counters.end() ? FipCounters{} : found->second;
    json row = report_json(report);
    row.update({{"in_packets", counters.in_packets},
                {"in_bytes", counters.in_bytes},
                {"out_packets", counters.out_packets},
                {"out_bytes", counters.out_bytes}});
    return row;
}

json devices_json(const std::vector<Attachment>& attachments) {
    json rows = json::array();
    for (const Attachment& attachment : attachments) {
        rows.push_back({{"netns", attachment.netns},
                        {"device", attachment.device},
                        {"hook", hook_name(attachment.hook)},
                        {"mode", attachment.mode},
                        {"why", attachment.why}});
    }
    return rows;
}

std::vector<CounterValue> at_hook(const std::vector<CounterValue>& counters, fl_hook hook) {
    std::vector<CounterValue> rows;
    std::ranges::copy_if(counters, std::back_inserter(rows), [&](const auto& row) { return row.hook == hook; });
    return rows;
}

json counters_json(const std::vector<CounterValue>& counters) {
    json rows = json::array();
    for (const CounterValue& row : counters) {
        const fl_class kind = reason_class(row.reason);
        const Share of_hook = share_of(at_hook(counters, row.hook));
        json share;
        if (is_counted(kind)) share = Share{row.packets, of_hook.counted}.ratio();
        rows.push_back({{"hook", hook_name(row.hook)},
                        {"reason", reason_name(row.reason)},
                        {"class", class_name(kind)},
                        {"packets", row.packets},
                        {"bytes", row.bytes},
                        {"share", share},
                        {"text", reason_text(row.reason)}});
    }
    return rows;
}

json hooks_json(const std::vector<CounterValue>& counters) {
    json rows = json::array();
    for (int i = 0; i < FL_HOOK_COUNT; ++i) {
        const auto hook = static_cast<fl_hook>(i);
        const Share share = share_of(at_hook(counters, hook));
        if (share.counted == 0) continue;
        rows.push_back({{"hook", hook_name(hook)}, {"packets", share.counted}, {"share", share.ratio()}});
    }
    return rows;
}

json problems_json(const Problems& problems) {
    json rows = json::array();
    for (const auto& [activity, problem] : problems.current()) {
        json row = {{"activity", activity},
                    {"since", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}",
                                          fmt::gmtime(std::chrono::system_clock::to_time_t(problem.since)))},
                    {"attempts", problem.attempts}};
        row.update(to_json(problem.error));
        rows.push_back(std::move(row));
    }
    return rows;
}

json statistics_json(const AgentStatus& status) {
    const auto milliseconds = [](std::chrono::microseconds span) { return static_cast<double>(span.count()) / 1000; };
    const auto& fast_path = status.fast_path_statistics;
    return {{"events", status.observer.events},
            {"partial_dumps", status.observer.partial_dumps},
            {"full_dumps", status.observer.full_dumps},
            {"overruns", status.observer.overruns},
            {"updates", fast_path.updates},
            {"rows_written", fast_path.rows_written},
            {"rows_removed", fast_path.rows_removed},
            {"changes_applied", status.changes_applied},
            {"neighbours_confirmed", status.confirmations},
            {"learned_refreshed", status.refreshes},
            {"last_compile_ms", milliseconds(fast_path.last_compile)},
            {"last_sync_ms", milliseconds(fast_path.last_sync)},
            {"last_change_ms", milliseconds(status.last_change)}};
}

/// Why the node has no walk for a floating IP of the topology.
std::string whereabouts(const AgentStatus& status, const FloatingIp& floating_ip) {
    const Topology& topology = *status.topology;
    const std::string& router = topology.routers[floating_ip.router].name;
    const std::string target = floating_ip.port ? fmt::format("port {}", topology.ports[*floating_ip.port].name)
                                                : fmt::format("fixed IP {}", floating_ip.fixed_ip.str());
    const auto node = topology.node_of(floating_ip);
    if (!node) return fmt::format("its {} is on no node", target);
    const std::string& name = topology.nodes[*node].name;
    if (name == status.node)
        return fmt::format("it belongs here ({}, router {}), but Linux does not translate it", target, router);
    return fmt::format("it lives on node {} ({}, router {})", name, target, router);
}

/// Is it translated by the router, or passes the namespace, that `name` is (the id of)?
bool passes(const FipReport& report, const std::string& name) {
    const std::string id = neutron_id(report.router);
    if (report.router == name || (!id.empty() && (id == name || id == neutron_id(name)))) return true;
    return std::ranges::any_of(report.steps_in, [&](const WalkStep& step) { return step.netns == name; });
}

json walks_json(const AgentStatus& status, const FipReport& report) {
    json row = floating_ip_json(status, report);
    row.update(steps_json(report));
    return row;
}

}  // namespace

json Share::ratio() const {
    if (counted == 0) return nullptr;
    return static_cast<double>(fast) / static_cast<double>(counted);
}

Share share_of(const std::vector<CounterValue>& counters) {
    Share share;
    for (const CounterValue& row : counters) {
        const fl_class kind = reason_class(row.reason);
        if (kind == FL_CLASS_FAST) share.fast += row.packets;
        if (is_counted(kind)) share.counted += row.packets;
    }
    return share;
}

json status_json(const AgentStatus& status) {
    const Share share = share_of(status.counters);
    const Topology* topology = status.topology;
    json routers = json::array();
    for (const NeutronRouter& router : status.routers)
        routers.push_back(router_json(router, status.compiled->fips));
    json floating_ips = json::array();
    for (const FipReport& report : status.compiled->fips)
        floating_ips.push_back(floating_ip_json(status, report));
    return {{"node", status.node},
            {"topology", topology == nullptr ? json() : json{{"name", topology->name}, {"file", topology->file}}},
            {"follows", topology == nullptr ? json("neutron") : json()},
            {"agent", {{"pid", status.pid}, {"uptime_seconds", status.uptime.count()}, {"version", FIPLANE_VERSION}}},
            {"fast_path", status.fast_path},
            {"share", share.ratio()},
            {"packets", share.counted},
            {"hooks", hooks_json(status.counters)},
            {"devices", devices_json(status.attachments)},
            {"routers", std::move(routers)},
            {"floating_ips", std::move(floating_ips)},
            {"counters", counters_json(status.counters)},
            {"notes", status.compiled->notes},
            {"waiting_for", status.waiting_for},
            {"problems", problems_json(*status.problems)},
            {"statistics", statistics_json(status)}};
}

Result<json> explain_json(const AgentStatus& status, const std::string& text) {
    const auto address = Ipv4::parse(text);
    json here = json::array();
    std::set<Ipv4> shown;
    for (const FipReport& report : status.compiled->fips) {
        const bool asked = address ? report.fip == *address || report.fixed == *address : passes(report, text);
        if (!asked) continue;
        here.push_back(walks_json(status, report));
        shown.insert(report.fip);
    }
    json elsewhere = json::array();
    if (address && status.topology != nullptr) {
        for (const FloatingIp& floating_ip : status.topology->floating_ips) {
            if (floating_ip.address != *address && floating_ip.fixed_ip != *address) continue;
            if (shown.contains(floating_ip.address)) continue;
            elsewhere.push_back({{"floating_ip", floating_ip.address.str()},
                                 {"fixed_ip", floating_ip.fixed_ip.str()},
                                 {"where", whereabouts(status, floating_ip)}});
        }
    }
    if (!here.empty() || !elsewhere.empty())
        return json{{"address", text}, {"node", status.node}, {"here", here}, {"elsewhere", elsewhere}};
    const auto router = std::ranges::find_if(status.routers, [&](const NeutronRouter& one) {
        return one.id == text || std::ranges::find(one.namespaces, text) != one.namespaces.end();
    });
    if (router != status.routers.end()) {
        return fail(ExitCode::kFailed, "this router has no floating IP here", text,
                    "`fiplane status` lists those of this node");
    }
    if (!address) {
        return fail(ExitCode::kUsage,
                    "neither an IPv4 address nor a namespace, or id, of a router with floating IPs here", text,
                    "for example 172.24.5.1; `fiplane status` lists them");
    }
    return fail(
        ExitCode::kFailed, "neither a floating IP nor the fixed IP of one", text,
        status.topology == nullptr
            ? "`fiplane status` lists those of this node"
            : fmt::format("`fiplane status` lists those of this node; the topology is {}", status.topology->file));
}

}  // namespace fiplane
