// SPDX-License-Identifier: Apache-2.0
#include "support/conntrack.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <regex>
#include <sstream>
#include <stdexcept>

#include "support/run_process.hpp"

namespace fiplane::test {
namespace {

std::string direction(const std::string& from, const std::string& from_port, const std::string& to,
                      const std::string& to_port) {
    return fmt::format("{}:{} > {}:{}", from, from_port, to, to_port);
}

std::string direction(const End& from, const End& to) {
    return direction(from.address.str(), std::to_string(from.port), to.address.str(), std::to_string(to.port));
}

}  // namespace

void load_conntrack_modules() {
    static_cast<void>(run_process({"modprobe", "-q", "nf_nat"}));
}

std::string Tracked::str() const {
    return fmt::format("{} {}, answers {}", protocol, direction(from, to), direction(answer_from, answer_to));
}

std::vector<std::string> tracked(const Netns& netns) {
    const ProcessResult listed = run_process_in(netns, {"conntrack", "-L"});
    if (listed.exit_status != 0) throw std::runtime_error("conntrack -L: " + listed.err);
    std::vector<std::string> out;
    std::istringstream lines(listed.out);
    // Of each direction: src=10.1.0.5 dst=172.24.4.2 sport=40000 dport=80
    const std::regex tuple(R"(src=(\S+) dst=(\S+) sport=(\d+) dport=(\d+))");
    for (std::string line; std::getline(lines, line);) {
        std::vector<std::string> ways;
        for (std::sregex_iterator at(line.begin(), line.end(), tuple), end; at != end; ++at)
            ways.push_back(direction((*at)[1], (*at)[3], (*at)[2], (*at)[4]));
        const std::string protocol = line.substr(0, line.find(' '));
        out.push_back(ways.size() == 2 ? fmt::format("{} {}, answers {}", protocol, ways[0], ways[1]) : line);
    }
    std::ranges::sort(out);
    return out;
}

void track(const Netns& netns, const Tracked& connection) {
    std::vector<std::string> command{"conntrack",
                                     "-I",
                                     "-t",
                                     "600",
                                     "-p",
                                     connection.protocol,
                                     "-s",
                                     connection.from.address.str(),
                                     "-d",
                                     connection.to.address.str(),
                                     "--sport",
                                     std::to_string(connection.from.port),
                                     "--dport",
                                     std::to_string(connection.to.port),
                                     "-r",
                                     connection.answer_from.address.str(),
                                     "-q",
                                     connection.answer_to.address.str(),
                                     "--reply-port-src",
                                     std::to_string(connection.answer_from.port),
                                     "--reply-port-dst",
                                     std::to_string(connection.answer_to.port)};
    if (connection.protocol == "tcp") command.insert(command.end(), {"--state", "ESTABLISHED"});
    const ProcessResult added = run_process_in(netns, command);
    if (added.exit_status != 0) throw std::runtime_error("conntrack -I: " + added.err);
}

}  // namespace fiplane::test
