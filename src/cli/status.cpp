// SPDX-License-Identifier: Apache-2.0
// fiplane status: the node at a glance.
#include <fmt/format.h>

#include <memory>

#include "cli/common.hpp"
#include "cli/terminal.hpp"
#include "cli/verbs.hpp"
#include "cli/walks.hpp"

namespace fiplane::cli {
namespace {

using nlohmann::json;
using Align = TextTable::Align;

struct Options {
    std::string socket = kDefaultSocket;
    std::string output = "text";
};

std::string text(const json& row, const char* key) {
    return row.at(key).get<std::string>();
}
std::string number(const json& row, const char* key) {
    return std::to_string(row.at(key).get<std::uint64_t>());
}

void print_title(const std::string& title) {
    fmt::print("\n{}\n", coloured(Colour::kBold, title));
}

void print_head(const json& status) {
    const json& agent = status.at("agent");
    const bool on = status.at("fast_path").get<bool>();
    fmt::print("node      {}\n", text(status, "node"));
    const json& topology = status.at("topology");
    if (topology.is_null()) {
        fmt::print("follows   routers of {}\n", text(status, "follows"));
    } else {
        fmt::print("topology  {} ({})\n", text(topology, "name"), text(topology, "file"));
    }
    fmt::print("agent     pid {}, up {}, version {}\n", agent.at("pid").get<int>(),
               duration(agent.at("uptime_seconds").get<std::int64_t>()), text(agent, "version"));
    fmt::print("fast path {}\n", on ? coloured(Colour::kGreen, "on") : coloured(Colour::kYellow, "off"));
    fmt::print("share     {} of {} overlay packets\n", percent(status.at("share")), number(status, "packets"));
}

void print_problems(const json& problems) {
    if (problems.empty()) return;
    print_title("problems");
    for (const json& problem : problems) {
        const std::string where = text(problem, "where");
        const std::string hint = text(problem, "hint");
        fmt::print("  {}\n",
                   coloured(Colour::kRed,
                            fmt::format("{}: {}{}{}", text(problem, "activity"), where.empty() ? "" : where + ": ",
                                        text(problem, "what"), hint.empty() ? "" : " (" + hint + ")")));
        fmt::print("    since {}, {} attempts\n", text(problem, "since"), number(problem, "attempts"));
    }
}

void print_devices(const json& devices) {
    if (devices.empty()) return;
    print_title("devices");
    TextTable table({{"device"}, {"hook"}, {"mode"}, {"why"}});
    for (const json& row : devices) {
        const std::string mode = text(row, "mode");
        const std::string netns = text(row, "netns");
        table.add({netns.empty() ? text(row, "device") : netns + "/" + text(row, "device"),
                   text(row, "hook"),
                   {mode, mode == "none" ? Colour::kYellow : Colour::kNone},
                   text(row, "why")});
    }
    table.print();
}

void print_floating_ips(const json& rows, bool followed) {
    if (rows.empty()) return;
    print_title("floating IPs");
    TextTable table({{"floating IP"},
                     {"fixed IP"},
                     {"router"},
                     {"port"},
                     {"in packets", Align::kRight},
                     {"out packets", Align::kRight},
                     {"state"}});
    for (const json& row : rows) {
        table.add({text(row, "floating_ip"),
                   text(row, "fixed_ip"),
                   followed ? text(row, "router_id") : text(row, "router"),
                   text(row, followed ? "network" : "port"),
                   number(row, "in_packets"),
                   number(row, "out_packets"),
                   {state_of(row), colour_of(row)}});
    }
    table.print();
}

void print_counters(const json& status) {
    if (status.at("counters").empty()) return;
    print_title("packets by hook and reason");
    TextTable table({{"hook"},
                     {"reason"},
                     {"class"},
                     {"packets", Align::kRight},
                     {"bytes", Align::kRight},
                     {"share", Align::kRight},
                     {"meaning"}});
    for (const json& row : status.at("counters")) {
        table.add({text(row, "hook"), text(row, "reason"), text(row, "class"), number(row, "packets"),
                   number(row, "bytes"), percent(row.at("share")), text(row, "text")});
    }
    table.print();
    for (const json& row : status.at("hooks")) {
        fmt::print("  {}: {} of {} packets in the fast path\n", text(row, "hook"), percent(row.at("share")),
                   number(row, "packets"));
    }
}

void print_sentences(const char* title, const json& sentences) {
    if (sentences.empty()) return;
    print_title(title);
    for (const json& sentence : sentences)
        fmt::print("  {}\n", sentence.get<std::string>());
}

void print_statistics(const json& statistics) {
    print_title("agent's work");
    const auto milliseconds = [&](const char* key) { return statistics.at(key).get<double>(); };
    fmt::print("  last change in force after {:.1f} ms (compile {:.1f} ms, tables {:.1f} ms)\n",
               milliseconds("last_change_ms"), milliseconds("last_compile_ms"), milliseconds("last_sync_ms"));
    fmt::print(
        "  {} changes made in Linux; {} rows written, {} removed; {} neighbours confirmed, {} learned addresses "
        "refreshed\n",
        number(statistics, "changes_applied"), number(statistics, "rows_written"), number(statistics, "rows_removed"),
        number(statistics, "neighbours_confirmed"), number(statistics, "learned_refreshed"));
    fmt::print("  {} notifications; {} partial and {} full reads; {} overruns\n", number(statistics, "events"),
               number(statistics, "partial_dumps"), number(statistics, "full_dumps"), number(statistics, "overruns"));
}

ExitCode run(const Options& options) {
    ExitCode outcome = ExitCode::kOk;
    const auto status = ask_or_print(options.socket, {{"verb", "status"}}, outcome);
    if (!status) return outcome;
    if (options.output == "json") {
        print_json(*status);
        return outcome;
    }
    print_head(*status);
    print_problems(status->at("problems"));
    print_devices(status->at("devices"));
    if (!status->at("routers").empty()) {
        print_title("routers");
        print_routers(status->at("routers"));
    }
    print_floating_ips(status->at("floating_ips"), status->at("topology").is_null());
    print_counters(*status);
    print_sentences("stays slow", status->at("notes"));
    print_sentences("waiting for", status->at("waiting_for"));
    print_statistics(status->at("statistics"));
    return outcome;
}

}  // namespace

void add_status(CommandLine& line) {
    Verb verb = line.verb("status", "Show the node: fast path, devices, floating IPs, counters");
    auto options = std::make_shared<Options>();
    add_socket_option(verb, options->socket);
    add_output_option(verb, options->output);
    verb.footer(
        R"(The share is that of packets which BPF finished among all unicast packets of the overlay that a program saw.

Example:
  fiplane status -o json | jq .share)");
    verb.does([options] { return run(*options); });
}

}  // namespace fiplane::cli
