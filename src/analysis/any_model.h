// analysis/any_model.h: what analyses ask of a model, whether it is a Decoder
// or runs elsewhere and only has sites of layers.

#pragma once

#include <vector>

#include "mlxterp/trace/model.h"

namespace mlxterp {

/** What enters the first layer. */
inline constexpr const char* first_stream = "layers.0.resid_pre";

/** The Decoder inside; null: there is none. */
const Decoder* decoder_of(const InterpretableModel& model);

/** How many layers it has. */
int layer_count(const InterpretableModel& model);

/** How many logits a position has. Of a model that is no Decoder a pass tells;
 * it is built, not evaluated. So for the next one. */
int vocabulary(const InterpretableModel& model);

/** The layers that have attention, in order. */
std::vector<int> attention_layers(const InterpretableModel& model);

/** Throws usage, with the layers that have it, where this one has none. */
void require_attention(const Decoder& decoder, int layer, const char* who);

/** How many query heads the attention of a layer has, by its pattern; throws
 * usage where no layer has any. */
int head_count(const InterpretableModel& model);

/** The most positions of a prompt, or a billion where nobody knows. */
int context_length(const InterpretableModel& model);

/** The width of the residual stream. */
int residual_width(const InterpretableModel& model);

/** The logits of `ids`, float32 [pos, vocab], were `x` [pos, d_model] what the
 * last layer leaves: norm, unembedding and whatever else follows it, by a pass
 * of which nothing before is computed. Lazy. */
mlx::core::array logits_of_last(
    const InterpretableModel& model,
    const std::vector<int>& ids,
    const mlx::core::array& x);

}  // namespace mlxterp
