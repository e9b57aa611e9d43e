// SPDX-License-Identifier: Apache-2.0
#include "topology/load.hpp"

#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <expected>
#include <memory>

#include "topology/document.hpp"
#include "topology/mistakes.hpp"
#include "topology/resolve.hpp"
#include "topology/yaml_tree.hpp"

namespace fiplane {
namespace {

using namespace topology;

/// The whole file, or errno.
std::expected<std::string, int> read_file(const std::string& path) {
    const auto close = [](std::FILE* file) { return std::fclose(file); };
    const std::unique_ptr<std::FILE, decltype(close)> file(std::fopen(path.c_str(), "rbe"), close);
    if (!file) return std::unexpected(errno);
    std::string text;
    std::array<char, 65536> chunk{};
    std::size_t count = 0;
    do {
        count = std::fread(chunk.data(), 1, chunk.size(), file.get());
        text.append(chunk.data(), count);
    } while (count == chunk.size() && std::feof(file.get()) == 0 && std::ferror(file.get()) == 0);
    if (std::ferror(file.get()) != 0) return std::unexpected(errno);
    return text;
}

Topology resolve(const Document& document, const std::string& file_name, MistakeList& mistakes) {
    Resolution work(document, mistakes);
    work.topology.name = document.name.value.value_or(std::string{});
    work.topology.file = file_name;
    work.topology.transport = document.transport_type.value.value_or(work.topology.transport);
    if (const auto& port = document.transport_port.value) {
        const bool geneve = work.topology.transport == NetworkType::kGeneve;
        (geneve ? work.topology.geneve_port : work.topology.vxlan_port) = static_cast<std::uint16_t>(*port);
    }
    work.topology.underlay_mtu = document.underlay_mtu.value.value_or(work.topology.underlay_mtu);
    work.topology.mss_clamp = document.mss_clamp.value.value_or(work.topology.mss_clamp);
    register_names(work);
    resolve_networks(work);
    resolve_ports(work);
    resolve_routers(work);
    resolve_central_snat(work);
    resolve_floating_ips(work);
    resolve_devices(work);
    return std::move(work.topology);
}

std::string place_of(const Mistake& mistake, const std::string& file_name) {
    return mistake.line == 0 ? file_name : fmt::format("{}:{}:{}", file_name, mistake.line, mistake.column);
}

}  // namespace

LoadResult parse_topology(std::string_view yaml, const std::string& file_name) {
    MistakeList mistakes;
    const auto tree = parse_yaml(yaml, mistakes);
    if (!tree) return {std::nullopt, mistakes.take_sorted()};
    const Document document = read_document(*tree->root, mistakes);
    Topology topology = resolve(document, file_name, mistakes);
    if (!mistakes.empty()) return {std::nullopt, mistakes.take_sorted()};
    return {std::move(topology), {}};
}

LoadResult load_topology(const std::string& path) {
    const auto text = read_file(path);
    if (text) return parse_topology(*text, path);
    return {std::nullopt, {{0, 0, fmt::format("cannot read the topology: {}", std::strerror(text.error())), ""}}};
}

std::string format_mistakes(const std::vector<Mistake>& mistakes, const std::string& file_name) {
    std::string out;
    for (const Mistake& mistake : mistakes) {
        out += fmt::format("{}: {}", place_of(mistake, file_name), mistake.what);
        out += mistake.hint.empty() ? "\n" : fmt::format(" ({})\n", mistake.hint);
    }
    return out;
}

Error to_error(const std::vector<Mistake>& mistakes, const std::string& file_name) {
    const Mistake& first = mistakes.front();
    Error error{ExitCode::kBadTopology, first.what, place_of(first, file_name), first.hint};
    if (mistakes.size() > 1) {
        error.hint += fmt::format("{}{} more mistake{}: see `fiplane validate {}`", error.hint.empty() ? "" : "; ",
                                  mistakes.size() - 1, mistakes.size() == 2 ? "" : "s", file_name);
    }
    return error;
}

}  // namespace fiplane
