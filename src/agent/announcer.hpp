// SPDX-License-Identifier: Apache-2.0
// Gratuitous ARP for floating IPs that come to this node, as Neutron's L3 agent sends it: three rounds of a request
// and, a second later, a reply; two seconds between rounds (neutron/agent/linux/ip_lib.py, send_ip_addr_adv_notif).
#pragma once

#include <map>
#include <vector>

#include "agent/event_loop.hpp"
#include "build/builder.hpp"
#include "core/result.hpp"

namespace fiplane {

/// One round without waiting: a request and a reply for each address. The first failure, after all were tried.
[[nodiscard]] Result<> announce_once(const std::vector<Announcement>& announcements);

class Announcer {
  public:
    /// The loop must outlive this object, which must not be moved.
    explicit Announcer(EventLoop& loop) : loop_(loop) {}
    Announcer(const Announcer&) = delete;
    Announcer& operator=(const Announcer&) = delete;
    ~Announcer();

    /// Sends the first request at once and the rest by timers. An address that is being announced starts afresh.
    void announce(const Announcement& announcement);
    /// The address has left this node: says no more for it.
    void cancel(Ipv4 address);

  private:
    struct Job {
        Announcement announcement;
        int frames_sent = 0;
        EventLoop::TimerId timer = 0;
    };
    void send_next(Ipv4 address);

    EventLoop& loop_;
    std::map<Ipv4, Job> jobs_;
};

}  // namespace fiplane
