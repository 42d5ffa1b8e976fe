// apps/mlxterp/jlens_local.h: `jlens local`, a prompt's own lens.

#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace mlxterp::cli {

/** Adds the command; what it does once it is parsed. */
std::function<void()> add_jlens_local(CLI::App& app);

}  // namespace mlxterp::cli
