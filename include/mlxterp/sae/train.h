// mlxterp/sae/train.h: trains sparse autoencoders and transcoders, a step at a
// time: recipes, the losses of those who published them, and a trainer.

#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mlx/array.h"
#include "mlxterp/sae/sae.h"

namespace mlxterp {

/** What makes features sparse. */
enum class SaeRecipe {
  /** ReLU, and sum_i a_i |W_dec,i| (Anthropic 2024, "standard"). */
  relu_l1,
  /** A gate and a magnitude that share directions (Rajamanoharan et al. 2024,
   * arXiv 2404.16014). */
  gated,
  /** The k largest of each row (Gao et al. 2024, arXiv 2406.04093). */
  topk,
  /** The k x rows largest of a batch; saved as jump_relu with the threshold
   * that was learnt along (Bussmann et al. 2024, arXiv 2412.06410). */
  batch_topk,
  /** A threshold of each feature, by straight-through gradients (Rajamanoharan
   * et al. 2024, arXiv 2407.14435). */
  jump_relu,
  /** batch_topk whose first features reconstruct by themselves, too, for
   * several widths (Bussmann et al. 2025, arXiv 2503.17547). */
  matryoshka,
};

/** What jump_relu pays for active features; L0 is their mean number. */
enum class SaePenalty {
  step,       ///< sparsity x L0
  tanh,       ///< sparsity x sum_i tanh(tanh_scale a_i |W_dec,i|)
  quadratic,  ///< sparsity x (L0 - target_l0)^2
};

/** What the squared error of a batch is divided by. */
enum class SaeLossScale {
  rows,      ///< SAELens, dictionary_learning: sum over d, mean over rows.
  variance,  ///< sparsify, OpenAI: by sum |y - mean y|^2, the FVU.
};

/** The loss that has dead features of topk recipes predict the error e; z are
 * the `aux_k` largest of them. */
enum class SaeAuxLoss {
  none,
  saelens,  ///< min(dead / k, 1) mean_rows |e - z W_dec|^2, z without ReLU
  dictionary_learning,  ///< sum |e - z W_dec|^2 / sum |e - mean e|^2
  sparsify,  ///< min(dead / k, 1) sum |e - z W_dec|^2 / sum |y - mean y|^2
  openai,    ///< dictionary_learning's, and b_dec learns from it
};

/** What inputs are multiplied by while training; folded in what is saved. */
enum class SaeInputScale {
  none,
  root_d,  ///< sqrt(d_in) / mean |x| (SAELens: expected_average_only_in)
  unit,    ///< 1 / sqrt(mean |x|^2) (dictionary_learning)
};

/** "topk", "quadratic", ... as people write them. */
std::string_view name_of(SaeRecipe recipe);
std::string_view name_of(SaePenalty penalty);
std::string_view name_of(SaeLossScale scale);
std::string_view name_of(SaeAuxLoss loss);
std::string_view name_of(SaeInputScale scale);

/** Throw usage, with the names there are. */
SaeRecipe parse_sae_recipe(std::string_view name);
SaePenalty parse_sae_penalty(std::string_view name);

struct SaeTrainOptions {
  SaeRecipe recipe = SaeRecipe::topk;
  int features = 0;  ///< d_sae; 0: `expansion` times the input's width.
  int expansion = 8;
  int k = 32;  ///< topk and its kin.
  /** matryoshka: ascending, the last is `features`; empty: a sixteenth, a
   * quarter and all. */
  std::vector<int> widths = {};
  bool mean_over_widths = false;  ///< dictionary_learning: the sum / n^2.

  double sparsity = 1;  ///< The coefficient of the penalty.
  SaePenalty penalty = SaePenalty::tanh;
  double tanh_scale = 4;
  double target_l0 = 32;
  double bandwidth = 0.05, threshold = 0.01;  ///< jump_relu: of its gradients,
                                              ///< and at the beginning.
  /** jump_relu: of sum ReLU(threshold - pre) |W_dec,i| over dead features;
   * across layers over all. */
  double pre_act = 3e-6;

  SaeLossScale loss = SaeLossScale::rows;
  SaeAuxLoss aux = SaeAuxLoss::saelens;
  double aux_weight = 1;
  int aux_k = 0;  ///< 0: half the input's width.
  /** Rows without firing after which a feature is dead; 0: a tenth of all,
   * 10,000 at least and a million at most. */
  int64_t dead_after = 0;
  /** topk and its kin choose by activation x |W_dec,i|. */
  bool rank_by_norm = true;
  bool unit_decoder = false;  ///< Rows of W_dec are kept at length 1.
  double decoder_norm = 0.1;  ///< Their length at the beginning.
  bool mean_bias = false;     ///< b_dec begins as the data's mean; else 0.
  bool subtract_b_dec = true;
  SaeInputScale scale = SaeInputScale::none;

  bool transcoder = false;  ///< Predicts another value than it reads.
  bool skip = false;        ///< ... with x W_skip, which begins as 0.
  /** Of a transcoder across so many layers (CltTrainer), whose `features` are
   * of each; 0: it is none. */
  int layers = 0;
  /** Of a crosscoder (Lindsey et al. 2024): an SAE of so many layers' values
   * behind each other, each scaled by itself, for which |W_dec,i| is the sum of
   * the lengths within each layer; 0: it is none. */
  int blocks = 0;

