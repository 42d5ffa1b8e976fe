// apps/mlxterp/pairs.h: what every sweep over clean and corrupted prompts asks.

#pragma once

#include <string>
#include <utility>
#include <vector>

#include "arguments.h"
#include "mlxterp/analysis/patch.h"

namespace mlxterp::cli {

/** That --task takes the place of. */
inline constexpr auto pair_options = "--clean, --corrupt and --metric";

inline constexpr auto no_metric =
    "no --metric; give one, such as 'logit_diff( Mary, John)'";

/** --clean and --corrupt as text or as ids, --no-special. */
struct PromptPairs {
  std::vector<std::string> clean, corrupt, clean_ids, corrupt_ids;
  bool special = true;

  void add_to(CLI::App& app);
  bool empty() const;
  /** Throws usage where prompts are missing, or given twice. */
  void check() const;
  /** Throws usage where the two of a pair differ in length, unless `mapped`. */
  std::pair<Inputs::Rows, Inputs::Rows> tokens(
      const InterpretableModel& model, bool mapped = false) const;
};

/** These and --metric, --by, --direction, --layers, --positions, --heads,
 * --neurons, --align. */
struct PairArguments {
  PromptPairs prompts;
  std::string direction = "denoise";
  std::vector<std::string> by = {"layer,pos"}, metrics, aligned;
  ChoiceArguments choice;

  void add_to(CLI::App& app);
  bool empty() const { return prompts.empty() && metrics.empty(); }
  /** Throws usage for what can be checked without a model. `elsewhere`: prompts
   * and metric come from a task. */
  void check(bool elsewhere = false) const;
  /** All options of patching except the site; what is odd about the metric is
   * told and kept in `warnings`. */
  PatchOptions options(
      const InterpretableModel& model,
      std::vector<std::string>& warnings) const;
};

}  // namespace mlxterp::cli
