// sae/train/trainee.h: what a run trains: an SAE or a transcoder, or one across
// layers.

#pragma once

#include <filesystem>
#include <memory>
#include <optional>

#include "mlxterp/sae/train.h"
#include "mlxterp/sae/train_run.h"
#include "sae/train/rows.h"

namespace mlxterp::sae_train {

/** One thread at a time. */
class Trainee {
 public:
  Trainee() = default;
  Trainee(const Trainee&) = delete;
  Trainee& operator=(const Trainee&) = delete;
  virtual ~Trainee() = default;

  virtual SaeStep step(const Rows& rows) = 0;
  virtual int64_t steps() const = 0;
  virtual const SaeTimes& times() const = 0;
  virtual SaeTrainer::Tensors state() const = 0;
  virtual void restore(const SaeTrainer::Tensors& state) = 0;
  /** What it does with these rows. */
  virtual SaeTrained measured(const Rows& rows) const = 0;
  /** Writes it as files that load_sae and SaeSet read, over what stands there;
   * `l0` is what was measured. */
  virtual void write(
      const std::filesystem::path& folder, std::optional<double> l0) const = 0;
};

/** Of the rows that `sample` is some of; `run` outlives it. An SAE reads x
 * alone, a transcoder and one across layers y too. */
std::unique_ptr<Trainee> trainee_of(
    const SaeTrainOptions& train, const SaeRunOptions& run, const Rows& sample);

}  // namespace mlxterp::sae_train
