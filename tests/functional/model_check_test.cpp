// SPDX-License-Identifier: Apache-2.0
// Model check of observe -> compile -> sync: whatever happens to Linux, in whatever order, the maps are what a process
// that starts now would compile.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <memory>

#include "core/compile.hpp"
#include "datapath/datapath.hpp"
#include "functional/agent_bench.hpp"
#include "functional/datapath_bench.hpp"
#include "functional/linux_mutations.hpp"
#include "observe/observer.hpp"
#include "support/scratch_netns.hpp"

namespace fiplane::test {
namespace {

using namespace std::chrono_literals;

constexpr auto kQuiet = 30ms;
/// The kernel announces some changes of its own up to a second late (net/core/link_watch.c, bridge and neighbour
/// timers): two observers may differ for as long.
constexpr auto kLate = 3s;

/// FIPLANE_MODEL_SEED and FIPLANE_MODEL_STEPS, for long runs and for repeating one.
unsigned from_environment(const char* name, unsigned otherwise) {
    const char* text = std::getenv(name);
    return text == nullptr ? otherwise : static_cast<unsigned>(std::strtoul(text, nullptr, 10));
}

Scope all_bridges(const Snapshot& snapshot) {
    Scope scope;
    for (const auto& [ifindex, link] : snapshot.root.links) {
        if (link.bridge) scope.bridges.insert(link.name);
    }
    return scope;
}

/// Names of the tables that differ, with how many rows are missing or wrong and how many should not be there.
std::string describe_difference(const Tables& wanted, const Tables& found) {
    std::string text;
    const auto add = [&](const char* name, const auto& difference) {
        if (difference.empty()) return;
        text += fmt::format(" {}: {} missing or wrong, {} left over;", name, difference.upserts.size(),
                            difference.removals.size());
    };
    add("fl_sources", diff(wanted.sources, found.sources));
    add("fl_tunnels", diff(wanted.tunnels, found.tunnels));
    add("fl_fdb", diff(wanted.fdb, found.fdb));
    add("fl_arp", diff(wanted.arp, found.arp));
    add("fl_fip_in", diff(wanted.fip_in, found.fip_in));
    add("fl_vms", diff(wanted.vms, found.vms));
    add("fl_senders", diff(wanted.senders, found.senders));
    add("fl_dests", diff(wanted.dests, found.dests));
    add("fl_routes", diff(wanted.routes, found.routes));
    if (!same_bytes(wanted.config, found.config)) text += " fl_config;";
    return text;
}

std::size_t rows(const Tables& tables) {
    return tables.sources.size() + tables.tunnels.size() + tables.fdb.size() + tables.arp.size() +
           tables.fip_in.size() + tables.vms.size() + tables.senders.size() + tables.dests.size() +
           tables.routes.size();
}

/// A node as fiplane builds it, with two VMs, observed and compiled in this process.
class Model {
  public:
    Model() {
        for (const char* vm : {"vm1", "vm2"})
            node_.add_vm(vm);
        rebuild();
        observer_ = std::make_unique<Observer>(need(Observer::open()));
        restart_datapath();
    }

    /// Brings everything back that changes took away, as far as Linux allows.
    void rebuild() const {
        for (const char* command :
             {"ip link set eth0 nomaster", "ip link set eth0 mtu 1500 up", "ip link set wire up",
              "ip address replace 192.0.2.11/24 dev eth0",
              "ip neighbour replace 192.0.2.12 lladdr 02:00:00:00:00:12 dev eth0 nud permanent",
              "ip neighbour replace 192.0.2.13 lladdr 02:00:00:00:00:13 dev eth0 nud permanent"}) {
            (void)run_process(words(command));
        }
        const std::string devices = shell("ip -o link");
        for (const char* vm : {"vm1", "vm2"}) {
            if (devices.find(node_.device_of(vm)) == std::string::npos) node_.add_vm(vm);
        }
        (void)node_.build("apply");
    }

    /// Serves what is there to be served, as the agent's event loop does.
    void serve() {
        pollfd readable{observer_->fd(), POLLIN, 0};
        do {
            if (observer_->drain()) need(observer_->refresh());
        } while (poll(&readable, 1, static_cast<int>(kQuiet.count())) > 0);
        compiled_ = compile(observer_->snapshot(), all_bridges(observer_->snapshot()));
        need(datapath_->sync(compiled_.tables));
    }

    /// What a process that starts now would put into the maps.
    [[nodiscard]] static Tables fresh_tables() {
        auto fresh = need(Observer::open());
        need(fresh.refresh());
        return compile(fresh.snapshot(), all_bridges(fresh.snapshot())).tables;
    }

    /// "" if the maps are right; gives the kernel time for what it announces late.
    std::string wrong() {
        const auto end = std::chrono::steady_clock::now() + kLate;
        std::string text;
        do {
            text = describe_difference(fresh_tables(), need(datapath_->read_tables()));
            if (text.empty()) return text;
            ++late_;
            serve();
        } while (std::chrono::steady_clock::now() < end);
        return text;
    }

    void restart_datapath() {
        datapath_.reset();
        datapath_ = std::make_unique<Datapath>(need(Datapath::open(options())));
    }

