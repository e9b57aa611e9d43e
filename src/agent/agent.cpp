// SPDX-License-Identifier: Apache-2.0
#include "agent/agent.hpp"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <utility>

#include "agent/privileges.hpp"
#include "linux/descriptor_limit.hpp"
#include "topology/load.hpp"

namespace fiplane {
namespace {

/// Signals arrive through a descriptor.
Result<UniqueFd> take_signals() {
    sigset_t set;
    sigemptyset(&set);
    for (const int number : {SIGTERM, SIGINT, SIGHUP})
        sigaddset(&set, number);
    if (sigprocmask(SIG_BLOCK, &set, nullptr) != 0) return fail_errno(errno, "cannot block signals");
    UniqueFd fd(signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC));
    if (!fd) return fail_errno(errno, "cannot receive signals");
    return fd;
}

Response refuse(Error error) {
    return std::unexpected(Refusal{std::move(error), {}, {}});
}

}  // namespace

Result<std::unique_ptr<Agent>> Agent::create(AgentOptions options, std::optional<Topology> topology) {
    if (auto privileged = require_privileges("run the agent"); !privileged) return pass_on(privileged);
    // The usual limit is reached with some hundred namespaces.
    if (const auto raised = raise_descriptor_limit(); !raised) spdlog::warn("{}", raised.error().message());
    auto instance = SingleInstance::acquire();
    if (!instance) return pass_on(instance);
    auto loop = EventLoop::create();
    if (!loop) return pass_on(loop);
    auto signals = take_signals();
    if (!signals) return pass_on(signals);
    auto control = ControlServer::open(options.socket);
    if (!control) return pass_on(control);
    std::unique_ptr<Agent> agent(new Agent(std::move(options), std::move(*loop), std::move(*instance),
                                           std::move(*control), std::move(*signals)));
    auto manager = NodeManager::create(agent->options_, std::move(topology), agent->loop_);
    if (!manager) return pass_on(manager);
    agent->manager_ = std::move(*manager);
    if (auto dropped = drop_other_privileges(); !dropped) return pass_on(dropped);
    return agent;
}

Agent::Agent(AgentOptions options, EventLoop loop, SingleInstance instance, ControlServer control, UniqueFd signals)
    : options_(std::move(options)),
      loop_(std::move(loop)),
      instance_(std::move(instance)),
      signals_(std::move(signals)),
      control_(std::move(control)),
      started_(EventLoop::Clock::now()) {}

Result<> Agent::run() {
    spdlog::info("fiplane {} {}, fast path {}", FIPLANE_VERSION, describe(),
                 manager_->fast_path_is_on() ? "on" : "off");
    if (auto started = manager_->start(); !started) return started;
    if (auto watched = loop_.watch(signals_.get(), EPOLLIN, [this](std::uint32_t) { on_signal(); }); !watched)
        return watched;
    if (auto watched = loop_.watch(instance_.fd(), EPOLLIN, [this](std::uint32_t) { instance_.dismiss_callers(); });
        !watched)
        return watched;
    if (auto serving = control_.serve(loop_, [this](const Request& request) { return handle(request); }); !serving)
        return serving;
    spdlog::info("ready; control socket {}", options_.socket);
    return loop_.run();
}

std::string Agent::describe() const {
    const Topology* topology = manager_->topology();
    if (topology == nullptr) return fmt::format("follows Neutron's routers on node {}", manager_->node());
    return fmt::format("manages node {} of topology {} ({})", manager_->node(), topology->name, topology->file);
}

void Agent::on_signal() {
    signalfd_siginfo info{};
    while (read(signals_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
        if (info.ssi_signo == SIGHUP) {
            reload_by_signal();
            continue;
        }
        if (options_.follows()) {
            spdlog::info("stopping: Linux takes over within {} s; `fiplane detach` removes the programs",
                         kLease.count());
        } else {
            spdlog::info(
                "stopping: the overlay stays, and {}; `fiplane teardown` removes what was built",
                manager_->fast_path_is_on() ? "the fast path goes on without the agent" : "the fast path is off");
        }
        loop_.stop();
    }
}

void Agent::reload_by_signal() {
    spdlog::info("SIGHUP: reload");
    const auto done = reload();
    if (done) return;
    for (const Mistake& mistake : done.error().mistakes)
        spdlog::error("{}:{}:{}: {}", done.error().file, mistake.line, mistake.column, mistake.what);
    spdlog::error("reload: {}", done.error().error.message());
}

Response Agent::handle(const Request& request) {
    spdlog::debug("control socket: {}", request.verb);
    if (request.verb == "status") return status_json(status());
    if (request.verb == "explain") return explain(request);
    if (request.verb == "reload") return reload();
    if (request.verb == "fast-path") return switch_fast_path(request);
    return refuse({ExitCode::kUsage, fmt::format("there is no request \"{}\"", request.verb), {}, {}});
}

Response Agent::reload() {
    if (options_.follows())
        return refuse(
            {ExitCode::kUsage, "this agent follows Neutron's routers: there is no topology to reload", {}, {}});
    auto loaded = load_topology(options_.topology_file);
    if (!loaded.topology) {
        return std::unexpected(Refusal{to_error(loaded.mistakes, options_.topology_file), options_.topology_file,
                                       std::move(loaded.mistakes)});
    }
    auto changes = manager_->replace_topology(std::move(*loaded.topology));
    if (!changes) return refuse(std::move(changes.error()));
    spdlog::info("topology {} reloaded: {} changes", options_.topology_file, *changes);
    return nlohmann::json{{"topology", manager_->topology()->name},
                          {"file", options_.topology_file},
                          {"changes", *changes},
                          {"waiting_for", manager_->waiting_for()}};
}

Response Agent::switch_fast_path(const Request& request) {
    const std::string state = request.text("state");
    if (state != "on" && state != "off")
        return refuse({ExitCode::kUsage, "the fast path can be switched on or off", state, {}});
    if (auto switched = manager_->switch_fast_path(state == "on"); !switched)
        return refuse(std::move(switched.error()));
    return nlohmann::json{{"fast_path", manager_->fast_path_is_on()}};
}

Response Agent::explain(const Request& request) const {
    auto result = explain_json(status(), request.text("address"));
    if (!result) return refuse(std::move(result.error()));
    return std::move(*result);
}

AgentStatus Agent::status() const {
    AgentStatus now = manager_->status();
    now.pid = getpid();
    now.uptime = std::chrono::duration_cast<std::chrono::seconds>(EventLoop::Clock::now() - started_);
    return now;
}

}  // namespace fiplane
