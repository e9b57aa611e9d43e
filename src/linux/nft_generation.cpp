// SPDX-License-Identifier: Apache-2.0
#include "linux/nft_generation.hpp"

#include <arpa/inet.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>

#include <optional>

namespace fiplane::nft {

Result<std::uint32_t> read_generation(nl::Socket& socket, const Netns& netns) {
    // One message answers it, not a dump.
    nl::Request request(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN, 0);
    nfgenmsg header{};
    header.nfgen_family = AF_UNSPEC;
    header.version = NFNETLINK_V0;
    request.header(header);
    std::optional<std::uint32_t> generation;
    const auto answer = socket.transact(request, [&](const nlmsghdr& message) {
        if (message.nlmsg_type != (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN)) return;
        const nl::Attributes attributes(message, sizeof(nfgenmsg));
        if (attributes.has(NFTA_GEN_ID)) generation = ntohl(attributes.number<std::uint32_t>(NFTA_GEN_ID));
    });
    const char* what = "cannot read the generation of the nftables ruleset";
    if (!answer) return nl::fail_kernel(answer.error(), what, nl::where_of(netns));
    if (!generation) return fail_errno(EPROTO, what, nl::where_of(netns));
    return *generation;
}

}  // namespace fiplane::nft
