// mlxterp/sae/module.h: a sparse autoencoder as a module, whose features are
// sites.

#pragma once

#include "mlxterp/nn/module.h"
#include "mlxterp/sae/sae.h"

namespace mlxterp {

/**
 * An Sae that is run in a pass, to be attached to a model (sae/attach.h) or to
 * be a part of a module of one's own. Its sites, beside `input`:
 *
 *     pre    float32 [batch, pos, d_sae], before the activation
 *     acts   float32 [batch, pos, d_sae]
 *     recon  [batch, pos, d_out], also `output`; cross_layer:
 *            [batch, pos, targets, d_out]
 *
 * An input [batch, pos, head, d_head] is flattened to heads * d_head, and a
 * reconstruction as wide gets its shape back. What nobody reads or needs is not
 * computed. Every position depends on itself alone. Holds the Sae's arrays, as
 * copies of it do; const and thread-safe.
 */
class SaeModule final : public nn::Module {
 public:
  /** Throws bad_data where the Sae does not fit together. */
  explicit SaeModule(Sae sae);

  /** Throws usage for an input of another width. */
  mlx::core::array forward(
      const mlx::core::array& x, Pass& pass) const override;

  const Sae& sae() const { return sae_; }

 private:
  Sae sae_;
  Slot pre_, acts_;
};

/**
 * Some features of an Sae alone, in the order given, for reading along: where
 * features do not compete (ReLU, jump ReLU) only their columns of W_enc are
 * multiplied. Its sites are `acts`, also `output`, float32 [batch, pos,
 * feature].
 */
class SaeFeatures final : public nn::Module {
 public:
  /** Throws usage where there are none, out_of_range, and bad_data as SaeModule
   * does. Evaluates the columns. */
  SaeFeatures(const Sae& sae, std::vector<int> features);

  mlx::core::array forward(
      const mlx::core::array& x, Pass& pass) const override;

  const std::vector<int>& features() const { return features_; }

 private:
  std::vector<int> features_;
  Sae sae_;       // of those columns, or the whole where features compete
  bool compete_;  // for being among the k largest
};

/** Whether which of an SAE's features are active depends on the others. */
bool features_compete(const Sae& sae);

}  // namespace mlxterp
