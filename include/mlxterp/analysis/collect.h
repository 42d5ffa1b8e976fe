// mlxterp/analysis/collect.h: activations of many prompts.

#pragma once

#include <string>
#include <vector>

#include "mlxterp/core/progress.h"
#include "mlxterp/trace/model.h"

namespace mlxterp {

struct CollectOptions {
  enum class Positions {
    all,   ///< Every real position of every prompt.
    last,  ///< The last one of each prompt.
  };
  Positions positions = Positions::all;
  int batch_size = 8;  ///< Prompts in one pass.
  std::vector<Edit> edits = {};
  Progress progress = {};
};

/**
 * Runs all prompts, a batch at a time, and keeps the sites named (patterns too)
 * as [row, ...] in the order of the prompts: a row for each position kept,
 * padding left out. lengths() of the result says how many rows each prompt has.
 * Memory is what is kept plus one batch. Layers behind the last one that is
 * named are not run. Sites of layout [batch, head, dest, src] have no rows of
 * one width and are refused. For more than memory holds see
 * analysis/activation_store.h.
 */
ActivationCache collect_activations(
    const InterpretableModel& model,
    const Inputs& prompts,
    const std::vector<std::string>& sites,
    const CollectOptions& options = {});

}  // namespace mlxterp
