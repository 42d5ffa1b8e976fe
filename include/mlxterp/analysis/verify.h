// mlxterp/analysis/verify.h: checks that the sites of a model are consistent.

#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "mlxterp/core/progress.h"
#include "mlxterp/trace/model.h"

namespace mlxterp {

/** One thing that must hold in every model. */
struct Check {
  std::string name;
  /** The largest one, as a part of the largest magnitude it is compared with;
   * NaN where a NaN was met. */
  double error = 0;
  double bound = 0;     ///< 0: bitwise equality.
  size_t compared = 0;  ///< How many values.
  /** The site of the largest error, or what was thrown; empty: no error. */
  std::string where;

  /** Never of nothing, never with a NaN. */
  bool passed() const { return compared > 0 && error <= bound; }
};

struct VerifyOptions {
  /** One prompt; absent: a mixed text, or ids where there is no tokenizer. */
  std::optional<std::vector<int>> prompt = std::nullopt;
  std::vector<Edit> edits = {};  ///< Made in every traced pass.
  Progress progress = {};
};

/** The prompt that verify() takes where none is given. */
std::vector<int> verify_prompt(const InterpretableModel& model);

/**
 * Checks of a Decoder, on one prompt; evaluates some eight passes of it:
 *
 *     finite values      no NaN, no Inf in the residual stream and the logits
 *     component sums     embed + pos_embed + every attn_out and mlp_out is the
 *                        last resid_post
 *     pattern rows       sum to 1
 *     masked sources     get 0: those ahead, those behind a window
 *     heads through W_O  the sum of result (and the bias) is what attention
 *                        wrote; through norm and factor, attn_out
 *     explicit = fused   attention, opened up by an edit that changes nothing
 *     no-op patch        each site's own value in its place
 *     empty trace        and one that saves
 *     batch = single     with a padded row beside it
 *     cache = one pass   the prompt in pieces
 *
 * Where `finite values` fails, nothing else is checked. Where passes are
 * compared, each layer reads what it read in the one pass (and a mixture asks
 * the same experts), so that roundings do not add up from layer to layer and
 * bounds can be tight in every precision. A sliding
 * window is put to the test by a prompt that is longer.
 *
 * Throws usage where the model is no Decoder or the prompt is wrong.
 */
std::vector<Check> verify(
    const InterpretableModel& model, const VerifyOptions& options = {});

/** The checks that failed, as one sentence; empty where none did. */
std::string failures(const std::vector<Check>& checks);

/** Throws bad_data, with the checks that failed, where one did. */
void require_verified(
    const InterpretableModel& model, const VerifyOptions& options = {});

}  // namespace mlxterp
