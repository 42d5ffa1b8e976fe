// mlxterp/analysis/heads.h: what attention heads do: what they attend to,
// what their weights copy, and how induction fares without them.

#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "mlxterp/core/progress.h"
#include "mlxterp/trace/model.h"

namespace mlxterp {

struct Head {
  int layer = 0, head = 0;
  bool operator==(const Head&) const = default;
};

/** "L5H3". */
std::string name(const Head& head);

/** A number for every head. A value. */
struct HeadGrid {
  int layers = 0, heads = 0;
  std::vector<float> values;  ///< [layer, head]

  float at(const Head& head) const {
    return values
        [static_cast<size_t>(head.layer) * static_cast<size_t>(heads) +
         static_cast<size_t>(head.head)];
  }
  /** The largest first, NaN never; at most as many as there are. */
  std::vector<Head> best(size_t n) const;
};

/** What a head attends to, as source positions j of a destination i. */
enum class HeadKind {
  induction,        ///< After an earlier copy of the token: t[j - 1] = t[i].
  previous_token,   ///< j = i - 1.
  duplicate_token,  ///< An earlier copy of the token: t[j] = t[i], j < i.
  first_token,      ///< j = 0.
  current_token,    ///< j = i.
};

inline constexpr std::array head_kinds = {
    HeadKind::induction,
    HeadKind::previous_token,
    HeadKind::duplicate_token,
    HeadKind::first_token,
    HeadKind::current_token};

/** "induction", "previous_token", ... */
const char* name(HeadKind kind);

/**
 * How attention to those sources becomes a score, from
 *
 *     S  the attention to such sources, summed over all destinations,
 *     T  the number of destinations,
 *     n  the number of destinations that have such a source,
 *     m  the number of pairs of a destination and such a source.
 */
enum class HeadMeasure {
  /** S / n, from 0 to 1: the mean over destinations that have a source. On
   * tokens repeated twice these are mlxterp 0.1's scores (induction_score,
   * attention from i to i - period + 1; previous_token_score; ...). */
  mean,
  /** S / T, of all attention that is not excluded: TransformerLens'
   * detect_head with error_measure="mul", its default. */
  mul,
  /** 1 less the mean absolute difference to a pattern of ones and zeros,
   * times T: 1 - (m + T - 2 S) / T; detect_head with error_measure="abs"
   * (which rounds to three digits). */
  abs,
};

/** "mean", "mul", "abs". */
const char* name(HeadMeasure measure);

struct HeadOptions {
  HeadMeasure measure = HeadMeasure::mean;
  /** Attention to position 0 does not count (detect_head's exclude_bos). */
  bool exclude_first = false;
  /** Nor that of a position to itself (exclude_current_token). */
  bool exclude_current = false;
  Progress progress = {};
};

/** A grid for each kind, in the order of head_kinds. NaN where no destination
 * has a source of that kind, and in layers without attention. A value. */
struct HeadScores {
  std::vector<HeadGrid> grids;

  const HeadGrid& operator[](HeadKind kind) const {
    return grids[static_cast<size_t>(kind)];
  }
};

/** Random tokens, repeated: what comes next can be predicted from the context
 * alone (Olsson et al., 2022). */
struct RepeatedTokens {
  int period = 50;
  int repeats = 2;
  int sequences = 4;
  uint64_t seed = 42;
};

/**
 * Sequences of period * repeats token ids, each behind what the tokenizer puts
 * before every text (a BOS, in most models that were trained with one). Drawn
 * from the middle of the vocabulary, 10 % to 90 % of it as mlxterp 0.1 does,
 * where no control tokens lie; without repetition inside a period. The same
 * seed gives the same tokens on every machine. Throws usage.
 */
Inputs::Rows repeated_tokens(
    const InterpretableModel& model, const RepeatedTokens& options = {});

/**
 * How much each head attends where the kinds say, on average over prompts.
 * Walks the layers once for each batch of prompts of one length, with one
 * layer's patterns in memory (256 MB of them at most, or one prompt's);
 * evaluates. Throws usage, out_of_range.
 */
HeadScores head_scores(
    const InterpretableModel& model,
    const Inputs& prompts,
    const HeadOptions& options = {});

/**
 * Scores of a head's weights alone (Elhage et al., 2021, "A Mathematical
 * Framework for Transformer Circuits"): sum of eigenvalues over sum of their
 * magnitudes, from -1 to 1, of two maps between tokens, [vocab, vocab]. Each
 * has rank d_head at most, so the eigenvalues are those of a matrix [d_head,
 * d_head].
 */
struct HeadCircuits {
  /** W_U W_O W_V W_E: 1 where attending to a token makes it likelier. */
  HeadGrid copying;
  /** QK same-token score, of W_E^T W_Q^T W_K W_E without rotation: 1 where a
   * token attends to equal tokens. */
  HeadGrid matching;
};

/** Gains of norms are folded into the weights that read and write through them,
 * and LayerNorm's centring too; sizes of norms and biases are left out. Query
 * heads that share a kv head use its W_K and W_V. In float32; evaluates. */
HeadCircuits head_circuits(
    const InterpretableModel& model, const Progress& progress = {});

struct AblationOptions {
  /** The heads are chosen on these sequences and ablated on as many others. */
  RepeatedTokens tokens = {};
  int heads = 5;
  enum class Value {
    zero,
    mean,  ///< Of the head's z over the sequences it is ablated on.
  };
  Value value = Value::zero;
  /** How often as many other heads of the same layers are ablated. */
  int draws = 5;
  Progress progress = {};
};

/** How much of induction is left without some heads. Losses in nats. */
struct InductionAblation {
  struct Trial {
    std::vector<Head> heads;
    float loss = 0;  ///< Of the repeated tokens, ablated.
    /** The fraction of the gain that is lost: 0 none, 1 all of it. */
    float removed = 0;
  };
  float first = 0;     ///< Mean loss of the tokens of the first period.
  float repeated = 0;  ///< Of those after it. The gain is the difference.
  Trial best;          ///< Without the best induction heads.
  std::vector<Trial> random;

  /** Mean of `removed` over the random draws. */
  float removed_at_random() const;
};

/**
 * Whether induction heads are what makes repeated tokens predictable (Olsson et
 * al., 2022, argument 3): ablates z of the best ones, and of random others of
 * the same layers. The first token of a period counts nowhere: nothing says
 * that a repetition begins. Evaluates. Throws usage where a layer has too few
 * heads to draw from.
 */
InductionAblation induction_ablation(
    const InterpretableModel& model, const AblationOptions& options = {});

}  // namespace mlxterp
