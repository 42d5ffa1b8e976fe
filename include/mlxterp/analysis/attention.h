// mlxterp/analysis/attention.h: where the heads look in one prompt.

#pragma once

#include <optional>
#include <vector>

#include "mlxterp/analysis/heads.h"
#include "mlxterp/core/progress.h"
#include "mlxterp/trace/model.h"

namespace mlxterp {

struct AttentionOptions {
  /** Whose patterns are kept; negative: from the last. Absent: no layer's. */
  std::optional<int> layer = {};
  Progress progress = {};
};

/** A value. */
struct Attention {
  std::vector<int> ids;
  /** head_scores' means of these kinds, from 0 to 1. */
  HeadGrid first_token, previous_token, current_token;
  /** In bits, the mean over destinations of the entropy of what each attends
   * to: 0 where all looks at one token, log2(n) where all n weigh the same. */
  HeadGrid entropy;
  int layer = -1;              ///< Whose patterns are kept; -1: no layer's.
  std::vector<float> pattern;  ///< [head, dest, src] of that layer.

  /** Of a head of that layer; 0 <= src <= dest < ids.size(). */
  float at(int head, size_t dest, size_t src) const {
    const auto n = ids.size();
    return pattern[(static_cast<size_t>(head) * n + dest) * n + src];
  }
};

/** Walks the layers twice, with one layer's patterns in memory; evaluates.
 * `prompt`: one. Throws usage, out_of_range. */
Attention attention(
    const InterpretableModel& model,
    const Inputs& prompt,
    const AttentionOptions& options = {});

}  // namespace mlxterp
