// mlxterp/nn/per_layer.h: embeddings of a token that each layer has of its own
// (Gemma 3n, 2025).

#pragma once

#include "mlxterp/nn/linear.h"
#include "mlxterp/nn/mlp.h"

namespace mlxterp::nn {

struct PerLayerConfig {
  int vocab = 0;  ///< Ids from here on have none.
  int d_model = 0;
  int n_layers = 0;
  int d = 0;  ///< Of one layer's embedding.
  Activation activation = Activation::gelu_tanh;
  NormConfig norm = {};
};

/**
 * The embeddings of all layers, made once, where the pass begins: the mean, but
 * for sqrt(2), of rows of a table and of what a projection makes of the token's
 * embedding, normalised layer by layer. Parts: embed, proj, norm; their values
 * are those of layer 0, then of layer 1, and so on: [batch, pos, layer * d];
 * of norm [batch, pos, layer, d]. Input: what the projection reads.
 */
class PerLayerEmbedding : public Module {
 public:
  explicit PerLayerEmbedding(const PerLayerConfig& config);

  /** Not called: the ids are missing. Throws usage. */
  mlx::core::array forward(
      const mlx::core::array& x, Pass& pass) const override;

  /** Ids [batch, pos] and their embeddings [batch, pos, d_model] to the
   * module's output, which the pass then carries. */
  void carry(
      const mlx::core::array& ids, const mlx::core::array& x, Pass& pass) const;

  Embedding embed;
  Linear proj;
  Norm norm;

 private:
  PerLayerConfig config_;
};

/**
 * Where a layer reads its own: down(act(gate(x)) * embedding), [batch, pos,
 * d_model]. Sites, [batch, pos, d]: pre, what the activation sees; embedding,
 * the other factor; post, what the down projection sees.
 */
class PerLayerInput : public Module {
 public:
  PerLayerInput(const PerLayerConfig& config, int layer);

  mlx::core::array forward(
      const mlx::core::array& x, Pass& pass) const override;

  Linear gate_proj, down_proj;

 private:
  Activation activation_;
  int layer_, d_;
  Slot embedding_;
};

}  // namespace mlxterp::nn
