// mlxterp/report/attention.h: where the heads look, as JSON and as pictures'
// data.

#pragma once

#include <optional>
#include <string>
#include <vector>

#include "mlxterp/analysis/attention.h"
#include "mlxterp/report/heatmap.h"
#include "mlxterp/report/names.h"

namespace mlxterp::report {

/** A value. */
struct AttentionReport {
  std::string model = {};
  std::vector<NamedToken> tokens = {};
  std::vector<std::string> edits = {};
  /** One of the layer's that the result keeps; absent: all. */
  std::optional<int> head = {};
  Attention result = {};
};

/** The answer of `mlxterp attention` (docs/json.md). */
std::string to_json(const AttentionReport& report);

/**
 * Layers by heads. A cell is the largest of a head's shares on the first token
 * (F), the previous one (P) and the token itself (S) and is called by it,
 * "P93"; where none reaches 40 %, by the entropy in bits, "2.1".
 */
Heatmap overview(const AttentionReport& report);

/** The pattern of a head of the layer that is kept: destinations down, sources
 * across. */
Heatmap pattern(const AttentionReport& report, int head);

}  // namespace mlxterp::report
