// SPDX-License-Identifier: Apache-2.0
#include "cli/command_line.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>

#include "cli/terminal.hpp"

namespace fiplane::cli {
namespace {

/// Any value's option, once it is bound.
void describe(CLI::Option& option, const Verb::OptionText& text, const std::string& standard) {
    option.default_str(standard);
    if (!text.choices.empty()) option.check(CLI::IsMember(text.choices));
    option.type_name(text.type.empty() ? fmt::format("{}", fmt::join(text.choices, "|")) : text.type);
    if (!text.variable.empty()) option.envname(text.variable);
}

}  // namespace

void Verb::argument(const std::string& name, std::string& value, const std::string& help, const Choices& choices) {
    auto* argument = app_->add_option(name, value, help)->required();
    if (!choices.empty()) argument->check(CLI::IsMember(choices));
}

void Verb::option(const OptionText& text, std::string& value) {
    describe(*app_->add_option(text.names, value, text.help), text, value);
}

void Verb::option(const OptionText& text, std::uint32_t& value, std::uint32_t maximum) {
    auto* option = app_->add_option(text.names, value, text.help);
    option->check(CLI::Range(std::uint32_t{1}, maximum));
    describe(*option, text, std::to_string(value));
}

void Verb::required_option(const OptionText& text, std::string& value) {
    describe(*app_->add_option(text.names, value, text.help)->required(), text, value);
}

void Verb::flag(const std::string& names, bool& value, const std::string& help) {
    app_->add_flag(names, value, help);
}

void Verb::footer(const std::string& text) {
    app_->footer(text);
}

void Verb::does(std::function<ExitCode()> action) {
    app_->callback([action = std::move(action), outcome = outcome_] { *outcome = action(); });
}

CommandLine::CommandLine(const std::string& about, const std::string& footer)
    : app_(std::make_unique<CLI::App>(about)) {
    app_->name("fiplane");
    app_->require_subcommand(1);
    app_->footer(footer);
    app_->set_version_flag("--version", "fiplane " FIPLANE_VERSION);
}

CommandLine::~CommandLine() = default;

Verb CommandLine::verb(const std::string& name, const std::string& what) {
    return {*app_->add_subcommand(name, what), outcome_};
}

ExitCode CommandLine::run(int argc, char** argv) {
    try {
        app_->parse(argc, argv);
    } catch (const CLI::Success& asked) {  // --help, --version
        return static_cast<ExitCode>(app_->exit(asked));
    } catch (const CLI::ParseError& mistake) {
        const bool verb_known = !app_->get_subcommands().empty();
        const std::string verb = verb_known ? " " + app_->get_subcommands().front()->get_name() : "";
        const std::string what = verb_known || argc < 2 ? mistake.what() : fmt::format("there is no verb {}", argv[1]);
        return print_error({ExitCode::kUsage, what, {}, "see `fiplane" + verb + " --help`"});
    }
    return outcome_;
}

}  // namespace fiplane::cli
