// SPDX-License-Identifier: Apache-2.0
// The command line: its verbs, and what may stand after each. The parser (CLI11) is in the .cpp alone, for every file
// that includes it compiles all of it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/result.hpp"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace fiplane::cli {

/// A verb that is being declared. The values of its options are written when the command line is parsed; they stay
/// their owner's and must live until the verb has run. What they hold before is shown as the default.
class Verb {
  public:
    using Choices = std::vector<std::string>;

    /// An argument without a name, which must be there. With `choices`, one of them.
    void argument(const std::string& name, std::string& value, const std::string& help, const Choices& choices = {});

    struct OptionText {
        std::string names;  ///< "-o,--output"
        std::string help;
        std::string type = {};      ///< how help calls the value; empty: the choices
        Choices choices = {};       ///< empty: any text
        std::string variable = {};  ///< environment variable that the value comes from, too
    };
    void option(const OptionText& text, std::string& value);
    /// A number from 1 to `maximum`.
    void option(const OptionText& text, std::uint32_t& value, std::uint32_t maximum);
    void required_option(const OptionText& text, std::string& value);
    void flag(const std::string& names, bool& value, const std::string& help);

    /// Ends the verb's --help: what is worth knowing, and an example.
    void footer(const std::string& text);
    /// What the verb does; its result is the program's exit code.
    void does(std::function<ExitCode()> action);

  private:
    friend class CommandLine;
    Verb(CLI::App& app, ExitCode& outcome) : app_(&app), outcome_(&outcome) {}
    CLI::App* app_;
    ExitCode* outcome_;
};

class CommandLine {
  public:
    /// `about` begins the program's --help, `footer` ends it.
    CommandLine(const std::string& about, const std::string& footer);
    ~CommandLine();
    CommandLine(const CommandLine&) = delete;
    CommandLine& operator=(const CommandLine&) = delete;

    Verb verb(const std::string& name, const std::string& what);
    /// Does what the command line says. A mistake in it is printed and is kUsage.
    ExitCode run(int argc, char** argv);

  private:
    std::unique_ptr<CLI::App> app_;
    ExitCode outcome_ = ExitCode::kOk;
};

}  // namespace fiplane::cli