  int batch_size = 2048;  ///< Rows of a step.
  int64_t tokens = 0;     ///< Rows in all; they decide how rates decay.
  double learning_rate = 4e-4, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  double warm_up = 0.02;  ///< Share of the steps; the rate grows linearly,
  double decay = 0.2;     ///< and falls to 0 over the last ones.
  double sparsity_warm_up = 0.05;  ///< Of the penalty's coefficient.
  double clip = 0;                 ///< Of the gradients' common norm; 0: none.
  /** Products of matrices read bfloat16: on a GPU several times as fast. What
   * is chosen is chosen by such numbers, the activations themselves, all sums,
   * weights, moments and thresholds stay float32. Not across layers. */
  bool bfloat16 = false;
  uint64_t seed = 0;

  int64_t steps() const;
};

/** The options that a peer trains by, as far as losses, normalisation and
 * initialisation go: "saelens", "dictionary_learning", "sparsify", "openai".
 * sparsify's and OpenAI's are of topk alone. "mlxterp": SAELens' losses for
 * runs of less than some million rows: b_dec begins as the data's mean, and
 * steps are smaller and rates higher. Throws usage. */
SaeTrainOptions sae_preset(std::string_view peer, SaeRecipe recipe);
std::span<const std::string_view> sae_presets();

/** Of a transcoder across `layers` layers, by jump_relu or batch_topk: losses
 * and rates of CLT-Forge (dcf4cc8, as it trains gpt2), with the data's mean in
 * b_dec and steps of 512 rows. Throws usage for another recipe. */
SaeTrainOptions clt_preset(SaeRecipe recipe, int layers);

/** Throws usage, with the values, for what cannot be trained; `d_in` and
 * `d_out` are the widths of what is read and predicted. Gives back the options
 * with every 0 that means a default replaced. */
SaeTrainOptions checked(SaeTrainOptions options, int d_in, int d_out);

/** Of a crosscoder of `layers` layers: sae_preset("mlxterp", recipe) with
 * `blocks`, a decoder of rows of length 0.1 in each layer and no b_dec
 * subtracted. Throws usage for gated and matryoshka. */
SaeTrainOptions crosscoder_preset(SaeRecipe recipe, int layers);

/** What one step saw, before it moved the weights. */
struct SaeStep {
  double loss = 0;        ///< All of it, as the options weigh it.
  double error = 0;       ///< mean_rows |recon - y|^2, in the scale trained in.
  double explained = 0;   ///< 1 - sum |recon - y|^2 / sum |y - mean y|^2
  double sparsity = 0;    ///< The penalty's term.
  double aux = 0;         ///< The auxiliary loss's, weighted.
  double l0 = 0;          ///< Mean active features of a row.
  double dead_share = 0;  ///< Of features that have not fired for long.
};

/** Where the time of all steps went, in seconds. */
struct SaeTimes {
  double products = 0, choice = 0, sparse = 0, optimiser = 0;
};

/**
 * A sparse autoencoder in training. Parameters, moments and statistics are
 * float32 or wider. Steps evaluate; rows of k values never become a dense
 * [rows, d_sae] but for the encoder's product. With the same start and rows, a
 * machine gives the same bits. A value; one thread at a time.
 */
class SaeTrainer {
 public:
  using Tensors = std::map<std::string, mlx::core::array>;

  /** Random weights. `x` [n, d_in] and, for a transcoder, `y` [n, d_out] are a
   * sample that says how to scale and where b_dec begins; it is evaluated.
   * Throws usage, and bad_data for a sample that is not finite or all 0. */
  SaeTrainer(
      SaeTrainOptions options,
      const mlx::core::array& x,
      const std::optional<mlx::core::array>& y = {});

  /** One step of rows [n, d_in], and [n, d_out] for a transcoder. Evaluates.
   * Throws usage for another width, bad_data where the loss is not finite. */
  SaeStep step(
      const mlx::core::array& x, const std::optional<mlx::core::array>& y = {});

  /** What it has become, for inputs as they come: scales and decoder norms are
   * folded in. Lazy. */
  Sae sae() const;

  int64_t steps() const { return steps_; }
  const SaeTrainOptions& options() const { return options_; }
  const SaeTimes& times() const { return times_; }
  double dead_share() const;

  /** W_enc [d_sae, d_in], W_dec [d_sae, d_out], b_enc [d_sae], b_dec [d_out],
   * and the recipe's own: threshold, b_gate, b_mag, r_mag, W_skip
   * [d_in, d_out]. Setting replaces those that are named. Throws usage. */
  const Tensors& parameters() const { return parameters_; }
  void set(const Tensors& parameters);

  /** All that a later step depends on; restoring it goes on to the same bits.
   * Throws bad_data for what is no state of these options and widths. */
  Tensors state() const;
  void restore(const Tensors& state);

 private:
  mlx::core::array scaled(const mlx::core::array& x) const;
  void move(Tensors gradients);

  SaeTrainOptions options_;
  int d_in_ = 0, d_out_ = 0;
  double scale_in_ = 1, scale_out_ = 1;
  std::vector<double> scales_;           // of each block; in place of scale_in_
  Tensors parameters_, first_, second_;  // the moments of Adam
  int64_t steps_ = 0;
  double threshold_ = 0;        // of batch_topk, at inference
  std::vector<int64_t> since_;  // rows since each feature fired
  SaeTimes times_;
};

}  // namespace mlxterp
