// mlxterp/analysis/tuned_lens.h: the tuned lens, a logit lens that learnt to
// read each layer.

#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "mlx/array.h"
#include "mlxterp/core/progress.h"
#include "mlxterp/trace/model.h"

namespace mlxterp {

/**
 * For each layer but the last a translator, W h + b, from what the layer leaves
 * in the residual stream (layers.i.resid_post) to what the last one would leave
 * there (Belrose et al., 2023, "Eliciting Latent Predictions from Transformers
 * with the Tuned Lens"; the paper's h + A h + b is the same map). The last
 * layer has none: its prediction is the model's. In float32. A value.
 */
class TunedLens {
 public:
  /** Translators that change nothing: the logit lens. Throws usage. */
  TunedLens(int layers, int d_model);

  int layers() const { return static_cast<int>(weights.size()); }
  int d_model() const { return d_model_; }

  /** h [..., d_model] of a layer as the last layer's, in h's dtype; the last
   * layer's as it is. Lazy. Throws out_of_range, usage. */
  mlx::core::array operator()(const mlx::core::array& h, int layer) const;

  /** Throws usage where it is a lens of another model's sizes. */
  void check_fits(const InterpretableModel& model) const;

  /**
   * As mlxterp 0.1 has it: `path` with the suffix .npz, translators_{i}_weight
   * [d_model, d_model] and _bias [d_model], and with .json, {num_layers,
   * hidden_dim}. The last layer's is the identity. Each file appears whole or
   * not at all.
   */
  void save(const std::filesystem::path& path, bool overwrite = false) const;
  /** A translator of the last layer, which mlxterp 0.1 trained too, is left
   * out, with a warning. Throws bad_data where a translator is missing, of
   * another shape, no floating-point numbers or not finite; environment. */
  static TunedLens load(
      const std::filesystem::path& path, const Warn& warn = {});

  /** [d_model, d_model] of each layer; the last is the identity, and unused. */
  std::vector<mlx::core::array> weights;
  std::vector<mlx::core::array> biases;  ///< [d_model]

 private:
  /** Both lists are the caller's to set. Throws usage where they do not fit. */
  void check_translator(size_t layer) const;

  int d_model_;
};

struct TunedLensOptions {
  int steps = 250;
  /** Above 0: trains for so many minutes instead, however many steps that is;
   * at least one, and none that would probably end later. */
  double minutes = 0;
  /** Decays linearly to zero, over the steps or the minutes. */
  float learning_rate = 1.0f;
  float momentum = 0.9f;  ///< Nesterov's.
  float clip = 1.0f;      ///< Of the global gradient norm.
  /** Tokens of a step: one stretch of the text, each step the next one. */
  int length = 2048;
  /** Called after every step with the loss it began with: the mean KL over the
   * trained layers, in nats. */
  std::function<void(int step, float loss)> on_step = {};
  /** Asked after every step; true ends the training, and what was learnt until
   * then is returned. */
  std::function<bool()> stop = {};
  Progress progress = {};
};

/**
 * Trains translators of all layers but the last from the identity, on the mean
 * over layers and positions of the KL divergence from the model's prediction
 * to each layer's through its translator, ln_final and unembed. One
 * forward pass a step for the residuals of all layers; then layers one by one
 * and positions in chunks, so that 256 MB of logits are there at a time. `ids`
 * is one long text. The model stays as it is. Evaluates. Throws usage where the
 * text is shorter than one stretch, where the model has one layer, or where the
 * loss is no longer finite.
 */
TunedLens train_tuned_lens(
    const InterpretableModel& model,
    const std::vector<int>& ids,
    const TunedLensOptions& options = {});

/** How close a layer's prediction is to the model's. */
struct LensQuality {
  float kl = 0;             ///< From the model to the layer, in nats.
  float cross_entropy = 0;  ///< Of the text's own next tokens, in nats.
  float agreement = 0;      ///< How often both have the same top token.
};

struct LensEvaluation {
  std::vector<LensQuality> logit;  ///< By layer, through the logit lens.
  std::vector<LensQuality> tuned;  ///< Through the tuned lens; may be empty.
  float cross_entropy = 0;         ///< The model's own, in nats.
  size_t positions = 0;            ///< How many were read.
};

/** Both lenses on a text, best one that no lens was trained on, in stretches of
 * `length` tokens; a rest of two tokens or more is read too. Evaluates. */
LensEvaluation evaluate_lens(
    const InterpretableModel& model,
    const std::vector<int>& ids,
    const TunedLens* lens,
    int length = 512,
    const Progress& progress = {});

}  // namespace mlxterp
