// SPDX-License-Identifier: Apache-2.0
// What a failed load tells the operator.
#include <bpf/libbpf.h>
#include <linux/capability.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <memory>

#include "datapath/load_log.hpp"
#include "datapath/preflight.hpp"
#include "functional/datapath_bench.hpp"
#include "tc_port.skel.h"

namespace fiplane::test {

TEST_CASE("a refused program's error has the verifier's words and a cause", "[datapath][load]") {
    REQUIRE_ROOT();
    const DatapathBench bench;
    const LibbpfMessages messages;
    bpf_object_open_opts options{};
    options.sz = sizeof(options);
    options.pin_root_path = bench.bpffs().c_str();
    const std::unique_ptr<tc_port, void (*)(tc_port*)> skeleton(tc_port::open(&options), tc_port::destroy);
    REQUIRE(skeleton);
    // A socket filter may not do what a tc program does: the kernel refuses it in its own words.
    bpf_program* program = bpf_object__next_program(skeleton->obj, nullptr);
    REQUIRE(bpf_program__set_type(program, BPF_PROG_TYPE_SOCKET_FILTER) == 0);
    bpf_program__set_expected_attach_type(program, static_cast<bpf_attach_type>(0));
    const VerifierLogs logs(skeleton->obj);
    CHECK(logs.refused().text.empty());
    const int error = tc_port::load(skeleton.get());
    REQUIRE(error < 0);

    const auto log = logs.refused();
    CHECK(log.program == "tc_port");
    CHECK_FALSE(log.trimmed);
    CHECK(log.text.find("processed") != std::string::npos);
    const Error told = explain_load_failure(-error, "tc_port", log, messages.lines());
    INFO(told.message());
    CHECK(told.what.starts_with("cannot load BPF object tc_port: "));
    CHECK(told.what.find("the verifier on tc_port:\n") != std::string::npos);
    CHECK(told.what.find("processed") != std::string::npos);
    CHECK_FALSE(told.hint.empty());
    // The tail, not all of it.
    CHECK(std::count(told.what.begin(), told.what.end(), '\n') <= 12);
}

TEST_CASE("causes of a failed load are told apart", "[datapath][load]") {
    const auto code = [](int error, const std::string& log) {
        return explain_load_failure(error, "tc_port", {"tc_port", log, false}, {}).code;
    };
    CHECK(code(EINVAL, "12: (85) call unknown#999\ninvalid func unknown#999\nprocessed 13 insns") ==
          ExitCode::kMissingFeature);
    CHECK(code(E2BIG, "BPF program is too large. Processed 1000001 insn\nprocessed 1000001 insns") ==
          ExitCode::kMissingFeature);
    CHECK(code(EACCES, "R1 invalid mem access 'scalar'\nprocessed 3 insns") == ExitCode::kFailed);
    CHECK(code(EPERM, "") == ExitCode::kNotPrivileged);
    const auto memory = explain_load_failure(ENOMEM, "tc_port", {}, {"libbpf: map 'fl_fdb': failed to create"});
    CHECK(memory.hint.find("memory") != std::string::npos);
    CHECK(memory.what.find("map 'fl_fdb': failed to create") != std::string::npos);
    CHECK(explain_load_failure(EINVAL, "tc_port", {"tc_port", "x", true}, {}).what.find("trimmed") !=
          std::string::npos);
}

TEST_CASE("missing capabilities are named before anything is tried", "[datapath][load]") {
    REQUIRE_ROOT();
    const DatapathBench bench;
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        __user_cap_header_struct header{};
        header.version = _LINUX_CAPABILITY_VERSION_3;
        __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {};
        data[0].effective = data[0].permitted = 1U << CAP_NET_ADMIN;
        if (syscall(SYS_capset, &header, data) != 0) _exit(1);
        const auto refused = Datapath::open(bench.options());
        const bool right = !refused && refused.error().code == ExitCode::kNotPrivileged &&
                           refused.error().what == "cannot load BPF programs without CAP_BPF, CAP_PERFMON";
        _exit(right ? 0 : 2);
    }
    int status = -1;
    REQUIRE(waitpid(child, &status, 0) == child);
    REQUIRE(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
    CHECK(access(bench.pin_dir().c_str(), F_OK) != 0);
    need(check_capabilities());
}

}  // namespace fiplane::test
