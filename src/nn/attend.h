// nn/attend.h: from queries and keys to a mix of values, as a whole where
// nobody looks between the steps, or step by step. Heads come before positions:
// q is [batch, head, dest, d_head], k and v [batch, kv_head, src, d_head].

#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "mlxterp/nn/attention.h"

namespace mlxterp::nn {

/** [batch, pos, head, d] to [batch, head, pos, d] and back. */
mlx::core::array swap_pos_head(const mlx::core::array& x);

/** Joins each group of query heads that share a kv head, so that one product
 * serves the group: [batch, head, pos, d] to [batch, kv_head, group * pos, d].
 */
mlx::core::array by_group(const mlx::core::array& x, int n_kv_heads);

/** [batch, head, dest, src], masked ones -inf. `bias` is added to them; absent:
 * the config's ALiBi, if any. */
mlx::core::array scores_of(
    const AttentionConfig& config,
    const mlx::core::array& q,
    const mlx::core::array& k,
    const std::optional<mlx::core::array>& bias = std::nullopt);

/** The softmax of scores, and what sinks took of it, [batch, head, dest, 1]. */
struct Weights {
  mlx::core::array pattern;
  std::optional<mlx::core::array> sink_share = {};
};

/** `sinks` are the scores of nothing, that broadcast to [batch, head, dest, 1].
 */
Weights weights_of(
    const mlx::core::array& scores,
    const std::optional<mlx::core::array>& sinks);

/** A parameter [head] as such scores. */
std::optional<mlx::core::array> as_scores(
    const std::optional<mlx::core::array>& sinks);

/** The heads' mix of values, [batch, head, dest, d_head], as one op where the
 * device has one; `sinks` [head]. Not of capped scores. */
mlx::core::array attend(
    const AttentionConfig& config,
    const std::optional<mlx::core::array>& sinks,
    const mlx::core::array& q,
    const mlx::core::array& k,
    const mlx::core::array& v);

/** The same of a packed pass's rows, [1, head, row, d_head]; capped or not. */
mlx::core::array attend_packed(
    const AttentionConfig& config,
    const std::optional<mlx::core::array>& sinks,
    const mlx::core::array& q,
    const mlx::core::array& k,
    const mlx::core::array& v,
    const std::shared_ptr<const PackedBatch>& packed);

/** How many of the first sources of each sequence of a joint pass hold nothing;
 * `k` [sequence, kv_head, src, d_head]: all that are there. */
std::vector<int> hidden(const PackedBatch& packed, const mlx::core::array& k);

/** One query of each of some sequences, q [1, head, sequence, d_head], over k
 * and v [sequence, kv_head, src, d_head] without the `hidden` ones; capped or
 * not. Like q. Not where sources are told apart by their number (ALiBi,
 * chunks). */
mlx::core::array attend_joint(
    const AttentionConfig& config,
    const std::optional<mlx::core::array>& sinks,
    const mlx::core::array& q,
    const mlx::core::array& k,
    const mlx::core::array& v,
    const std::vector<int>& hidden);

}  // namespace mlxterp::nn
