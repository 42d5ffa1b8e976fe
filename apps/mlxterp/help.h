// apps/mlxterp/help.h: help texts that fit into 80 columns.

#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

namespace mlxterp::cli {

/** CLI11's own, which breaks no line, with lines broken at spaces. To be set
 * before subcommands are added, which take it from their parent. */
std::shared_ptr<CLI::FormatterBase> help_formatter();

/** What to say of the words that a parse left over, in the order they were
 * given: an option there is none of, or most likely a text without quotes. */
std::string extras_text(const CLI::App& app);

}  // namespace mlxterp::cli
