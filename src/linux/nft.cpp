// SPDX-License-Identifier: Apache-2.0
#include "linux/nft.hpp"

#include <fmt/format.h>
#include <linux/netlink.h>
#include <nftables/libnftables.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <memory>

#include "linux/iptables_save.hpp"
#include "linux/nft_devices.hpp"
#include "linux/nft_generation.hpp"
#include "linux/nl_socket.hpp"

namespace fiplane {
namespace {

struct FreeContext {
    void operator()(nft_ctx* context) const { nft_ctx_free(context); }
};
using Context = std::unique_ptr<nft_ctx, FreeContext>;

/// A context that keeps output and errors to itself. Its socket is opened here, in the calling thread's namespace.
Context make_context(const Netns& netns, Error& error) {
    // libnftables ends the process if it gets no socket (netlink_open_error in mnl.c).
    if (const UniqueFd probe(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER)); !probe) {
        error = fail_errno(errno, "cannot open a socket for libnftables", nl::where_of(netns)).error();
        return nullptr;
    }
    Context context(nft_ctx_new(NFT_CTX_DEFAULT));
    if (context && nft_ctx_buffer_output(context.get()) == 0 && nft_ctx_buffer_error(context.get()) == 0) {
        return context;
    }
    error = {ExitCode::kFailed, "cannot set up libnftables", nl::where_of(netns), {}};
    return nullptr;
}

/// A quoted command may be a batch of elements of any length.
constexpr std::size_t kQuoteLimit = 200;

/// nft's message without its marker ("FILE:LINE:COLUMN: Error: "), without the line of ^^^^ below the quoted command.
std::string error_text(nft_ctx* context) {
    const char* raw = nft_ctx_get_error_buffer(context);
    const std::string text = raw != nullptr ? raw : "";
    std::string out;
    for (std::size_t start = 0; start < text.size();) {
        const std::size_t end = std::min(text.find('\n', start), text.size());
        std::string line = text.substr(start, end - start);
        start = end + 1;
        if (const auto marker = line.find("Error: "); marker != std::string::npos) line.erase(0, marker + 7);
        const auto first = line.find_first_not_of(" \t");
        if (first == std::string::npos || line.find_first_not_of(" \t^~") == std::string::npos) continue;
        out += (out.empty() ? "" : ": ") + line.substr(first, kQuoteLimit);
    }
    return out.empty() ? "libnftables gives no reason" : out;
}

std::unexpected<Error> nft_failure(nft_ctx* context, const std::string& what, const Netns& netns) {
    const std::string text = error_text(context);
    const bool refused = text.find("Operation not permitted") != std::string::npos;
    return fail(refused ? ExitCode::kNotPrivileged : ExitCode::kFailed, fmt::format("{}: {}", what, text),
                nl::where_of(netns));
}

/// An anonymous file that holds `text`, or errno. From a file libnftables quotes the command that failed; from a buffer
/// it always quotes the first one.
std::expected<UniqueFd, int> file_of(const std::string& text) {
    UniqueFd file(memfd_create("nft", MFD_CLOEXEC));
    if (!file) return std::unexpected(errno);
    for (std::size_t done = 0; done < text.size();) {
        const ssize_t written = ::write(file.get(), text.data() + done, text.size() - done);
        if (written < 0 && errno != EINTR) return std::unexpected(errno);
        if (written > 0) done += static_cast<std::size_t>(written);
    }
    return file;
}

Result<std::string> list_ruleset(const Netns& netns) {
    auto inside = NetnsGuard::enter(netns);
    if (!inside) return pass_on(inside);
    Error error;
    const Context context = make_context(netns, error);
    if (!context) return std::unexpected(std::move(error));
    nft_ctx_output_set_flags(context.get(), NFT_CTX_OUTPUT_JSON | NFT_CTX_OUTPUT_NUMERIC_PROTO);
    if (nft_run_cmd_from_buffer(context.get(), "list ruleset") != 0) {
        return nft_failure(context.get(), "cannot list the nftables ruleset", netns);
    }
    return std::string(nft_ctx_get_output_buffer(context.get()));
}

/// libnftables 1.0.6 leaves the devices of netdev chains out of its JSON; the kernel is asked for them.
Result<> fill_devices(const Netns& netns, nf::Ruleset& ruleset) {
    const auto lacks_device = [](const nf::Chain& chain) {
        return chain.family == nf::Family::kNetdev && chain.hook && chain.device.empty();
    };
    if (std::ranges::none_of(ruleset.chains, lacks_device)) return {};
    auto known = nft::list_chain_devices(netns);
    if (!known) return pass_on(known);
    std::vector<nf::Chain> chains;
    for (auto& chain : ruleset.chains) {
        if (!lacks_device(chain)) {
            chains.push_back(std::move(chain));
            continue;
        }
        const auto found = std::ranges::find_if(
            *known, [&](const nft::ChainDevices& one) { return one.table == chain.table && one.chain == chain.name; });
        if (found != known->end() && found->wildcard) {
            ruleset.opaque.push_back(
                fmt::format("nft chain netdev {} {} on a wildcard of devices", chain.table, chain.name));
        }
        // A base chain without devices sees no packets; its copy per device keeps the rules.
        for (const auto& device : found != known->end() ? found->devices : std::vector<std::string>{}) {
            chains.push_back(chain);
            chains.back().device = device;
        }
    }
    ruleset.chains = std::move(chains);
    return {};
}

/// Tables of iptables-legacy, which nf_tables does not see. The file is there only if the kernel has ip_tables, and a
/// table is listed once somebody has used it. Of the calling thread's namespace. `word`: "ip" or "ip6".
std::vector<std::string> legacy_tables(const std::string& word) {
    std::vector<std::string> phrases;
    std::ifstream names(fmt::format("/proc/thread-self/net/{}_tables_names", word));
    for (std::string name; std::getline(names, name);) {
        if (!name.empty()) phrases.push_back(fmt::format("{}tables-legacy table {}", word, name));
    }
    return phrases;
}

/// In several readings, between which somebody may commit.
Result<nf::Ruleset> read_at_once(const Netns& netns) {
    auto json = list_ruleset(netns);
    if (!json) return pass_on(json);
    auto ruleset = parse_ruleset(*json);
    if (!ruleset) {
        ruleset.error().where = nl::where_of(netns);
        return ruleset;
    }
    if (auto filled = fill_devices(netns, *ruleset); !filled) return pass_on(filled);
    for (const nf::Family family : {nf::Family::kIp, nf::Family::kIp6}) {
        if (!iptables::needs_save(*ruleset, family)) continue;
        auto saved = iptables::save(netns, family);
        if (saved) {
            iptables::complete(*ruleset, family, *saved);
        } else if (saved.error().code != ExitCode::kMissingFeature) {
            return pass_on(saved);
        } else {
            ruleset->not_shown = saved.error().what;
        }
    }
    auto inside = NetnsGuard::enter(netns);
    if (!inside) return pass_on(inside);
    ruleset->opaque_ipv4 = legacy_tables("ip");
    ruleset->opaque_ipv6 = legacy_tables("ip6");
    return ruleset;
}

/// Neutron's iptables-restore commits a few times in a row; a reading takes as long as some of them.
constexpr int kReadings = 5;
/// None begins later than this: iptables-nft-save alone may take long where something is wrong.
constexpr std::chrono::seconds kReadingTime{5};

}  // namespace

