// apps/mlxterp/jlens_space.h: `jlens space`, activations as sparse sums of
// token directions.

#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace mlxterp::cli {

/** Adds the command; what it does once it is parsed. */
std::function<void()> add_jlens_space(CLI::App& app);

}  // namespace mlxterp::cli
