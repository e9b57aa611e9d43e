// SPDX-License-Identifier: Apache-2.0
// Any bytes as the kernel's answer to a netlink request. The first byte says to which; the rest is received as it is,
// only with the sequence number that the request had, and then the answer ends. Or any bytes as a notification. The
// calls that reach the kernel are replaced here, so nothing is sent and the code above them is the shipped one.
#include <netlink/msg.h>
#include <netlink/netlink.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <tuple>
#include <vector>

#include "fuzz/targets/target.hpp"
#include "linux/conntrack.hpp"
#include "linux/events.hpp"
#include "linux/rtnl.hpp"

using namespace fiplane;

namespace {

/// What the next nl_recv() gives.
struct Feed {
    std::vector<std::uint8_t> answer;
    bool given = false;
    std::uint32_t sequence = 0;
};

Feed& feed() {
    static Feed instance;
    return instance;
}

/// Copies the bytes for the caller, who frees them. Sequence numbers are set as long as there is a header to follow.
int give(const std::vector<std::uint8_t>& bytes, unsigned char** out) {
    auto* copy = static_cast<unsigned char*>(std::malloc(bytes.size() + (bytes.empty() ? 1 : 0)));
    if (!bytes.empty()) std::memcpy(copy, bytes.data(), bytes.size());
    for (std::size_t at = 0; at + sizeof(nlmsghdr) <= bytes.size();) {
        nlmsghdr header{};
        std::memcpy(&header, copy + at, sizeof header);
        header.nlmsg_seq = feed().sequence;
        std::memcpy(copy + at, &header, sizeof header);
        if (header.nlmsg_len < sizeof header) break;
        if (header.nlmsg_len >= bytes.size() - at) break;
        at += NLMSG_ALIGN(header.nlmsg_len);
    }
    *out = copy;
    return static_cast<int>(bytes.size());
}

std::vector<std::uint8_t> end_of_answer() {
    nlmsghdr header{};
    header.nlmsg_len = sizeof header;
    header.nlmsg_type = NLMSG_DONE;
    std::vector<std::uint8_t> bytes(sizeof header);
    std::memcpy(bytes.data(), &header, sizeof header);
    return bytes;
}

}  // namespace

extern "C" {

int nl_send(nl_sock* /*socket*/, nl_msg* message) {
    feed().sequence = nlmsg_hdr(message)->nlmsg_seq;
    feed().given = false;
    return 0;
}

int nl_recv(nl_sock* /*socket*/, sockaddr_nl* from, unsigned char** bytes, ucred** /*credentials*/) {
    *from = {};
    static const auto end = end_of_answer();
    if (feed().given) return give(end, bytes);
    feed().given = true;
    return give(feed().answer, bytes);
}

/// Notifications.
ssize_t recv(int /*socket*/, void* buffer, std::size_t room, int /*flags*/) {
    if (feed().given || feed().answer.empty()) {
        errno = EAGAIN;
        return -1;
    }
    feed().given = true;
    const std::size_t size = std::min(room, feed().answer.size());
    std::memcpy(buffer, feed().answer.data(), size);
    return static_cast<ssize_t>(size);
}

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const Netns netns = Netns::current().value();
    static Rtnl rtnl = Rtnl::open(netns).value();
    static NetnsEvents events = NetnsEvents::open(netns).value();
    if (size == 0) return 0;
    feed().answer.assign(data + 1, data + size);
    feed().given = false;
    switch (data[0] % 9) {
        case 0:
            std::ignore = rtnl.links({{1, "qrouter-1"}}, "own");
            break;
        case 1:
            std::ignore = rtnl.addresses();
            break;
        case 2:
            std::ignore = rtnl.routes();
            break;
        case 3:
            std::ignore = rtnl.rules();
            break;
        case 4:
            std::ignore = rtnl.neighbours();
            break;
        case 5:
            std::ignore = rtnl.fdb();
            break;
        case 6:
            std::ignore = rtnl.link_by_name("tap0");
            break;
        case 7:
            std::ignore = flush_conntrack(netns, Ipv4{0x0a010005});
            break;
        default:
            std::ignore = events.receive();
    }
    return 0;
}
}