Result<nf::Ruleset> read_ruleset(const Netns& netns) {
    auto socket = nl::Socket::open(netns, NETLINK_NETFILTER);
    if (!socket) return pass_on(socket);
    auto before = nft::read_generation(*socket, netns);
    if (!before) return pass_on(before);
    const auto end = std::chrono::steady_clock::now() + kReadingTime;
    for (int reading = 0; reading < kReadings && std::chrono::steady_clock::now() < end; ++reading) {
        auto ruleset = read_at_once(netns);
        auto after = nft::read_generation(*socket, netns);
        if (!after) return pass_on(after);
        if (*after == *before) return ruleset;
        before = after;
    }
    return fail(ExitCode::kFailed, "the nftables ruleset has changed each time that it was read", nl::where_of(netns));
}

Result<> run_nft(const Netns& netns, const std::string& commands) {
    const std::string what = "cannot change the nftables ruleset";
    auto file = file_of(commands);
    if (!file) return fail_errno(file.error(), what, nl::where_of(netns));
    auto inside = NetnsGuard::enter(netns);
    if (!inside) return pass_on(inside);
    Error error;
    const Context context = make_context(netns, error);
    if (!context) return std::unexpected(std::move(error));
    const std::string path = fmt::format("/proc/self/fd/{}", file->get());
    if (nft_run_cmd_from_filename(context.get(), path.c_str()) != 0) {
        return nft_failure(context.get(), what, netns);
    }
    return {};
}

}  // namespace fiplane
