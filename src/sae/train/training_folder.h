// sae/train/training_folder.h: the folder of a training: the SAE as it is now,
// and what a later run needs to go on.

#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>

#include "io/resumable_folder.h"
#include "mlxterp/sae/train.h"

namespace mlxterp::sae_train {

using Json = nlohmann::ordered_json;

inline constexpr const char* state_name = "trainer_state.safetensors";

/** All options, which a resumed training shares. */
Json to_json(const SaeTrainOptions& options);

/** A trainer's state in the folder. */
struct FoundState {
  SaeTrainer::Tensors tensors = {};
  nlohmann::json progress = {};  ///< As it was written.
};

/** Holds a folder for one process. */
class TrainingFolder {
 public:
  /** Makes it where it is not. Throws usage where it holds a training and
   * `resume` is false, or something else; environment where another process
   * trains there. */
  TrainingFolder(const std::filesystem::path& path, bool resume);

  /** What stands there, if anything. Throws usage, with each setting that
   * differs, where it is of others; bad_data where it is broken. */
  std::optional<FoundState> find(const Json& settings) const;

  /** The SAEs first, the state last: a state has an SAE beside it. Either
   * writes the files of one into the folder it gets; without a baseline the
   * second is empty. Throws environment; what stood there is whole. */
  void save(
      const std::function<void(const std::filesystem::path&)>& write,
      const std::function<void(const std::filesystem::path&)>& write_baseline,
      const SaeTrainer::Tensors& state,
      const Json& settings,
      const Json& progress) const;

 private:
  ResumableFolder folder_;
};

}  // namespace mlxterp::sae_train
