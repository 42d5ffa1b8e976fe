// mlxterp/analysis/steering.h: directions of the residual stream that change
// what a model says: training, applying and keeping them.

#pragma once

#include <filesystem>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "mlxterp/core/progress.h"
#include "mlxterp/trace/model.h"

namespace mlxterp {

/** x without what of it lies in the space of `directions`, [feature] or
 * [n, feature]: directional ablation (Arditi et al., 2024). Evaluates them.
 * Throws usage where they are not finite, or one lies in the space of the
 * others. */
Intervention project_out(mlx::core::array directions);

/** x with its coordinate along the unit vector of `direction`, [feature], set
 * to `value`. Evaluates it. Throws as project_out does. */
Intervention clamp_along(mlx::core::array direction, float value);

/** How a direction is made of pairs of prompts. */
enum class SteeringMethod {
  /** The mean of positive minus negative (Rimsky et al., 2024); its length is
   * that of the mean. */
  mean_difference,
  /** The first principal component of the differences, of length 1. They are
   * not centred, which would take away what all pairs have in common. Most
   * pairs' positive lies further along it than their negative. */
  pca,
  /** The weights, of length 1, of a logistic regression that tells positive
   * from negative: L2-regularised with C = 1, with an intercept, on centred
   * activations divided by the root of their mean squared length. */
  logistic,
};

/** What a direction is meant for. */
enum class SteeringOperation {
  add,          ///< It is added.
  project_out,  ///< What lies along it is taken away.
  clamp,        ///< The coordinate along it is set.
  /** What lies in the space of all layers' directions is taken out of the
   * residual stream wherever something is written to it, in every layer
   * (Arditi et al., 2024). */
  ablate,
};

/** "mean", "pca", "logistic"; "add", "project_out", "clamp", "ablate". */
const char* name(SteeringMethod method);
const char* name(SteeringOperation operation);

/** What a direction of one layer was found to be in training. */
struct DirectionQuality {
  int layer = 0;
  float norm = 0;           ///< The direction's length.
  float residual_norm = 0;  ///< The mean length of the residual stream there.
  /** Mean over pairs of the cosine of positive minus negative with it (Braun
   * et al., 2025): how far the pairs agree. */
  float cosine = 0;
  /** How well the coordinate along it tells positive from negative prompts: the
   * area under the ROC curve, and the distance of the means in standard
   * deviations. */
  float auc = 0, d_prime = 0;
};

/** Which tool's numbers the directions of a GGUF file have. */
enum class GgufLayers {
  /** direction.N was read where llama.cpp adds it: layers.N.resid_post. */
  repeng,
  /** llama.cpp's own generator: direction.N was read one layer earlier. */
  cvector_generator,
};

/**
 * A direction for each of some layers, at layers.N.resid_post. A value.
 */
struct SteeringVector {
  struct Layer {
    int layer = 0;
    mlx::core::array direction;  ///< [d_model], float32.
    /** The mean length of the residual stream there, which strengths count in;
     * NaN: not known. */
    float residual_norm = std::numeric_limits<float>::quiet_NaN();
  };
  std::vector<Layer> layers;  ///< In ascending order, one at least.
  SteeringOperation operation = SteeringOperation::add;
  std::string method = {};  ///< "mean", or whatever made it.
  /** Of the model it was made with; empty or 0: not known. */
  std::string model = {};
  std::string model_type = {};  ///< A config.json's, or GGUF's architecture.
  int model_layers = 0;
  std::string tokenizer = {};       ///< Its digest; empty: not known.
  size_t pairs = 0;                 ///< That it was trained on; 0: not known.
  std::vector<int> positions = {};  ///< That were read of each prompt.

  int d_model() const;
  /** Throws usage where its layers do not ascend from 0 on, or a direction is
   * no finite vector of the others' length, or zero, or a residual norm is
   * neither NaN nor above 0 and finite: what load() refuses. Evaluates. */
  void check() const;
  /** Throws out_of_range with the layers there are. */
  const Layer& at(int layer) const;
  /** The layers asked for (negative ones count from the model's end; empty:
   * all). Throws out_of_range. */
  SteeringVector of_layers(const std::vector<int>& layers) const;
  /** With directions as long as `strength` times the residual stream there.
   * Throws usage where that is not known. Evaluates. */
  SteeringVector of_strength(float strength) const;

