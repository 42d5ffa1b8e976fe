// sae/rows.h: rows of values and of decoders, as more than one part needs them.

#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "mlxterp/sae/features.h"

namespace mlxterp {

/** Rows [row, width] of a site of collect_activations, float32, heads side by
 * side; without the first of each prompt that has more. */
mlx::core::array rows_behind_first(
    const ActivationCache& run, const std::string& site);

/** Whether features that are written there have logits. */
bool reaches_logits(
    const InterpretableModel& model, const Sae& sae, const SaeSites& sites);

/** Rows written to the SAE's site as they are added to the residual stream,
 * [n, d_model] float32. */
mlx::core::array in_stream(
    const InterpretableModel& model,
    const SaeSites& sites,
    const mlx::core::array& rows);

/** Tells each of the features' logits (see feature_logits), the whole
 * vocabulary's, one feature after the other in their order. Evaluates. Throws
 * as feature_logits. */
void for_each_logits(
    const InterpretableModel& model,
    const Sae& sae,
    const std::vector<int>& features,
    const SaeSites& sites,
    const std::function<void(int feature, std::span<const float>)>& tell);

/** The `top` largest of a row of logits and the `top` smallest. */
FeatureLogits furthest_logits(
    int feature, std::span<const float> logits, int top);

/** [feature, d_out]; throws out_of_range. */
mlx::core::array decoder_rows(const Sae& sae, const std::vector<int>& features);

}  // namespace mlxterp
