// apps/mlxterp/pairs.h: what every sweep over clean and corrupted prompts asks.

#pragma once

#include <string>
#include <vector>

#include "arguments.h"
#include "mlxterp/analysis/patch.h"

namespace mlxterp::cli {

/** --clean, --corrupt and their ids, --no-special, --metric, --by, --direction,
 * --layers, --positions, --heads, --neurons, --align. */
struct PairArguments {
  std::vector<std::string> clean, corrupt, clean_ids, corrupt_ids;
  bool special = true;
  std::string direction = "denoise";
  std::vector<std::string> by = {"layer,pos"}, metrics, aligned;
  ChoiceArguments choice;

  void add_to(CLI::App& app);
  /** Throws usage for what can be checked without a model. `elsewhere`: prompts
   * and metric come from a task, and there may be none here. */
  void check(bool elsewhere = false) const;
  /** All options of patching except the site. */
  PatchOptions options(const InterpretableModel& model) const;

 private:
  void check_absent() const;
  void check_present() const;
};

}  // namespace mlxterp::cli
