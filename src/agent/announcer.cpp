// SPDX-License-Identifier: Apache-2.0
#include "agent/announcer.hpp"

#include <spdlog/spdlog.h>

#include "linux/garp.hpp"
#include "linux/netns.hpp"

namespace fiplane {
namespace {

constexpr int kRounds = 3;
constexpr std::chrono::seconds kRequestToReply{1};
constexpr std::chrono::seconds kReplyToNextRound{2};

Result<> send_one(const Announcement& announcement, GarpKind kind) {
    const auto netns = announcement.netns.empty() ? Netns::current() : Netns::open(announcement.netns);
    if (!netns) return std::unexpected(netns.error());
    return send_gratuitous_arp(*netns, announcement.device, announcement.mac, announcement.address, kind);
}

}  // namespace

Result<> announce_once(const std::vector<Announcement>& announcements) {
    Result<> outcome;
    for (const Announcement& announcement : announcements) {
        for (const auto kind : {GarpKind::kRequest, GarpKind::kReply}) {
            auto sent = send_one(announcement, kind);
            if (!sent && outcome) outcome = std::move(sent);
        }
    }
    return outcome;
}

Announcer::~Announcer() {
    for (const auto& [address, job] : jobs_)
        loop_.cancel(job.timer);
}

void Announcer::announce(const Announcement& announcement) {
    cancel(announcement.address);
    spdlog::info("floating IP {}: announcing it from {} in {}", announcement.address.str(), announcement.device,
                 announcement.netns);
    jobs_.emplace(announcement.address, Job{.announcement = announcement});
    send_next(announcement.address);
}

void Announcer::cancel(Ipv4 address) {
    const auto found = jobs_.find(address);
    if (found == jobs_.end()) return;
    loop_.cancel(found->second.timer);
    jobs_.erase(found);
}

void Announcer::send_next(Ipv4 address) {
    const auto found = jobs_.find(address);
    if (found == jobs_.end()) return;
    Job& job = found->second;
    const bool request = job.frames_sent % 2 == 0;
    if (const auto sent = send_one(job.announcement, request ? GarpKind::kRequest : GarpKind::kReply); !sent) {
        spdlog::warn("floating IP {}: cannot announce it: {}", address.str(), sent.error().message());
        jobs_.erase(found);
        return;
    }
    if (++job.frames_sent == 2 * kRounds) {
        jobs_.erase(found);
        return;
    }
    job.timer = loop_.after(request ? kRequestToReply : kReplyToNextRound, [this, address] { send_next(address); });
}

}  // namespace fiplane
