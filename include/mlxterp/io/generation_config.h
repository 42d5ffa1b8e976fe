// mlxterp/io/generation_config.h: how a model's makers sample from it.

#pragma once

#include <optional>
#include <string>
#include <vector>

namespace mlxterp {

class Checkpoint;

/** What a folder's generation_config.json says; absent: it says nothing. */
struct GenerationConfig {
  std::optional<float> temperature, top_p, min_p, repetition_penalty;
  std::optional<int> top_k;
  std::vector<int> ends;  ///< Ids that end a text.
  /** Fields that say what nobody could sample by. */
  std::vector<std::string> unusable;

  /** Of a GGUF file, or a folder without that file: nothing. Throws bad_data
   * where it is not a JSON object. */
  static GenerationConfig read(const Checkpoint& checkpoint);
};

}  // namespace mlxterp
