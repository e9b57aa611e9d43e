// SPDX-License-Identifier: Apache-2.0
#include "agent/walk_json.hpp"

namespace fiplane {

using nlohmann::json;

namespace {

json rows_of(const std::vector<WalkStep>& steps) {
    json rows = json::array();
    for (const WalkStep& step : steps)
        rows.push_back({{"netns", step.netns}, {"text", step.text}});
    return rows;
}

}  // namespace

json report_json(const FipReport& report) {
    return {{"floating_ip", report.fip.str()},
            {"fixed_ip", report.fixed.str()},
            {"router", report.router},
            {"router_id", neutron_id(report.router)},
            {"network", report.segment},
            {"port", report.port},
            {"state", report.fast_in && report.fast_out ? "fast" : "slow"},
            {"fast_in", report.fast_in},
            {"fast_out", report.fast_out},
            {"reason_in", report.reason_in},
            {"reason_out", report.reason_out},
            {"reason_outside", report.reason_outside}};
}

json router_json(const NeutronRouter& router, const std::vector<FipReport>& floating_ips) {
    json addresses = json::array();
    for (const FipReport& report : floating_ips) {
        if (neutron_id(report.router) == router.id) addresses.push_back(report.fip.str());
    }
    return {{"id", router.id},
            {"kind", describe(router)},
            {"namespaces", router.namespaces},
            {"ports", router.ports},
            {"floating_ips", addresses}};
}

json steps_json(const FipReport& report) {
    return {{"steps_in", rows_of(report.steps_in)}, {"steps_out", rows_of(report.steps_out)}};
}

}  // namespace fiplane