  /** Throws usage, with both values, where it is of another width or layer than
   * the model has; unless `any_model`, also where it was made with another
   * type of model, number of layers or tokenizer. */
  void check_fits(
      const InterpretableModel& model, bool any_model = false) const;

  /** Safetensors: `layers.N` [d_model] and all else as metadata. Appears whole
   * or not at all. */
  void save(const std::filesystem::path& path, bool overwrite = false) const;
  /** Throws bad_data where it is none, environment. */
  static SteeringVector load(const std::filesystem::path& path);

  /**
   * A `controlvector` as llama.cpp and repeng read it: `direction.N` is added
   * to layers.N.resid_post. They know no layer 0; it is left out, with a
   * warning. What they do not know stands under `mlxterp.*`. Throws usage where
   * nothing is left.
   */
  void save_gguf(
      const std::filesystem::path& path,
      const Warn& warn = {},
      bool overwrite = false) const;
  /** Throws bad_data where it is none, or has a direction.0, directions that
   * are not float32 vectors of one length, or no model_hint. */
  static SteeringVector load_gguf(
      const std::filesystem::path& path,
      GgufLayers numbers = GgufLayers::repeng);
};

/** The vector with the mean length of the residual stream over all positions of
 * the prompts but the first, which in most models is many times as long.
 * Evaluates. */
SteeringVector with_norms(
    SteeringVector vector,
    const InterpretableModel& model,
    const Inputs& prompts);

/** A plain paragraph about nothing in particular, for measuring what steering
 * does to other text. */
extern const char* const neutral_text;

struct SteeringPairs {
  std::vector<std::string> positive, negative;
};

/** JSONL: an object with the texts "positive" and "negative" in each line.
 * Throws bad_data with the line, usage where there is none, environment. */
SteeringPairs read_steering_pairs(const std::filesystem::path& path);

struct SteerTrainOptions {
  /** Pair by pair. */
  Inputs positive, negative;
  SteeringMethod method = SteeringMethod::mean_difference;
  std::vector<int> layers = {};  ///< Negative: from the end. Empty: all.
  /** Read of each prompt; several make as many differences of each pair. */
  std::vector<int> positions = {-1};
  SteeringOperation operation = SteeringOperation::add;
  std::string model = {};  ///< How the model is called, for the file.
  int batch_size = 8;      ///< Prompts in one pass.
  Progress progress = {};
};

struct SteeringTraining {
  SteeringVector vector;
  std::vector<DirectionQuality> layers;  ///< Of each of the vector's.
};

/** Runs all prompts and makes a direction of each layer. Evaluates. Throws
 * usage where there are no pairs, or as many positives as negatives are not
 * given, or all pairs of a layer are the same; out_of_range. */
SteeringTraining steer_train(
    const InterpretableModel& model, const SteerTrainOptions& options);

struct SteerOptions {
  /** Has to be what the vector is meant for; project_out and ablate may stand
   * for each other. */
  SteeringOperation operation = SteeringOperation::add;
  /** add: the length added along the direction; clamp: the coordinate set; both
   * in units of the residual stream's mean length there. project_out and ablate
   * have none. */
  float strength = 0;
  /** Whose directions are used. Negative: from the end. Empty: all. */
  std::vector<int> layers = {};
  bool any_model = false;  ///< See SteeringVector::check_fits.
};

struct Steering {
  /** One layer's direction. */
  struct Layer {
    int layer = 0;
    /** The residual stream's mean length there, one unit of strength; NaN: not
     * known. */
    float residual_norm = std::numeric_limits<float>::quiet_NaN();
    /** The strength in the stream's own units; NaN: there is none. */
    float length = std::numeric_limits<float>::quiet_NaN();
  };
  std::vector<Edit> edits;
  /** What they do, with the strength both ways: "layers.3.resid_post: adds 0.2
   * x 41.3, the residual's mean length, = 8.26". */
  std::vector<std::string> told;
  std::vector<Layer> layers = {};
};

/** The vector as edits, for a handle or a pass. Evaluates directions. Throws as
 * check_fits does, and usage for another operation, a strength that is not
 * finite, or residual norms that are not known. */
Steering steer(
    const InterpretableModel& model,
    const SteeringVector& vector,
    const SteerOptions& options);

}  // namespace mlxterp
