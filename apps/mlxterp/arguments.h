// apps/mlxterp/arguments.h: which model, which prompt, how options are read.

#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mlxterp/core/error.h"
#include "mlxterp/sae/sae.h"
#include "mlxterp/spec/edit.h"
#include "mlxterp/spec/metric.h"
#include "mlxterp/trace/model.h"

namespace mlxterp::cli {

/** Throws Error(usage). */
[[noreturn]] void usage(const std::string& message);

/** An SAE that stands in the model, and by which name. */
struct LoadedSae {
  Sae sae;
  std::string file, site, name;
};

/** MODEL, --revision, --dtype, --weights, --allow-nan and --json; of verbs that
 * run the model also --edit and --sae. */
struct ModelArguments {
  std::string model, revision, dtype, weights;
  std::vector<std::string> edits, saes;
  std::string sae_mode = "replace_with_error";
  bool no_sae_check = false;
  bool allow_nan = false;
  bool json = false;

  void add_to(CLI::App& app);
  /** All of it, --edit and --sae. */
  void add_run_to(CLI::App& app);
  /** Throws usage for what can be checked without the model. */
  void check() const;
  /** How it is loaded, showing progress. */
  LoadOptions options() const;
  /** The file or folder; a hub id's is downloaded where it is missing. */
  std::filesystem::path path() const;
  /** Loads it, showing progress; says so where the BLAS is the slow one. With
   * --edit every pass of it is edited. */
  InterpretableModel load() const;
  /** Without the edits, but with its SAEs attached. */
  InterpretableModel load_unedited() const;
  /** Throws for what is wrong of --edit without a model. */
  void check_edits() const;
  /** That model with --edit. */
  InterpretableModel edited(const InterpretableModel& plain) const;
  /** Nothing but the model. */
  InterpretableModel load_plain() const;
  /** What --sae names, showing progress. */
  std::vector<LoadedSae> load_saes() const;
  /** An answer in JSON, with what --sae named, as `saes`. */
  std::string answer(std::string text) const;
  /** With these attached, each found to fit on a text of its own. */
  InterpretableModel attached(
      InterpretableModel plain, const std::vector<LoadedSae>& saes) const;
};

/** --special and --no-special, one switch. */
void add_special(CLI::App& app, bool& special);

/** PROMPT or --ids, and --no-special. */
struct PromptArguments {
  std::optional<std::string> text;
  std::vector<std::string> ids;
  bool special = true;

  void add_to(CLI::App& app);
  bool given() const { return text || !ids.empty(); }
  /** Throws usage unless exactly one of the two was given. */
  void check() const;
  std::vector<int> tokens(const InterpretableModel& model) const;
};

/** What a sweep keeps to: --layers, --positions, --heads (a layer's too, as
 * L23H3), --neurons. */
struct ChoiceArguments {
  struct Choice {
    std::vector<int> layers, positions, heads, neurons;
  };
  std::vector<std::string> layers, positions, heads, neurons;

  void add_layers(
      CLI::App& app,
      const std::string& help = "Only these layers: 0,5,10..20,-1");
  void add_positions(CLI::App& app);
  void add_heads(CLI::App& app);
  void add_neurons(CLI::App& app);
  /** Throws usage. */
  Choice parse() const;
};

/** An option that may be given again, each time with one value. */
CLI::Option* add_list(
    CLI::App& app,
    const std::string& name,
    std::vector<std::string>& values,
    const std::string& help);

/** A prompt as given; of "-" what stands on stdin, but for the end of its last
 * line. */
std::string text_of(const std::string& text);
std::vector<int> encode(
    const InterpretableModel& model, const std::string& text, bool special);

/** A file's text, whole; of "-" stdin's. Throws environment, usage where it is
 * empty or more than limits::text_file_bytes. */
std::string read_text(const std::string& path);

/** The lines of such a text, as prompts; empty ones are left out. */
std::vector<std::string> read_lines(const std::string& path);

/** How metrics and tokens are read here: with their warnings on stderr, and
 * kept in `warnings`. `prompts`: behind which they are measured. */
spec::MetricOptions metric_options(
    std::vector<std::string>& warnings,
    const Inputs::Rows& prompts,
    std::string_view name = "--metric");

/** How edits are read here: from any file that they name, of that model. */
spec::EditOptions edit_options(const InterpretableModel* model = nullptr);

}  // namespace mlxterp::cli