    /// An agent that is killed while it writes: somewhere between empty and full tables.
    void interrupt_a_sync(Random& random) {
        int ready[2];
        REQUIRE(pipe2(ready, O_CLOEXEC) == 0);
        datapath_.reset();
        const pid_t child = fork();
        if (child == 0) {
            auto mine = Datapath::open(options());
            if (!mine || write(ready[1], "", 1) != 1) _exit(1);
            for (;;) {
                if (!mine->sync({}) || !mine->sync(compiled_.tables)) _exit(1);
            }
        }
        char byte = 0;
        REQUIRE(read(ready[0], &byte, 1) == 1);
        usleep(static_cast<useconds_t>(pick(random, 5000)));
        REQUIRE(kill(child, SIGKILL) == 0);
        int status = 0;
        REQUIRE(waitpid(child, &status, 0) == child);
        CHECK(WIFSIGNALED(status));
        close(ready[0]);
        close(ready[1]);
        restart_datapath();
    }

    [[nodiscard]] const Snapshot& snapshot() const { return observer_->snapshot(); }
    [[nodiscard]] Observer& observer() { return *observer_; }
    [[nodiscard]] Datapath& datapath() { return *datapath_; }
    [[nodiscard]] const Tables& tables() const { return compiled_.tables; }
    [[nodiscard]] unsigned late() const { return late_; }

  private:
    static DatapathOptions options() { return {.pin_dir = "/sys/fs/bpf/model", .xdp = XdpMode::kOff}; }

    NodeBench node_;
    std::unique_ptr<Observer> observer_;
    std::unique_ptr<Datapath> datapath_;
    Compiled compiled_;
    unsigned late_ = 0;
};

/// More notifications than a netlink socket holds, made in one go.
void overrun(const Observer& observer) {
    const std::string file = "/run/bench/routes";
    std::ofstream batch(file);
    const auto before = observer.counters().overruns;
    for (int i = 0; i < 60000; ++i)
        batch << fmt::format("route {} 198.18.{}.{}/32 dev lo\n", i % 2 == 0 ? "replace" : "delete", i / 500 % 250,
                             i / 2 % 250);
    batch.close();
    shell("ip -batch " + file);
    CHECK(before == observer.counters().overruns);  // nobody has read the socket yet
}

}  // namespace

TEST_CASE("After any sequence of changes in Linux the maps are what a fresh start would compile", "[model]") {
    REQUIRE_ROOT();
    const unsigned seed = from_environment("FIPLANE_MODEL_SEED", 1);
    const unsigned steps = from_environment("FIPLANE_MODEL_STEPS", 250);
    Random random(seed);
    std::unique_ptr<Model> model;
    std::size_t healthy = 0;

    std::vector<std::string> done;
    unsigned made = 0;
    unsigned different = 0;
    unsigned late = 0;
    unsigned nodes = 0;
    for (unsigned step = 0; step < steps; ++step) {
        if (model != nullptr && pick(random, 4) == 0) {
            model->rebuild();
            model->serve();
            done.emplace_back("rebuild");
        }
        // Some damage is nobody's to mend, as a policy rule of the kernel's that is gone: then a new node.
        if (model == nullptr || (done.back() == "rebuild" && rows(model->tables()) < healthy / 2)) {
            model = std::make_unique<Model>();
            model->serve();
            healthy = rows(model->tables());
            REQUIRE(healthy > 20);
            done.assign(1, "a new node");
            ++nodes;
        }
        const std::size_t burst = pick(random, 8) == 0 ? 12 : 1;
        const Tables before = model->tables();
        for (std::size_t i = 0; i < burst; ++i) {
            const Mutation mutation = random_mutation(random, model->snapshot());
            const bool worked = run_process(mutation.command).exit_status == 0;
            made += worked ? 1 : 0;
            done.push_back(mutation.what + (worked ? "" : "  (refused)"));
        }
        if (pick(random, 40) == 0) model->interrupt_a_sync(random);
        model->serve();
        INFO(fmt::format("FIPLANE_MODEL_SEED={} step {}:\n{}", seed, step, fmt::join(done, "\n")));
        const unsigned late_before = model->late();
        REQUIRE(model->wrong() == "");
        late += model->late() - late_before;
        // What was right is not written again.
        REQUIRE(need(model->datapath().sync(model->tables())).total() == 0);
        different += same_tables(before, model->tables()) ? 0 : 1;
    }
    // The check is worth nothing if changes were refused or changed no table.
    CHECK(made > steps / 2);
    CHECK(different > steps / 5);
    WARN(fmt::format(
        "seed {}: {} steps on {} nodes, {} changes made, tables changed in {} steps, {} comparisons repeated", seed,
        steps, nodes, made, different, late));
}

TEST_CASE("Lost notifications are made good by a full dump", "[model]") {
    REQUIRE_ROOT();
    Model model;
    model.serve();
    const auto before = model.observer().counters().overruns;
    const Tables tables = model.tables();
    shell("ip link set br-ex down");  // its notification is the first of those that get lost or not
    overrun(model.observer());
    shell("ip link set br-ex up");
    shell("ip neighbour delete 192.0.2.12 dev eth0");
    model.serve();
    CHECK(model.observer().counters().overruns > before);
    CHECK(model.wrong() == "");
    CHECK_FALSE(same_tables(tables, model.tables()));
}

TEST_CASE("A sync that was interrupted anywhere is finished by the next agent", "[model]") {
    REQUIRE_ROOT();
    Random random(from_environment("FIPLANE_MODEL_SEED", 1));
    Model model;
    model.serve();
    for (int i = 0; i < 10; ++i) {
        model.interrupt_a_sync(random);
        need(model.datapath().sync(model.tables()));
        CHECK(describe_difference(model.tables(), need(model.datapath().read_tables())) == "");
        CHECK(need(model.datapath().sync(model.tables())).total() == 0);
    }
}

}  // namespace fiplane::test
