// mlxterp/sae/clt_train.h: trains a transcoder across layers, a step at a time.

#pragma once

#include <cstdint>
#include <vector>

#include "mlx/array.h"
#include "mlxterp/sae/sae.h"
#include "mlxterp/sae/train.h"

namespace mlxterp {

/**
 * A cross-layer transcoder in training (Lindsey et al. 2024, "Sparse
 * crosscoders"; Ameisen et al. 2025, "Circuit tracing"): features of layer s
 * read it and write layer s and all later ones,
 *
 *     a_s   = activation(x_s W_enc_s^T + b_enc_s)
 *     ŷ_t   = b_dec_t + sum_{s <= t} a_s W_dec_s[:, t - s]
 *     loss  = sum_t mean_rows |ŷ_t - y_t|^2
 *           + sparsity sum_s mean_rows sum_i tanh(tanh_scale a_si |W_dec_si|)
 *           + pre_act sum_s mean_rows sum_i ReLU(threshold - pre) |W_dec_si|
 *
 * where |W_dec_si| is the length of all that a feature writes together. These
 * are CLT-Forge's (dcf4cc8), thresholds being trained by their logarithms; its
 * biases, one for each source and target, are one for each target here.
 * batch_topk has the first term, chooses among the features of all layers by
 * a_si |W_dec_si|, `k` a row together, and has SAELens' loss of dead features
 * (SaeAuxLoss::saelens), which are counted and chosen over all layers, too.
 *
 * Parameters, moments and statistics are float32 or wider. Steps evaluate. With
 * the same start and rows, a machine gives the same bits. A value; one thread
 * at a time.
 */
class CltTrainer {
 public:
  using Tensors = SaeTrainer::Tensors;

  /** Random weights (uniform, of CLT-Forge's widths). `x` [n, layers, d_in] and
   * `y` [n, layers, d_out] are a sample that says how each layer is scaled,
   * where b_dec begins, and b_enc: each feature of jump_relu begins active in
   * 10,000 / features of the rows, 0.4 at most. It is evaluated. Throws as
   * SaeTrainer's constructor does. */
  CltTrainer(
      SaeTrainOptions options,
      const mlx::core::array& x,
      const mlx::core::array& y);

  /** One step of rows [n, layers, d_in] and [n, layers, d_out]. Evaluates;
   * `error` and `l0` are sums over layers, `explained` of all layers as they
   * are scaled. Throws as SaeTrainer::step does. */
  SaeStep step(const mlx::core::array& x, const mlx::core::array& y);

  /** What it has become, a cross_layer transcoder for each layer, for inputs as
   * they come: scales and decoder norms are folded in. Lazy. */
  std::vector<Sae> transcoders() const;

  int64_t steps() const { return steps_; }
  const SaeTrainOptions& options() const { return options_; }
  const SaeTimes& times() const { return times_; }
  double dead_share() const;

  /** Of each layer N: W_enc_N [features, d_in], b_enc_N [features], W_dec_N
   * [features, layers - N, d_out], b_dec_N [d_out] and, of jump_relu,
   * log_threshold_N [features]. */
  const Tensors& parameters() const { return parameters_; }
  /** Replaces those that are named. Throws usage. */
  void set(const Tensors& parameters);

  /** All that a later step depends on; restoring it goes on to the same bits.
   * Throws bad_data for what is no state of these options and widths. */
  Tensors state() const;
  void restore(const Tensors& state);

 private:
  mlx::core::array scaled(
      const mlx::core::array& x,
      int width,
      const std::vector<double>& scales,
      const char* what) const;
  void begin_biases(const mlx::core::array& x);
  void move(Tensors gradients);

  SaeTrainOptions options_;
  int d_in_ = 0, d_out_ = 0;
  std::vector<double> scale_in_, scale_out_;  // of each layer
  Tensors parameters_, first_, second_;       // the moments of Adam
  int64_t steps_ = 0;
  double threshold_ = 0;        // of batch_topk, at inference
  std::vector<int64_t> since_;  // rows since each feature fired
  SaeTimes times_;
};

}  // namespace mlxterp
