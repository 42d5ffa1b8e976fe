// mlxterp/analysis/edges.h: what each edge between two parts of a model does.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "mlxterp/analysis/metric.h"
#include "mlxterp/analysis/sweep.h"
#include "mlxterp/core/progress.h"
#include "mlxterp/trace/model.h"

namespace mlxterp {

/** How an edge is scored. `base` is the run that is patched, `other` the one
 * whose values it takes (EdgeOptions::direction). */
enum class EdgeMethod {
  eap,     ///< The gradient of the base run (Syed, Rager and Conmy, 2023).
  eap_ig,  ///< Its mean along the line from the base run's embeddings to the
           ///< other's (Hanna, Pezzelle and Belinkov, 2024).
  /** The mean of the gradients along the line from a layer's own outputs (its
   * heads', its MLP's, the embedding) in the base run to the other's, of its
   * edges alone (Hanna et al., 2024). */
  eap_ig_activations,
  clean_corrupted,  ///< The mean of the gradients of both runs (ibid.).
  exact,  ///< No estimate: each edge is run. Any metric; not by position.
  /** Information flow routes (Ferrando and Voita, 2024): of the clean run, what
   * share of the stream that a destination reads each source makes up. Neither
   * metric nor corrupted prompts. */
  ifr,
};

/** Which m points stand for the line from 0 to 1. */
enum class LineRule {
  left,   ///< k / m
  mid,    ///< (k + 1/2) / m
  right,  ///< (k + 1) / m, for k = 0 .. m - 1
};

struct EdgeOptions {
  /** One prompt or several; the two of a pair have one length. */
  Inputs clean, corrupt = Inputs::Rows();
  Metric metric = {};  ///< Must be given, but of ifr; rank has no gradient.
  EdgeMethod method = EdgeMethod::eap;
  /** denoise: the corrupted run takes clean values; noise: the other way. */
  Direction direction = Direction::denoise;
  int steps = 5;  ///< Points of the line; eap_ig and eap_ig_activations alone.
  LineRule rule = LineRule::left;
  /** Each query head has a key and a value input of its own, as if the heads
   * that share them had copies: `a3.h2<k>` in place of `a3.kv0<k>`. */
  bool ungrouped = false;
  /** Scores are kept position by position, not added up; pairs then have one
   * length. */
  bool by_position = false;
  /** Of an estimate, the share of edges that are run as well, 0 to 1, drawn
   * with `seed`, of each distance between layers that share, but at least 9:
   * they say how far the others may be off. */
  double sample = 0;
  uint64_t seed = 0;
  Progress progress = {};
};

/** What writes to the residual stream: `input` (the embedding), `a3.h2` (a
 * head, without the output's bias), `a3` (a mixer without heads), `m3` (MLP or
 * experts, with biases), `p3` (a layer's own embedding). */
struct EdgeSource {
  std::string name;
  int layer = -1;  ///< -1: the input.
};

/** What reads a copy of the residual stream of its own, before any norm:
 * `a3.h2<q>`, `a3.kv1<k>`, `a3.kv1<v>`, `a3.h2<g>` (the gate of z, where there
 * is one), `a3` (a mixer without heads, or whose queries, keys and values come
 * from latents), `m3`, `p3`, `logits`. */
struct EdgeDestination {
  std::string name;
  int layer = 0;   ///< That of the logits is the number of layers.
  int before = 0;  ///< It reads the first so many sources.
};

/** How far an estimate is off between parts that lie as far apart, by its edges
 * that were run. */
struct EdgeErrors {
  int distance = 0;  ///< The destination's layer less the source's.
  size_t edges = 0;  ///< That were run.
  double mean = 0;   ///< Of exact less estimated.
  double rms = 0;    ///< Likewise.
  /** What 68 and 90 of 100 errors are at most, so that one drawn of the other
   * edges is as good with that likelihood (split conformal: Vovk et al., 2005).
   * A large score is likelier to be among the rest. */
  double within_68 = 0, within_90 = 0;
};

/** Of edges that were run the share within the bands that the others give:
 * each half of the sample, held out, against the other's. Should be 0.68 and
 * 0.9. */
struct EdgeCoverage {
  double within_68 = 0, within_90 = 0;
  double strong_90 = 0;  ///< Of the tenth with the largest absolute scores.
};

/** A value. */
struct EdgeScores {
  std::vector<EdgeSource> sources = {};
  std::vector<EdgeDestination> destinations = {};
  /** [source, destination], or [pos, source, destination]: how the metric of
   * the base run changes, in its own unit, averaged over pairs, or of ifr a
   * share; NaN where there is no edge. */
  std::vector<float> scores = {};
  std::vector<float> spread = {};  ///< Standard deviation over pairs.
  /** What the edges that were run do, NaN of others; empty without a sample. */
  std::vector<float> exact = {};
  std::vector<EdgeErrors> errors = {};  ///< By distance, of those with any.
  EdgeCoverage coverage = {};
  int positions = 0;             ///< 0: added up.
  float clean = 0, corrupt = 0;  ///< The metric of both runs, averaged, or NaN.
  Direction direction = Direction::denoise;
  size_t pairs = 0;
  std::vector<int> ids = {};  ///< The base run's prompt, of the first pair.

  /** How many edges there are, whatever the positions. */
  size_t edges() const;
  /** Flat indices of the `count` edges with the largest absolute scores, of all
   * positions, the largest first. */
  std::vector<size_t> strongest(size_t count) const;
};

/**
 * Scores every edge of the residual stream's graph, from each source to each
 * destination that stands behind it:
 *
 *     sum over positions of (source in other - source in base)
 *         . d metric / d the destination's own copy of the stream
 *
 * which is to first order how the metric changes if that destination alone
 * reads the source's other value. A destination's norm is differentiated with
 * it. Key and value heads that queries share are one destination, unless
 * `ungrouped`. A norm behind attention (Gemma 2, OLMo 2) is split between its
 * heads by each run's own divisor, so that they add up to what is written, but
 * for an output's bias.
 *
 * ifr instead has of each position, for a source's y in the stream x that the
 * destination reads,
 *
 *     max(|x|_1 - |x - y|_1, 0)
 *
 * divided by its sum over the sources (all 0: shares of 0), and the mean over
 * positions. A layer's queries, keys and values read one stream.
 *
 * Two passes forward and one backward for all edges (eap); each line's point
 * costs one of both, with eap_ig_activations for each layer's mixer and MLP.
 * There the edges out of one of them add up to what all of its new output would
 * do, the better the more points; the EAP-IG repository averages over the runs
 * of all of them instead. `exact` computes what the formula estimates, one walk
 * for each input of a layer. Products and sums in float32. Evaluates.
 *
 * Throws usage, unknown_name, out_of_range before any long work: a model that
 * is no Decoder, or is edited; a metric without a gradient; pairs that differ
 * in length; usage where a score is not finite.
 */
EdgeScores edges(const InterpretableModel& model, const EdgeOptions& options);

}  // namespace mlxterp
