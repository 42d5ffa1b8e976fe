// mlxterp/sae/features.h: what the features of an SAE say: of a prompt, of a
// text, of the logits.

#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "mlxterp/analysis/metric.h"
#include "mlxterp/analysis/steering.h"
#include "mlxterp/core/progress.h"
#include "mlxterp/sae/attach.h"

namespace mlxterp {

/** A token and what a feature adds to its logit. */
struct FeatureToken {
  int id = 0;
  float logit = 0;
};

/** What a feature's decoder row promotes and suppresses. */
struct FeatureLogits {
  int feature = 0;
  std::vector<FeatureToken> promoted = {},
                            suppressed = {};  ///< Furthest first.
};

/**
 * The decoder rows of some features through the unembedding: a row times the
 * gain of the final norm (its mean subtracted where that is a LayerNorm) times
 * W_U, without any divisor, bias or cap: logits for an activation of 1 and a
 * residual stream of norm sqrt(d_model). As Neuronpedia and SAEDashboard list
 * them. Rows written to attn.z go through W_O first. Evaluates. Throws usage
 * for a site that is not added to the residual stream, or cross_layer.
 */
std::vector<FeatureLogits> feature_logits(
    const InterpretableModel& model,
    const Sae& sae,
    const std::vector<int>& features,
    int top,
    const SaeSites& sites);

struct FeatureOptions {
  int top = 5;  ///< Features of a position.
  /** Only these, at every position: the others are not computed where they do
   * not compete (see SaeFeatures). Empty: the most active ones. */
  std::vector<int> features = {};
  int tokens = 5;  ///< That a feature promotes and suppresses; 0: none.
  std::string site = {}, reads = {};  ///< As SaeAttachOptions.
  /** Where the handle has the SAE attached by that name, its own activations
   * are read, with whatever edits them. */
  std::string name = "sae";
};

/** Features at the positions of a prompt. A value. */
struct FeatureReading {
  struct Activation {
    int feature = 0;
    float value = 0;
  };
  struct Position {
    /** The largest in magnitude, not 0, that one first; where features were
     * named, these in their order. */
    std::vector<Activation> top;
    int active = -1;  ///< How many are not 0; -1: only some were computed.
  };
  SaeSites sites = {};
  int d_sae = 0;
  std::vector<int> ids = {};
  std::vector<Position> positions = {};
  /** Of each feature in `positions`, in the order of their largest activation;
   * empty where the SAE writes no part of the residual stream, or the model is
   * no Decoder. */
  std::vector<FeatureLogits> logits = {};
  /** Over the positions but the first; absent where only some were computed. */
  std::optional<SaeFit> fit = {};
};

/** One pass over a prompt. Evaluates. Throws as attach_sae does; usage,
 * out_of_range. */
FeatureReading read_features(
    const InterpretableModel& model,
    const Sae& sae,
    const Inputs& prompt,
    const FeatureOptions& options = {});

struct FeatureContextOptions {
  std::vector<int> features = {};  ///< One at least.
  int top = 5;                     ///< Contexts of each.
  int before = 10, after = 4;      ///< Tokens shown around the position.
  int length = 128;                ///< Tokens of a window.
  int batch_size = 8;              ///< Windows in one pass.
  int64_t tokens = 0;              ///< Ends behind so many; 0: with the text.
  std::string site = {}, reads = {};
  Progress progress = {};
  Warn warn = {};
};

/** Where in a text a feature is active. */
struct FeatureContexts {
  struct Context {
    float value = 0;
    std::vector<int> ids;
    int at = 0;  ///< Of `ids`, the token with the activation.
    int64_t document = 0;
    int64_t position = 0;  ///< In its window.
  };
  int feature = 0;
  std::vector<Context> top = {};  ///< The largest activation first.
  int64_t active = 0;             ///< Positions where it is not 0.
};

struct FeatureText {
  std::vector<FeatureContexts> features = {};
  int64_t tokens = 0;  ///< Read, but for the first of each window.
  int64_t windows = 0;
};

/**
 * The contexts in which features are most active in a text, JSONL or folder of
 * these (as store_text_activations reads them), in one streaming pass; the best
 * position of each window counts. The first position of a window, which in most
 * models is like no other, does not. Memory is a few batches whatever the
 * text's length. Evaluates. Throws usage, out_of_range, bad_data, environment.
 */
FeatureText feature_contexts(
    const InterpretableModel& model,
    const Sae& sae,
    const std::filesystem::path& text,
    const FeatureContextOptions& options);

/** What each feature of an SAE adds to a metric. */
struct FeatureAttribution {
  struct Part {
    int feature = 0;
    float activation = 0;
    float value = 0;
  };
  SaeSites sites = {};
  std::vector<Part> parts = {};  ///< Active ones, the largest magnitude first.
  float bias = 0;   ///< Of the decoder's bias, and a skip where there is one.
  float error = 0;  ///< Of what the SAE does not reconstruct.
  /** Of all: what the site's value adds, as logit_attribution would count it.
   */
  float total = 0;
};

/**
 * Direct logit attribution by feature: the activation at the metric's position
 * times its decoder row, read by the final norm (its divisor that of the run)
 * and the unembedding. `metric`: logit or logit_diff. Evaluates. Throws as
 * feature_logits and logit_attribution do; usage where the SAE undoes a norm of
 * its input.
 */
FeatureAttribution feature_attribution(
    const InterpretableModel& model,
    const Sae& sae,
    const Inputs& prompt,
    const Metric& metric,
    const SaeSites& sites);

/** A feature's decoder row as a direction to steer with, at the
 * layers.N.resid_post where adding it is adding it to what the SAE writes:
 * resid_pre (of layer N + 1), resid_post, mlp_out. Strengths count in the
 * residual stream's mean length there (with_norms). Evaluates. Throws
 * out_of_range, and usage where there is no such site. */
SteeringVector feature_direction(
    const InterpretableModel& model,
    const Sae& sae,
    int feature,
    const SaeSites& sites);

}  // namespace mlxterp
