// mlxterp/nn/linear.h: matrices as modules: Linear and Embedding.

#pragma once

#include <optional>

#include "mlxterp/nn/matrix.h"
#include "mlxterp/nn/norm.h"

namespace mlxterp::nn {

/** y = x W^T + b. Parameters: weight [d_out, d_in], bias [d_out] if asked for.
 * New ones are uniform in +-1/sqrt(d_in). */
class Linear : public Module {
 public:
  Linear(int d_in, int d_out, bool with_bias = false);

  mlx::core::array forward(
      const mlx::core::array& x, Pass& pass) const override;

  /** The module's output site around a value made by other means. */
  mlx::core::array output_from(mlx::core::array y, Pass& pass) const {
    return tap_output(pass, std::move(y));
  }

  Matrix weight;
  std::optional<mlx::core::array> bias;
};

/** A row of weight [vocab, d_model] for each id, times `scale`: [batch, pos] to
 * [batch, pos, d_model]. Throws out_of_range for ids that are evaluated, as an
 * input's and edited ones are, and outside; those made by an op must be in
 * range, for MLX does not check them. A `factor` that transformers multiplies
 * by outside of the module, or a norm behind it, ln, leaves what the module
 * gives a site of its own: raw.
 */
class Embedding : public Module {
 public:
  Embedding(
      int vocab,
      int d_model,
      float scale = 1.0f,
      float factor = 1.0f,
      const std::optional<NormConfig>& norm = std::nullopt);

  mlx::core::array forward(
      const mlx::core::array& ids, Pass& pass) const override;

  Matrix weight;
  std::optional<Norm> ln;

 private:
  float scale_, factor_;
  std::optional<Slot> raw_;
};

}  // namespace mlxterp::nn
