// apps/mlxterp/pairs.h: what every sweep over clean and corrupted prompts asks.

#pragma once

#include <string>
#include <utility>
#include <vector>

#include "common.h"
#include "mlxterp/analysis/patch.h"

namespace mlxterp::cli {

/** --clean, --corrupt and their ids, --metric, --by, --direction, --layers,
 * --positions, --heads, --neurons, --align, --raw. */
struct PairArguments {
  std::vector<std::string> clean, corrupt, clean_ids, corrupt_ids;
  bool special = false, raw = false;
  std::string direction = "denoise";
  std::vector<std::string> by = {"layer,pos"}, metrics, aligned;
  std::vector<std::string> layers, positions, heads, neurons;

  void add_to(CLI::App& app);
  /** Throws usage for what can be told without a model. `elsewhere`: prompts
   * and metric come from a task, and there may be none here. */
  void check(bool elsewhere = false) const;
  bool noise() const { return direction == "noise"; }
  /** All that patching is told of them but the site. */
  PatchOptions options(const InterpretableModel& model) const;
  /** How the numbers read, for a page: "... of z, patched from ...". */
  std::string about(const std::string& sites, const Sweep& sweep) const;
  /** model, direction, tokens, metric, pairs, raw. */
  Json json(
      const InterpretableModel& model,
      const std::string& model_name,
      const Sweep& sweep) const;
  /** Of each cell: its share of the way, or with --raw the metric. */
  std::vector<float> values(const Sweep& sweep) const {
    return raw ? sweep.metric : sweep.effect();
  }

 private:
  void check_absent() const;
  void check_present() const;
};

}  // namespace mlxterp::cli
