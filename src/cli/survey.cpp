// SPDX-License-Identifier: Apache-2.0
// fiplane survey: which traffic of routers that a Neutron L3 agent built here could be carried in BPF, and why the rest
// could not. Reads Linux, changes nothing, needs no agent.
#include <fmt/format.h>

#include <memory>

#include "agent/privileges.hpp"
#include "agent/walk_json.hpp"
#include "cli/common.hpp"
#include "cli/terminal.hpp"
#include "cli/verbs.hpp"
#include "cli/walks.hpp"
#include "core/neutron.hpp"
#include "datapath/datapath.hpp"
#include "observe/observer.hpp"

namespace fiplane::cli {
namespace {

using nlohmann::json;

struct Options {
    std::string address;
    std::string output = "text";
};

Result<Snapshot> read_linux() {
    ObserverOptions options;
    options.router_programs = [](const Link& link) { return programs_here(link.ifindex); };
    options.root_links_only = true;
    auto observer = Observer::open(std::move(options));
    if (!observer) return pass_on(observer);
    if (auto read = observer->refresh(); !read) return pass_on(read);
    return observer->snapshot();
}

json survey_json(const Snapshot& snapshot, const Compiled& compiled, std::optional<Ipv4> address) {
    json routers = json::array();
    for (const NeutronRouter& router : neutron_routers(snapshot))
        routers.push_back(router_json(router, compiled.fips));
    json floating_ips = json::array();
    for (const FipReport& report : compiled.fips) {
        if (address && report.fip != *address && report.fixed != *address) continue;
        json row = report_json(report);
        row.update(steps_json(report));
        floating_ips.push_back(std::move(row));
    }
    return {{"routers", routers}, {"floating_ips", floating_ips}, {"notes", compiled.notes}};
}

std::string text(const json& row, const char* key) {
    return row.at(key).get<std::string>();
}

void print_walks(const json& floating_ips) {
    for (const json& walk : floating_ips) {
        fmt::print("{}\n", coloured(Colour::kBold, fmt::format("floating IP {} is {}", text(walk, "floating_ip"),
                                                               text(walk, "fixed_ip"))));
        fmt::print("  translated in {}, external network on {}\n", text(walk, "router"), text(walk, "network"));
        print_directions(walk);
    }
}

void print_survey(const json& survey) {
    const json& rows = survey.at("routers");
    if (rows.empty()) {
        fmt::print("no router: there is no namespace qrouter-ID or snat-ID below /run/netns\n");
        return;
    }
    fmt::print("{}\n", coloured(Colour::kBold, "routers"));
    print_routers(rows);
    if (!survey.at("floating_ips").empty()) {
        fmt::print("\n{}\n", coloured(Colour::kBold, "floating IPs"));
        TextTable table({{"floating IP"}, {"fixed IP"}, {"router"}, {"by"}, {"state"}});
        for (const json& row : survey.at("floating_ips")) {
            table.add({text(row, "floating_ip"),
                       text(row, "fixed_ip"),
                       text(row, "router_id"),
                       text(row, "network"),
                       {state_of(row), colour_of(row)}});
        }
        table.print();
    }
    if (survey.at("notes").empty()) return;
    fmt::print("\n{}\n", coloured(Colour::kBold, "stays slow"));
    for (const json& note : survey.at("notes"))
        fmt::print("  {}\n", note.get<std::string>());
}

ExitCode run(const Options& options) {
    std::optional<Ipv4> address;
    if (!options.address.empty()) {
        address = Ipv4::parse(options.address);
        if (!address)
            return print_error(
                {ExitCode::kUsage, "this is no IPv4 address", options.address, "for example 203.0.113.5"});
    }
    if (const auto privileged = require_privileges("read routers' namespaces"); !privileged)
        return print_error(privileged.error());
    const auto snapshot = read_linux();
    if (!snapshot) return print_error(snapshot.error());
    Scope scope;
    scope.follows = true;
    const json survey = survey_json(*snapshot, compile(*snapshot, scope), address);
    if (address && survey.at("floating_ips").empty()) {
        return print_error({ExitCode::kFailed, "neither a floating IP of a router here nor the fixed IP of one",
                            options.address, "`fiplane survey` lists them"});
    }
    if (options.output == "json") {
        print_json(survey);
    } else if (address) {
        print_walks(survey.at("floating_ips"));
    } else {
        print_survey(survey);
    }
    return ExitCode::kOk;
}

}  // namespace

void add_survey(CommandLine& line) {
    Verb verb = line.verb("survey", "Say what of a Neutron L3 agent's routers here BPF could carry; changes nothing");
    auto options = std::make_shared<Options>();
    verb.option({.names = "--address", .help = "only this floating IP, or fixed IP, with its walk", .type = "ADDRESS"},
                options->address);
    add_output_option(verb, options->output);
    verb.footer(
        R"(A floating IP is fast if Linux would do nothing with its packets that BPF could not do as well. Else the
rule, route, neighbour or device that stands in the way is named; such traffic stays with Linux.

Examples:
  fiplane survey
  fiplane survey --address 203.0.113.5
  fiplane survey -o json | jq '.floating_ips[] | select(.state != "fast")')");
    verb.does([options] { return run(*options); });
}

}  // namespace fiplane::cli
