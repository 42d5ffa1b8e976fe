// mlxterp/sae/sae.h: a sparse autoencoder or a transcoder in memory, whatever
// file it came from, and what it computes.

#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mlx/array.h"

namespace mlxterp {

/** From pre-activations to activations. */
enum class SaeActivation {
  relu,
  /** ReLU of the k largest of a row, exactly k of them where some are equal
   * (Gao et al. 2024); the rest is 0. */
  topk,
  /** The k largest of a row as they are, negative ones too. */
  signed_topk,
  /** The k of a row with the largest magnitude, as they are. */
  abs_topk,
  /** ReLU of the largest in each of k equal stretches of a row (sparsify). */
  group_max,
  /** ReLU where above `threshold` (Rajamanoharan et al. 2024). Gated SAEs and
   * BatchTopK at inference are of this kind: see Sae. */
  jump_relu,
};

/** How a row of the input is normalised before all else. */
enum class SaeNorm {
  none,
  /** (x - mean) / (s + 1e-5), s the unbiased standard deviation. */
  layer_norm,
  /** x sqrt(d_in) / |x|. */
  constant_norm,
};

enum class SaeKind {
  sae,          ///< Reads and writes one site.
  transcoder,   ///< Reads one site and predicts another.
  cross_layer,  ///< Reads one layer and writes its own and later ones.
};

/** "relu", "topk", ... as docs and JSON have them. */
std::string_view name_of(SaeActivation activation);
std::string_view name_of(SaeNorm norm);
std::string_view name_of(SaeKind kind);

/** Where it came from and what it belongs to; texts are empty where the file
 * says nothing, and never trusted to be right. */
struct SaeSource {
  std::string format = {};        ///< A name of sae_formats().
  std::string architecture = {};  ///< As the file calls it: "gated".
  std::string file = {};          ///< Of the weights.
  std::string model = {};         ///< "google/gemma-2-2b"
  std::string hook_in = {};       ///< As the file names what it reads.
  std::string hook_out = {};      ///< What it writes; of an SAE the same.
  std::string site_in = {};  ///< The same as a site here, as a model's catalog
                             ///< resolves it: "layers.5.resid_post".
  std::string site_out = {};
  int layer = -1;                 ///< That it reads; -1: none or unknown.
  std::optional<double> l0 = {};  ///< Mean active features, as the file says.
};

/**
 * A sparse autoencoder, a transcoder, or one layer of a cross-layer transcoder:
 *
 *     z     = norm(x) - [subtract_b_dec] b_dec
 *     pre   = z W_enc + b_enc
 *     acts  = activation(pre)
 *     recon = undo_norm(acts W_dec + b_dec) + x W_skip
 *
 * All arrays are float32. What a file keeps beside that is folded in exactly: a
 * scale of the activations, the decoder's norms where they choose features, a
 * whitening. A gated SAE's gate x W_enc + b_gate > 0 and its magnitude
 * x W_enc e^r + b_mag are one jump_relu with W_enc e^r, b_mag and the threshold
 * b_mag - e^r b_gate.
 *
 * A value: copies share the arrays' buffers. Const members and the functions
 * below may be called from several threads.
 */
struct Sae {
  mlx::core::array W_enc;  ///< [d_in, d_sae]
  mlx::core::array b_enc;  ///< [d_sae]
  /** [d_sae, d_out]; cross_layer: [d_sae, targets, d_out], the target layers
   * first_target, first_target + 1, ... */
  mlx::core::array W_dec;
  /** [d_out]; cross_layer: of the layer it reads. */
  mlx::core::array b_dec;

  std::optional<mlx::core::array> threshold = {};  ///< jump_relu: [d_sae]
  /** [d_in, d_out], used as x W_skip; cross_layer: into its own layer. */
  std::optional<mlx::core::array> W_skip = {};

