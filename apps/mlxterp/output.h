// apps/mlxterp/output.h: where a command's answer and its files go.

#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "mlxterp/report/facts.h"
#include "mlxterp/report/heatmap.h"

namespace mlxterp::cli {

/** Throws where `path` exists and may not be replaced, or its folder cannot be
 * written: before any long work. */
void check_output(const std::filesystem::path& path, bool force);

/** To stdout, whole; on a terminal, lines too wide for it are broken at spaces,
 * but for JSON's. Throws environment where it is full. */
void print(std::string_view answer);

/** A file's tensors by their names. */
using Tensors = std::vector<std::pair<std::string, mlx::core::array>>;

/** Writes them as safetensors, with the facts and mlxterp_version as metadata;
 * says so. */
void write_tensors(
    const std::string& path,
    const Tensors& tensors,
    const report::Facts& facts,
    bool force);

/** Writes a page, whole or not at all; says so. */
void write_page(const std::string& path, const std::string& page, bool force);

/** What was asked for, to be pasted into a shell: "mlxterp lens demo 'a b'".
 * `app`: a verb that was chosen. */
std::string command_of(const CLI::App& app);

/** -o, --html, --force. */
struct Output {
  std::optional<std::string> file, page;
  bool force = false;
  const CLI::App* app = nullptr;  ///< The verb, which outlives this.

  void add_to(CLI::App& verb);
  /** Throws where a file could not be written, before any long work. */
  void check() const;
  /** The files, where they are asked for. */
  void write(const Tensors& tensors, const report::Facts& facts) const;
  /** With the command. */
  void write(report::Heatmap map) const;
};

}  // namespace mlxterp::cli
