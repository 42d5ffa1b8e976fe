// nn/delta_rule.h: a memory that fades, is written and is read: the gated delta
// rule, which corrects it (Yang et al., 2024, "Gated Delta Networks"), and the
// same without, a state space (Dao and Gu, 2024, "Transformers are SSMs").

#pragma once

#include <optional>

#include "mlx/array.h"

namespace mlxterp::nn {

/**
 * What it reads, float32 [batch, pos, head, ...]: keys and queries of length
 * about 1, queries scaled. For each head and position, with the memory S
 * [d_key, d_value]:
 *
 *     S <- exp(g) S
 *     S <- S + beta k (v - k S)      or without correction   S + beta k v
 *     out = q S
 */
struct DeltaInput {
  mlx::core::array q, k;     ///< [..., d_key]
  mlx::core::array v;        ///< [..., d_value]
  mlx::core::array g, beta;  ///< [..., 1]
  mlx::core::array initial;  ///< [batch, head, d_key, d_value]
  bool corrects = true;
};

struct DeltaOutput {
  mlx::core::array out;    ///< [batch, pos, head, d_value]
  mlx::core::array state;  ///< Behind the last position, as `initial`.
};

/** By products of whole stretches of positions. */
DeltaOutput delta_rule(const DeltaInput& in);

/** What stands in the place of states, [batch, pos, head, d_key, d_value]; only
 * where `changed` [batch, pos, head, 1, 1] says so. */
struct HeldStates {
  mlx::core::array states, changed;
};

/** Position by position: the meaning of the above. */
struct DeltaSteps {
  mlx::core::array out;     ///< [batch, pos, head, d_value]
  mlx::core::array states;  ///< [batch, pos, head, d_key, d_value]
};
DeltaSteps delta_steps(
    const DeltaInput& in, const std::optional<HeldStates>& held = std::nullopt);

}  // namespace mlxterp::nn