  SaeKind kind = SaeKind::sae;
  SaeActivation activation = SaeActivation::relu;
  int k = 0;  ///< topk, signed_topk, abs_topk: 1 to d_sae; group_max: divides.
  bool subtract_b_dec = false;
  SaeNorm norm = SaeNorm::none;
  bool undo_norm = false;  ///< Whether the reconstruction gets it back.
  int first_target = 0;    ///< cross_layer

  SaeSource source = {};

  int d_in() const { return W_enc.shape(0); }
  int d_sae() const { return W_enc.shape(1); }
  int d_out() const { return W_dec.shape(-1); }
  /** Layers it writes. */
  int targets() const {
    return kind == SaeKind::cross_layer ? W_dec.shape(1) : 1;
  }
};

/** Whether everything fits together: shapes, k, a threshold where there must be
 * one. Evaluates nothing. Throws bad_data, naming `sae.source.file`. */
void check(const Sae& sae);

/** What the activation reads: `x` [..., d_in] of any float dtype gives float32
 * [..., d_sae]. Lazy. Throws usage for another width. */
mlx::core::array pre_activations(const Sae& sae, const mlx::core::array& x);

/** Pre-activations [..., d_sae] to activations of the same shape. Lazy. */
mlx::core::array activate(const Sae& sae, const mlx::core::array& pre);

/** activate(pre_activations(x)): [..., d_in] to float32 [..., d_sae]. Lazy. */
mlx::core::array encode(const Sae& sae, const mlx::core::array& x);

/**
 * `acts` [..., d_sae] to float32 [..., d_out]; cross_layer:
 * [..., targets, d_out], what it adds to each target layer, b_dec and the skip
 * in its own. Needs the input `x` [..., d_in] where there is a skip or a norm
 * to undo. Lazy. Throws usage for another width or a missing `x`.
 */
mlx::core::array decode(
    const Sae& sae,
    const mlx::core::array& acts,
    const std::optional<mlx::core::array>& x = std::nullopt);

/** The same SAE for inputs that are not scaled, where the given one was made
 * for x `scale`: activations stay, the reconstruction is of x. `of_output`: of
 * what a transcoder predicts, where it is another number. Lazy. Throws usage
 * unless scales are positive and finite, or where there is a norm. */
Sae fold_scale(Sae sae, float scale, std::optional<float> of_output = {});

/** The same reconstruction from decoder rows of length 1: activations are
 * multiplied by what the lengths were (of a cross_layer, over all targets).
 * Lazy. Throws usage where that would change which features are chosen (topk
 * and its kin) unless they were `chosen_so`: ranked by activation times
 * length. */
Sae fold_decoder_norm(Sae sae, bool chosen_so = false);

/** The same SAE for inputs that are not whitened, where the given one was made
 * for (x - mean) matrix; `mean` [d_in], `matrix` and its `inverse`
 * [d_in, d_in]. Lazy. Throws usage where there is a norm. */
Sae fold_whitening(
    Sae sae,
    const mlx::core::array& mean,
    const mlx::core::array& matrix,
    const mlx::core::array& inverse);

/** How well `recon` is `target`, rows taken together, sums in float64. */
struct SaeFit {
  size_t rows = 0;
  double explained_variance = 0;  ///< SAELens': 1 - E|x-r|^2 / (E|x|^2-|Ex|^2)
  double fvu = 0;                 ///< 1 - explained_variance
  double l0 = 0;                  ///< Features that are not 0, of a row.
};

/** Gathers SaeFit over chunks of rows. One thread at a time. */
class SaeFitter {
 public:
  /** `target`, `recon` [n, d_out], `acts` [n, d_sae]; evaluates them. */
  void add(
      const mlx::core::array& target,
      const mlx::core::array& recon,
      const mlx::core::array& acts);
  SaeFit fit() const;

 private:
  size_t rows_ = 0;
  double squares_ = 0, errors_ = 0, active_ = 0;
  std::vector<double> sums_;
};

/** What speaks against `sae` being the one of these activations, in a sentence
 * with what it may be: an explained variance below 0, an L0 three times off the
 * file's own. Empty: nothing. */
std::string doubt(const Sae& sae, const SaeFit& fit);

}  // namespace mlxterp
