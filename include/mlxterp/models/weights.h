// mlxterp/models/weights.h: a decoder's weights by the names that
// TransformerLens gives them, the same in every family.

#pragma once

#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "mlx/array.h"
#include "mlxterp/models/decoder.h"

namespace mlxterp {

/** Which part of a weight, and how; without any of these, all of it as it is in
 * the checkpoint. */
struct WeightPart {
  std::optional<int> layer = {};
  std::optional<int> head = {};                 ///< A query head.
  std::optional<std::vector<int>> tokens = {};  ///< Of W_E, W_U and b_U.
  /** Of weights that read through a norm: with its gain, and its bias in b_*,
   * folded in, centred where the norm centres (TransformerLens' fold_ln). They
   * then act on the site `normalized` of that norm. */
  bool folded = false;
};

/**
 * A weight as x @ W + b has it (Nanda and Bloom, TransformerLens, 2022):
 *
 *     W_Q W_K W_V        [layer, head, d_model, d_head]; attn.input to q, k, v
 *     b_Q b_K b_V        [layer, head, d_head]
 *     W_O, b_O           [layer, head, d_head, d_model], [layer, d_model];
 *                        z to result, whose sum and b_O are attn.output
 *     W_in, b_in         [layer, d_model, d_mlp], [layer, d_mlp]; mlp.input to
 *                        mlp.pre, in a gated MLP to mlp.pre_linear
 *     W_gate, b_gate     likewise, to mlp.pre; gated only
 *     W_out, b_out       [layer, d_mlp, d_model], [layer, d_model]
 *     W_E                [vocab, d_model]; the rows are the site embed
 *     W_pos              [context, d_model]; where positions are learned
 *     W_U, b_U           [d_model, vocab], [vocab]; ln_final.output to logits
 *                        before a soft cap
 *
 * A layer or head that is given has no axis. Grouped kv heads are repeated, as
 * in TransformerLens, so that W_K has a head for each of W_Q's: query head h
 * reads kv head h / (n_heads / n_kv_heads). W_in, W_gate and W_out of experts
 * have the expert's axis before the last two. A factor of the family's (Gemma's
 * of the embedding, Cohere's of the logits) is inside. A bias that the family
 * has not is zeros.
 *
 * Lazy: nothing but the part asked for is computed, and nothing copied that can
 * be a view. Throws unknown_name for what this model has not, out_of_range, and
 * usage for a part that the weight does not have or layers that differ in
 * shape. Layers without attention have no W_Q and its like: one that has is to
 * be asked for by its number. Nor have layers that read another's keys and
 * values W_K and W_V. Of experts beside an MLP W_in and its like are the MLP's.
 */
mlx::core::array weight(
    const Decoder& decoder, std::string_view name, const WeightPart& part = {});

/** Every name that weight() knows. */
std::span<const std::string_view> weight_names();

/** What weight() does with the parameter of a projection of queries, keys or
 * values, [head * d_head, d_model] or [head * d_head], to split it by head:
 * [head, d_model, d_head] or [head, d_head]. Each head is repeated. */
mlx::core::array heads_of_projection(
    const mlx::core::array& parameter, int n_heads, int repeats = 1);

/** The same of that of the output projection, [d_model, head * d_head], as
 * [head, d_head, d_model]. */
mlx::core::array heads_of_output(
    const mlx::core::array& parameter, int n_heads);

}  // namespace mlxterp
