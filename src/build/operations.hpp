// SPDX-License-Identifier: Apache-2.0
// What a plan is made of: single changes, each a value with its own data, in stages that make their order right.
#pragma once

#include <set>
#include <string>
#include <variant>
#include <vector>

#include "build/allocations.hpp"
#include "build/builder.hpp"
#include "build/desired.hpp"
#include "linux/rtnl.hpp"

namespace fiplane::build {

/// Order of work. What is no longer wanted goes first and from the outside in: an address stops being routed, then
/// translated, then tracked. What is new comes from the inside out: translations are there before the routes and rules
/// that lead packets to them, since a flow whose first packet meets no translation would never get one.
enum class Stage {
    kReserve,
    kRemoveRules,
    kRemoveRoutes,
    kRemoveNeighbours,
    kRemoveAddresses,
    kRemoveChains,
    kRemoveLinks,
    kRemoveNetns,
    kCreateNetns,
    kCreateLinks,
    kSysctls,
    kConfigureLinks,
    kAddresses,
    kNeighbours,
    kNft,
    kConntrackSysctls,
    kFlushConntrack,
    kRoutes,
    kRules,
    kRelease,
};

struct ReserveAllocations {
    Allocations allocations;
};
struct ReleaseAllocations {
    std::set<std::string> router_ids;
    std::set<Ipv4> fips;
};
/// Makes the namespace and marks it as ours.
struct CreateNetns {
    std::string mark;
};
/// Removes our veth pairs in it at once (the kernel would take them down some time after the last user of the
/// namespace is gone, and their other ends with them), then the name.
struct RemoveNetns {};
struct CreateDevice {
    std::string name;
    DesiredDevice device;
    std::string mark;  ///< "": the namespace is marked instead
};
/// A device that went meanwhile, with its peer for example, is fine.
struct RemoveDevice {
    std::string name;
};
struct ConfigureDevice {
    std::string name;
    std::optional<std::uint32_t> mtu;
    std::optional<Mac> mac;
    std::optional<std::string> master;  ///< "" releases it
    std::optional<DesiredDevice::PortFlags> port_flags;
    bool up = false;
    bool all_multicast = false;
};
struct SetSysctl {
    std::string key;
    std::string value;
};
struct AddAddress {
    std::string device;
    Prefix address;
};
struct RemoveAddress {
    std::string device;
    Prefix address;
};
struct SetRoute {
    DesiredRoute route;
};
struct RemoveRoute {
    Route route;
};
struct AddRule {
    PolicyRule rule;
};
struct RemoveRule {
    PolicyRule rule;
};
struct SetNeighbour {
    std::string device;
    Ipv4 address;
    Mac mac;
};
struct RemoveNeighbour {
    std::string device;
    Ipv4 address;
};
struct SetFdb {
    DesiredFdb entry;
};
struct RemoveFdb {
    DesiredFdb entry;
};
struct RunNft {
    std::string commands;
};
struct FlushConntrack {
    Ipv4 address;
};

using Change =
    std::variant<ReserveAllocations, ReleaseAllocations, CreateNetns, RemoveNetns, CreateDevice, RemoveDevice,
                 ConfigureDevice, SetSysctl, AddAddress, RemoveAddress, SetRoute, RemoveRoute, AddRule, RemoveRule,
                 SetNeighbour, RemoveNeighbour, SetFdb, RemoveFdb, RunNft, FlushConntrack>;

/// A change, and the steps that say it to people: more than one where the kernel does several things at once.
struct Operation {
    Stage stage;
    NetnsName netns;
    Change change;
    std::vector<Step> steps;
};

/// What a plan holds before it is put in order.
struct Draft {
    std::vector<Operation> operations;
    std::vector<Announcement> announcements;
    std::set<Ipv4> withdrawn;
    std::vector<std::string> waiting_for;

    void add(Stage stage, const NetnsName& netns, Change change, Step::Action action, std::string object,
             std::string detail = {});
    void sort();
};

/// Does one change in the calling thread's namespace or one below /run/netns. Keeps sockets and device indices.
class Executor {
  public:
    explicit Executor(std::string state_dir);
    Executor(Executor&&) noexcept;
    Executor& operator=(Executor&&) noexcept;
    ~Executor();

    [[nodiscard]] Result<> run(const Operation& operation);

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace fiplane::build
