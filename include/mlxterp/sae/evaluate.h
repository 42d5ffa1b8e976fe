// mlxterp/sae/evaluate.h: how good an SAE is on a text.

#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "mlxterp/core/progress.h"
#include "mlxterp/sae/attach.h"

namespace mlxterp {

struct SaeEvalOptions {
  int length = 128;    ///< Tokens of a window.
  int64_t tokens = 0;  ///< Ends behind so many; 0: at the end of the text.
  /** Whether the first position of each window counts, and is replaced. In most
   * models it is like no other, and few SAEs were trained on it. */
  bool first = false;
  std::string site = {}, reads = {};  ///< As SaeAttachOptions.
  Progress progress = {};
  Warn warn = {};
};

/**
 * As SAELens' evals (6.5x) have them where they have them. Sums are taken in
 * float64. Undefined ratios are NaN.
 */
struct SaeEvaluation {
  SaeSites sites = {};
  int64_t tokens = 0;  ///< Positions counted.
  int64_t windows = 0;
  int64_t predicted = 0;  ///< Next tokens that cross-entropies are means of.

  double explained_variance = 0;  ///< 1 - E|x-r|^2 / (E|x|^2 - |E x|^2)
  double fvu = 0;                 ///< 1 - explained_variance
  double mse = 0;                 ///< E|x-r|^2, summed over features
  double cosine = 0;              ///< E of the cosine of x and r
  double l2_in = 0, l2_out = 0;   ///< E|x|, E|r|
  double l2_ratio = 0;            ///< E |r|/|x|
  double relative_bias = 0;       ///< E|r|^2 / E<x,r> (arXiv:2404.16014)
  double l0 = 0;                  ///< Active features (not 0) of a position.
  double l1 = 0;                  ///< Their sum of magnitudes.

  /** Of the model itself, with the site replaced by the reconstruction, and by
   * zeros: nats per token. */
  double ce = 0, ce_sae = 0, ce_zero = 0;
  double kl_sae = 0, kl_zero = 0;  ///< KL(model || edited), nats.
  double ce_score = 0;             ///< (zero - sae) / (zero - model)
  double kl_score = 0;             ///< (zero - sae) / zero

  std::vector<int64_t> active = {};  ///< Of each feature, positions not 0.
  int64_t dead = 0;                  ///< Features never active.
  struct Bin {
    double from = 0, to = 0;  ///< log10 of the share of positions.
    int64_t features = 0;
  };
  /** Of log10 densities, half a decade each, [from, to); without dead ones. */
  std::vector<Bin> density = {};
};

/**
 * Three passes for each window of a text (as store_text_activations reads it):
 * the model's own, with the reconstruction in the site's place, and with zeros.
 * Memory is one window's. Evaluates. Throws usage where an SAE cannot replace
 * its site (cross_layer), or the text is too short; as attach_sae does;
 * bad_data, environment.
 */
SaeEvaluation evaluate_sae_on_text(
    const InterpretableModel& model,
    const Sae& sae,
    const std::filesystem::path& text,
    const SaeEvalOptions& options = {});

/** The same of prompts in memory, a window each. */
SaeEvaluation evaluate_sae(
    const InterpretableModel& model,
    const Sae& sae,
    const Inputs& prompts,
    const SaeEvalOptions& options = {});

}  // namespace mlxterp
