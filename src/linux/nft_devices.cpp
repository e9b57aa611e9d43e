// SPDX-License-Identifier: Apache-2.0
#include "linux/nft_devices.hpp"

#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>

#include <optional>

namespace fiplane::nft {
namespace {

std::optional<ChainDevices> parse_devices(const nlmsghdr& message) {
    if (message.nlmsg_type != (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWCHAIN)) return std::nullopt;
    const nl::Attributes attributes(message, sizeof(nfgenmsg));
    if (!attributes.has(NFTA_CHAIN_HOOK)) return std::nullopt;
    ChainDevices out{
        .table = attributes.text(NFTA_CHAIN_TABLE), .chain = attributes.text(NFTA_CHAIN_NAME), .devices = {}};
    const nl::Attributes hook = attributes.nested(NFTA_CHAIN_HOOK);
    const nl::Attributes list = hook.nested(NFTA_HOOK_DEVS);
    list.for_each([&](const nlattr& device) {
        // Types beyond NFTA_DEVICE_NAME are prefixes (Linux 6.16 and later).
        if (nla_type(&device) == NFTA_DEVICE_NAME) {
            out.devices.push_back(nl::Attributes::text_of(device));
        } else {
            out.wildcard = true;
        }
    });
    if (out.devices.empty() && hook.has(NFTA_HOOK_DEV)) out.devices.push_back(hook.text(NFTA_HOOK_DEV));
    return out;
}

}  // namespace

Result<std::vector<ChainDevices>> list_chain_devices(const Netns& netns) {
    auto socket = nl::Socket::open(netns, NETLINK_NETFILTER);
    if (!socket) return pass_on(socket);
    nl::Request request(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN, NLM_F_DUMP);
    nfgenmsg header{};
    header.nfgen_family = NFPROTO_NETDEV;
    header.version = NFNETLINK_V0;
    request.header(header);
    std::vector<ChainDevices> found;
    const auto answer = socket->dump(
        request, [&] { found.clear(); },
        [&](const nlmsghdr& message) {
            if (auto devices = parse_devices(message)) found.push_back(std::move(*devices));
        });
    if (!answer) return nl::fail_kernel(answer.error(), "cannot list nftables chains", nl::where_of(netns));
    return found;
}

}  // namespace fiplane::nft
