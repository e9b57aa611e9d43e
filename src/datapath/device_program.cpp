// SPDX-License-Identifier: Apache-2.0
#include "datapath/device_program.hpp"

#include <bpf/bpf.h>
#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <cstddef>

namespace fiplane {

Result<UniqueFd> load_device_program(std::uint32_t number, int stages, std::uint32_t attach_type) {
    constexpr auto kCb = static_cast<std::int16_t>(offsetof(__sk_buff, cb));
    const auto insn = [](std::uint8_t code, std::uint8_t registers, std::int16_t offset, std::int32_t value) {
        bpf_insn out{};
        out.code = code;
        out.dst_reg = registers & 0xf;
        out.src_reg = registers >> 4;
        out.off = offset;
        out.imm = value;
        return out;
    };
    constexpr std::uint8_t kLoadImm64 = BPF_DW;  // | BPF_LD | BPF_IMM, which are 0
    // Registers: low nibble the destination, high nibble the source.
    const std::array program{
        insn(BPF_ALU | BPF_MOV | BPF_K, 0x2, 0, static_cast<std::int32_t>(number)),  // w2 = number
        insn(BPF_STX | BPF_MEM | BPF_W, 0x21, kCb, 0),                               // ctx->cb[0] = w2
        insn(kLoadImm64, BPF_PSEUDO_MAP_FD << 4 | 0x2, 0, stages),                   // r2 = stages
        insn(0, 0, 0, 0),
        insn(BPF_ALU64 | BPF_MOV | BPF_K, 0x3, 0, 0),        // r3 = 0
        insn(BPF_JMP | BPF_CALL, 0, 0, BPF_FUNC_tail_call),  // tail call; comes back if there is none
        insn(BPF_ALU64 | BPF_MOV | BPF_K, 0x0, 0, -1),       // TC_ACT_UNSPEC, TCX_NEXT
        insn(BPF_JMP | BPF_EXIT, 0, 0, 0),
    };
    bpf_prog_load_opts options{};
    options.sz = sizeof options;
    options.expected_attach_type = static_cast<bpf_attach_type>(attach_type);
    UniqueFd fd(bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, kDeviceProgramName, "Apache-2.0", program.data(), program.size(),
                              &options));
    if (!fd) return fail_errno(errno, fmt::format("cannot load the program of device {:#x}", number));
    return fd;
}

}  // namespace fiplane
