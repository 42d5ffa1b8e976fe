// io/text_tower.h: the language model inside a checkpoint that holds more.

#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace mlxterp {

/**
 * Reads the names and the config.json of a checkpoint as those of its language
 * model alone. A multimodal one nests that model's config in `text_config` and
 * keeps its tensors under `language_model.`, `model.language_model.` or the
 * like, as Hugging Face, mlx-lm and mlx-vlm save them. Draft layers that guess
 * several tokens ahead (`mtp.`, layers behind num_hidden_layers) may stand in
 * any checkpoint.
 */
class TextTower {
 public:
  /** `where` names the checkpoint in errors. Throws bad_data where there are
   * two language models, or one whose kind is not said. */
  TextTower(
      const nlohmann::json& config,
      const std::vector<std::string>& tensors,
      std::string where);

  /** Whether config.json nests the language model's. */
  bool nested() const { return nested_; }

  /** What the config.json of the language model alone would be. */
  const nlohmann::json& config() const { return config_; }

  /** What the tensor would be called there. */
  std::string name(const std::string& tensor) const;

  /** The part that the tensor belongs to: "vision", "audio", "projector" or
   * "draft"; empty: the language model, or something unknown. */
  std::string_view part(const std::string& tensor) const;

 private:
  void check_one(const std::vector<std::string>& tensors) const;
  void set_tie(
      const nlohmann::json& outer, const std::vector<std::string>& tensors);

  std::string where_;
  bool nested_ = false;
  nlohmann::json config_;
  int layers_ = 0, drafts_ = 0;
};

}  // namespace mlxterp
