// mlxterp/analysis/logit_attribution.h: direct logit attribution, a logit as
// the sum of the contributions of the model's components.

#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "mlxterp/analysis/metric.h"
#include "mlxterp/core/progress.h"
#include "mlxterp/trace/model.h"

namespace mlxterp {

/** How finely a layer is decomposed. */
enum class Unit {
  component,  ///< What attention and MLP add: attn_out, mlp_out.
  head,       ///< Each head through W_O, and the MLP whole.
  neuron,     ///< Each neuron through W_out, and attention whole.
};

struct LogitAttributionOptions {
  /** One or several; their contributions are averaged. */
  Inputs prompts;
  /** logit or logit_diff: a direction in the unembedding; at its position. */
  Metric metric = {};  ///< Must be given.
  Unit unit = Unit::component;
  Progress progress = {};
};

/** One summand of a logit. A value. */
struct LogitPart {
  enum class Kind {
    embed,
    pos_embed,
    attn_out,
    mlp_out,
    ple_out,  ///< What a layer's own embedding of the token adds.
    head,
    neuron,
    attn_bias,  ///< Of W_O, and of a norm behind it.
    mlp_bias,   ///< Of W_out, and of a norm behind it.
    /** What edits and attached modules of the handle add to the residual stream
     * in a layer, beyond its components; layer -1: to the logits after it. */
    edits,
    ln_final_bias,
    unembed_bias,
  };
  Kind kind = Kind::embed;
  int layer = -1;    ///< -1: none.
  int unit = -1;     ///< The head or neuron, -1: none.
  float value = 0;   ///< Mean over prompts.
  float spread = 0;  ///< Standard deviation over them.

  /** "embed", "layers.3.attn_out", "L3H7", "L3N120", "layers.3.attn_bias". */
  std::string name() const;
};

/** "embed", "attn_out", "head", "ln_final_bias", ... */
const char* name(LogitPart::Kind kind);

struct LogitAttribution {
  std::vector<LogitPart> parts;  ///< In the model's order.
  /** [layer + 1]: the logit read from the residual stream before each layer and
   * at the end: the sum of all parts so far, without the scalars of layers to
   * come, and of the last two biases. */
  std::vector<float> accumulated;
  float sum = 0;      ///< Of all parts: the metric before any softcap.
  float model = 0;    ///< The metric as the model computes it, after the cap.
  float softcap = 0;  ///< Where not 0: logits are softcap * tanh(x / softcap).
  int layers = 0;
  size_t prompts = 0;
  std::vector<int> ids;  ///< The first prompt.
};

/**
 * Direct logit attribution (Elhage et al., 2021, "A mathematical framework for
 * transformer circuits"; nostalgebraist, 2020), as TransformerLens' logit_attrs
 * of decompose_resid, stack_head_results and get_full_resid_decomposition, and
 * accumulated_resid with its final norm: what a part wrote to the residual
 * stream at the metric's position, read by the final norm and the unembedding.
 *
 * The norm's divisor is the one of the actual run, held fixed, and its gain
 * belongs to the direction; LayerNorm's mean is subtracted of each part. So
 * are norms behind attention and MLP (Gemma 2, OLMo 2) when a layer is taken
 * apart, and factors of the residual stream (Granite) and of the logits
 * (Cohere). Biases are parts of their own. With a position embedding, embed is
 * what enters layer 0 less that. A layer of experts stays one part, beside an
 * MLP as in its place. Where a scalar multiplies what leaves a layer, a part
 * counts as it is at the end, times its layer's and those of all later ones.
 *
 * In float32; the parts sum to the logit but for rounding. One pass a prompt;
 * evaluates. Throws usage for another metric, for neurons of a model that has
 * none outside its experts; unknown_name, out_of_range.
 */
LogitAttribution logit_attribution(
    const InterpretableModel& model, const LogitAttributionOptions& options);

}  // namespace mlxterp
