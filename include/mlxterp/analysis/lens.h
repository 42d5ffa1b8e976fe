// mlxterp/analysis/lens.h: the logit lens, what a model would predict after
// each of its layers.

#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "mlxterp/core/progress.h"
#include "mlxterp/trace/model.h"

namespace mlxterp {

class TunedLens;
struct JacobianLens;

/** Every member has a default, `= {}` too: naming some of them is enough for
 * -Wextra. */
struct LensOptions {
  /** Which layers, as a set; negative numbers count from the last. Empty: all.
   */
  std::vector<int> layers = {};
  /** Which positions of the prompt, likewise. */
  std::vector<int> positions = {};
  /** What enters layer 0 (layers.0.resid_pre) as a first row. */
  bool embed = false;
  /** What is read of each layer: resid_pre, resid_mid or resid_post of the
   * residual stream; attn_out or mlp_out, what is added to it. */
  std::string site = "resid_post";
  /** If given, layers are read through its translators; what enters layer 0 is
   * read without one. resid_post only. Must outlive the call. */
  const TunedLens* tuned = nullptr;
  /** If given, layers are read through its matrices, and those it lacks are
   * left out where none are asked for. It must fit the model (check_fits: as
   * its caller sees fit). resid_post only. Must outlive the call. */
  const JacobianLens* jacobian = nullptr;
  /** Tokens kept in each cell, the most probable first. */
  int top_k = 5;
  /** A token whose logit, probability and rank are kept in every cell. */
  std::optional<int> track = {};
  /** The lens of model.with(edits): whatever they change of ln_final and
   * unembed holds for every layer. */
  std::vector<Edit> edits = {};
  Progress progress = {};
};

/**
 * The predictions of a lens by row and column. Rows are residual streams in the
 * model's order, columns positions in the prompt's; below, `[row, pos]` lies
 * flat, row after row. In a cell whose logits hold a NaN or an infinity that
 * would win, every number is NaN and every token -1. A value.
 */
struct Lens {
  std::vector<int> ids;             ///< The whole prompt.
  int model_layers = 0;             ///< How many layers the model has.
  std::string site = "resid_post";  ///< What is read of each layer.
  bool tuned = false;               ///< Through translators.
  bool jacobian = false;            ///< Through a Jacobian lens.
  /** The layer of each row; nothing for what enters layer 0. */
  std::vector<std::optional<int>> layers;
  std::vector<std::string> sites;  ///< The site of each row.
  std::vector<int> positions;      ///< The position of each column.
  int top_k = 0;
  std::vector<int> top_ids;              ///< [row, pos, k]
  std::vector<float> top_logits;         ///< [row, pos, k]
  std::vector<float> top_probabilities;  ///< [row, pos, k]
  std::optional<int> track;
  std::vector<float> track_logits;         ///< [row, pos], or empty
  std::vector<float> track_probabilities;  ///< [row, pos], or empty
  /** [row, pos], or empty: how many tokens are ahead, 0 for the winner. */
  std::vector<int> track_ranks;

  size_t rows() const { return layers.size(); }
  size_t columns() const { return positions.size(); }
  /** Where a cell lies in what is [row, pos]. */
  size_t cell(size_t row, size_t column) const {
    return row * columns() + column;
  }
  /** The token that wins a cell, -1 where its logits are not finite. */
  int winner(size_t row, size_t column) const {
    return top_ids[cell(row, column) * static_cast<size_t>(top_k)];
  }

  /** The first row from which on the tracked token wins a column in every
   * row; nothing where it does not win the last. Throws usage where no token
   * is tracked, out_of_range. */
  std::optional<size_t> on_top_from(size_t column) const;
};

/**
 * The logit lens (nostalgebraist, 2020, "interpreting GPT: the logit lens"):
 * the residual stream after every layer, layers.i.resid_post, read by the
 * model's own ln_final and unembed. The last layer's row is then the model's
 * own prediction. With LensOptions.tuned it is the tuned lens (Belrose et al.,
 * 2023), with LensOptions.jacobian the Jacobian lens.
 *
 * `prompt` is one prompt. All rows and columns are unembedded together, at
 * most 24 MB of logits at a time; evaluates. Throws usage, unknown_name,
 * out_of_range.
 */
Lens logit_lens(
    const InterpretableModel& model,
    const Inputs& prompt,
    const LensOptions& options = {});

/** One row of logits [vocab]: its best tokens and how probable they are. */
struct TopTokens {
  std::vector<int> ids;  ///< -1 where the logits are not finite.
  std::vector<float> logits;
  std::vector<float> probabilities;
  /** log(sum(exp(logits))), NaN where the logits are not finite. */
  float normalizer = 0;
};

/** Of equal logits the lower id goes first. Throws out_of_range unless `k` is
 * from 1 to the number of logits. */
TopTokens top_tokens(std::span<const float> logits, int k);

}  // namespace mlxterp
