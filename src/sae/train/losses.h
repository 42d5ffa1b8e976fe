// sae/train/losses.h: forward, loss and gradients of each recipe, by hand.

#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "mlx/array.h"
#include "mlxterp/sae/train.h"
#include "sae/train/sparse.h"

namespace mlxterp::sae_train {

using Tensors = SaeTrainer::Tensors;

/** What a step's loss depends on. */
struct Problem {
  const SaeTrainOptions& options;
  const Tensors& p;            ///< The parameters, as SaeTrainer has them.
  mlx::core::array x, y;       ///< float32 [rows, d_in], [rows, d_out], scaled.
  double sparsity = 0;         ///< The coefficient now.
  std::vector<int> dead = {};  ///< Features, ascending.
  Engine engine = Engine::loops;

  int rows() const { return x.shape(0); }
  int features() const { return p.at("W_enc").shape(0); }
  /** What products read of x: bfloat16 where the options say so. */
  mlx::core::array rounded(const mlx::core::array& x) const;
  /** a b, in float32. */
  mlx::core::array product(
      const mlx::core::array& a, const mlx::core::array& b) const;
  /** What the encoder reads. */
  mlx::core::array x_in() const;
  /** mx::array of b_dec [+ x W_skip], broadcast over rows. */
  mlx::core::array offset() const;
  /** |W_dec,i|, [features], 1e-8 at least. */
  mlx::core::array norms() const;
  /** Their gradient by W_dec, each row times `c` [features]. */
  mlx::core::array norm_slope(const mlx::core::array& c) const;
};

/** Scalars are float32 arrays, which may be lazy. */
struct Slopes {
  Tensors gradients = {};
  mlx::core::array errors;    ///< sum |recon - y|^2
  mlx::core::array variance;  ///< sum |y - mean y|^2
  mlx::core::array loss, sparsity, aux;
  mlx::core::array fired;  ///< float32 [features], above 0 where it did
  mlx::core::array l0;     ///< mean over rows
  /** batch_topk and its kin: the least activation above 0; 0: there is none. */
  std::optional<mlx::core::array> least = {};
  double choice = 0,
         sparse = 0;  ///< Seconds of these parts, of k values a row.
};

Slopes slopes_of(const Problem& problem);

/** What the loss of a transcoder across layers depends on. */
struct CltProblem {
  const SaeTrainOptions& options;
  const Tensors& p;       ///< The parameters, as CltTrainer has them.
  mlx::core::array x, y;  ///< float32 [rows, layers, d], scaled.
  double sparsity = 0;    ///< The coefficient now.
  /** Of all layers, layer 0's first, ascending. */
  std::vector<int> dead = {};
  Engine engine = Engine::loops;

  int rows() const { return x.shape(0); }
  int layers() const { return x.shape(1); }
  int d_out() const { return y.shape(2); }
  int features() const { return p.at("W_enc_0").shape(0); }
  /** "W_enc" of a layer. */
  const mlx::core::array& of(const char* name, int layer) const;
};

/** Errors, variance and the active features of a row are sums over layers;
 * `fired` is [layers * features], layer 0's first. */
Slopes slopes_of(const CltProblem& problem);

/** Of topk, batch_topk and matryoshka; of the others. */
Slopes sparse_slopes(const Problem& problem);
Slopes dense_slopes(const Problem& problem);

/** One number, float32. */
inline mlx::core::array scalar(double value) {
  return mlx::core::array(static_cast<float>(value));
}

/** In float32. */
mlx::core::array as_float(const mlx::core::array& x);

/** sum |y - mean y|^2 over rows. */
mlx::core::array variance_of(const mlx::core::array& y);
/** The lengths of the rows of W [features, d] within each of `blocks` equal
 * parts, [features, blocks, 1], 1e-8 at least; 0 is 1. */
mlx::core::array block_norms(const mlx::core::array& W, int blocks);
/** Sum of all, rows first. */
mlx::core::array total(const mlx::core::array& x);
/** What a sum of squared errors is multiplied by, and a mean over rows. */
mlx::core::array error_weight(
    const Problem& problem, const mlx::core::array& variance);

/** Adds the gradients of b_dec and W_skip, of the gradient G [rows, d_out] of
 * what is added to the decoder's product and the gradient [features] of
 * b_enc's kind, which goes back through what b_dec is subtracted from. */
void add_bias_gradients(
    const Problem& problem,
    const mlx::core::array& G,
    const mlx::core::array& pre_sums,
    Tensors& gradients);

}  // namespace mlxterp::sae_train
