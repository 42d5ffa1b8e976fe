// apps/mlxterp/help.h: help texts that fit into 80 columns.

#pragma once

#include <CLI/CLI.hpp>
#include <memory>

namespace mlxterp::cli {

/** CLI11's own, which breaks no line, with lines broken at spaces. To be set
 * before subcommands are added, which take it from their parent. */
std::shared_ptr<CLI::FormatterBase> help_formatter();

}  // namespace mlxterp::cli
