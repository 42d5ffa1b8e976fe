// sae/formats/format.h: what each format's file says of itself, and the parts
// that several share.

#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "core/fail.h"
#include "mlxterp/sae/load.h"
#include "sae/weight_file.h"

namespace mlxterp::sae_format {

inline constexpr std::string_view caller = "load_sae";

/** What a reader gets: open weights and the JSON beside them. */
struct Input {
  std::filesystem::path place;  ///< As it was found: a folder or a file.
  WeightFile weights;
  /** Of cfg.json, config.json, hyperparams.json or NAME_cfg.json. */
  nlohmann::json config = nullptr;
  std::filesystem::path config_path = {};
  const SaeLoadOptions& options;

  std::filesystem::path folder() const { return weights.path().parent_path(); }
  /** Where it lies, the hub's id in it too: formats tell model, layer and
   * width by their folders' names. */
  std::string where() const;

  // Of config; `or_else` where the key is absent or null.
  bool has(std::string_view key) const;
  std::string text(std::string_view key, std::string or_else = "") const;
  bool boolean(std::string_view key, bool or_else) const;
  double number(std::string_view key) const;
  int integer(std::string_view key) const;

  [[noreturn]] void bad(const std::string& why) const;
};

struct Reader {
  SaeFormat format;
  bool (*is)(const Input&);
  Sae (*read)(const Input&);
};

/** In the order in which they are tried. */
extern const Reader saelens, sparsify, llama_scope, gemma_scope, gemma_scope_2,
    openai, dictionary_learning, qwen_scope, goodfire, deepseek, circuit_tracer,
    connor_rob;

/** Provenance with the sites that `hook_in` and `hook_out` mean; an empty
 * `hook_out` of an SAE is `hook_in`. */
SaeSource source_of(
    const Input& input,
    std::string_view format,
    std::string architecture,
    std::string model,
    std::string hook_in,
    std::string hook_out = "");

/** A matrix as its transpose; no number is moved. */
mlx::core::array transposed(const mlx::core::array& matrix);

/** The first group of a match in `text`, or "". */
std::string matched(const std::string& text, const char* pattern);

/** One threshold for each feature. */
mlx::core::array one_for_all(double threshold, int d_sae);

}  // namespace mlxterp::sae_format
