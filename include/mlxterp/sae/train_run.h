// mlxterp/sae/train_run.h: a training from beginning to end, from stored
// activations or from a text, into a folder that survives whatever happens.

#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "mlxterp/analysis/activation_store.h"
#include "mlxterp/core/progress.h"
#include "mlxterp/sae/sae.h"
#include "mlxterp/sae/train.h"
#include "mlxterp/trace/model.h"

namespace mlxterp {

struct SaeRunOptions {
  SaeTrainOptions train = {};
  /** What is read, "layers.15.resid_post"; of a store with one site it may be
   * empty. */
  std::string site = {};
  std::string site_out = {};  ///< What a transcoder predicts.
  /** Those of a transcoder across layers: 0, 1, ... without a gap, as
   * circuit-tracer's files number them; or of a crosscoder, ascending. `site`
   * and `site_out` are then names within a layer, resid_mid and mlp_out where
   * they are empty; a crosscoder has resid_post alone. Empty: one SAE or
   * transcoder. */
  std::vector<int> layers = {};
  /** The folder is then an SAE's of all layers' values behind each other. */
  bool crosscoder = false;
  std::string model = {};  ///< Its name, for the files.
  bool resume = false;     ///< Goes on with what stands in the folder.
  /** Seconds between checkpoints, which is what a killed run loses. */
  double checkpoint_seconds = 30;
  /** Rows longer than so many times the median are left out: a first token's
   * may be a thousand times as long, and it is the same in every prompt.
   * 0: none are. */
  double longest = 10;
  int64_t buffer_rows = 0;  ///< From which rows are drawn; 0: 8 batches', at
                            ///< least 65536 of a store, 16384 of a text.
  /** Trains a topk SAE of the same k beside it, to compare with. */
  bool baseline = false;

  int length = 0;      ///< Of a text's prompts; 0: 256, or the context.
  int batch_size = 4;  ///< Prompts in one pass.

  Progress progress = {};
  Warn warn = {};
  /** Hears of each step, from the first one of this run on. */
  std::function<void(int64_t step, const SaeStep&)> on_step = {};
  /** Asked after each step; true ends the run with a checkpoint. */
  std::function<bool()> stop = {};
};

/** What a trained SAE does with up to 8192 of the rows it was trained on. */
struct SaeTrained {
  /** Across layers: the mean explained variance, active features in all. */
  SaeFit fit = {};
  double dead_share = 0;  ///< Of features that none of these rows has active.
  std::vector<SaeFit> layers = {};  ///< Of each, across layers.
};

struct SaeRunSummary {
  bool complete = false;        ///< Else it was stopped; `resume` goes on.
  int64_t steps = 0, kept = 0;  ///< In all, and of these there before.
  int64_t rows = 0;             ///< Trained on, now and before.
  int64_t left_out = 0;         ///< Too long, in this run.
  int d_in = 0, d_out = 0;
  SaeTrainOptions options = {};  ///< With every default filled in.
  std::string site = {}, site_out = {};
  std::vector<int> layers = {};
  std::optional<SaeStep> last = {};                       ///< Of this run.
  std::optional<SaeTrained> trained = {}, baseline = {};  ///< Where complete.
  SaeTimes times = {};
  double seconds = 0, rows_per_second = 0;  ///< Of this run.
  double model_seconds = 0;                 ///< Making or reading activations.
};

/**
 * Trains on a store's rows in random order, several times over where `tokens`
 * is more than it has, and once where it is 0. `folder` becomes what SAELens 6
 * loads (cfg.json, sae_weights.safetensors), at every checkpoint, beside
 * trainer_state.safetensors; across layers what circuit-tracer loads and SaeSet
 * reads, written to a folder "next" in it first. A run that was killed goes on
 * with `resume` to the same bytes as if it never had been. With `baseline`
 * there is a folder "baseline" in it.
 *
 * Evaluates. Throws usage for options that cannot be, a folder that holds
 * something else, a training and `resume` is not asked, or one of other
 * settings (named), layers there are not, or fewer rows than a batch; bad_data
 * for activations that are not finite or a state that is broken; environment
 * where files cannot be read or written: the last checkpoint stays whole.
 */
SaeRunSummary train_sae(
    const ActivationStore& store,
    const std::filesystem::path& folder,
    const SaeRunOptions& options);

/** The same of a text, as store_text_activations reads one, through the model:
 * nothing is stored, and layers behind the sites are not run. `tokens` must be
 * given; the text is read again where it has fewer. */
SaeRunSummary train_sae(
    const InterpretableModel& model,
    const std::filesystem::path& text,
    const std::filesystem::path& folder,
    const SaeRunOptions& options);

}  // namespace mlxterp
