// analysis/logit_direction.h: from a logit back to the residual stream.

#pragma once

#include <vector>

#include "mlxterp/models/decoder.h"

namespace mlxterp {

/** The direction [feature] that the final norm's output is read by for the
 * logit of a token, or of two for their difference: float32. */
mlx::core::array logit_direction(
    const Decoder& decoder, const std::vector<int>& tokens);

/** What reads rows of the value before a norm whose divisor is held fixed, of
 * what reads those behind it: `directions` [..., feature], float32, before the
 * division. */
mlx::core::array before_gain(
    const nn::Norm& norm,
    const nn::NormConfig& config,
    const mlx::core::array& directions);

}  // namespace mlxterp
