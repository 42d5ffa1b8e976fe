// tests/families.h: the tiny random checkpoints of every family and what
// transformers computes of them (tests/parity/make_families.py).

#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "mlxterp/io/checkpoint.h"
#include "mlxterp/io/safetensors.h"
#include "mlxterp/models/family.h"
#include "mlxterp/models/load.h"
#include "mlxterp/trace/model.h"

namespace mlxterp::test {

inline constexpr size_t n_variants = 153;

/** Shaped as opt-350m alone is: refused, which a test of its own asserts. */
inline constexpr const char* refused_variant = "opt-post-norm";

inline const std::filesystem::path families_root =
    MLXTERP_SOURCE_DIR "/tests/parity/families";

/** Of a variant, or of the path of another folder. */
inline std::string config_text(const std::string& variant) {
  std::ifstream file(families_root / variant / "config.json");
  return {std::istreambuf_iterator<char>(file), {}};
}

inline std::string model_type(const std::string& variant) {
  return nlohmann::json::parse(config_text(variant)).at("model_type");
}

inline bool supported(const std::string& type) {
  return std::ranges::any_of(
      families(), [&](const Family& f) { return f.model_type == type; });
}

inline std::vector<std::string> variants() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(families_root))
    if (entry.is_directory()) names.push_back(entry.path().filename());
  std::ranges::sort(names);
  return names;
}

/** Read once: each test is a process and names them all as it starts. */
inline const std::vector<std::string>& supported_variants() {
  static const auto read = [] {
    auto names = variants();
    std::erase_if(names, [](const auto& v) {
      return v == refused_variant || !supported(model_type(v));
    });
    return names;
  }();
  return read;
}

/** One of each family, where its variants are of no matter. */
inline const std::vector<std::string>& first_variants() {
  static const auto read = [] {
    std::vector<std::string> names;
    std::set<std::string> seen;
    for (const auto& variant : supported_variants())
      if (seen.insert(model_type(variant)).second) names.push_back(variant);
    return names;
  }();
  return read;
}

/** What transformers computed, by name; "ids" is the prompt. */
inline std::map<std::string, mlx::core::array> expected(
    const std::string& variant) {
  const auto file =
      Safetensors::open(families_root / variant / "expected.safetensors");
  std::map<std::string, mlx::core::array> tensors;
  for (const auto& tensor : file.tensors())
    tensors.emplace(tensor.name, file.read(tensor));
  return tensors;
}

inline std::vector<int> integers(const mlx::core::array& array) {
  return {array.data<int>(), array.data<int>() + array.size()};
}

inline InterpretableModel load_variant(
    const std::string& variant, mlx::core::Dtype dtype) {
  return InterpretableModel(
      load_decoder(Checkpoint::open(families_root / variant), {.dtype = dtype}),
      std::nullopt,
      family_of(config_text(variant)).renames);
}

/** A variant as the name of a test. */
inline std::string test_name(std::string variant) {
  std::ranges::replace(variant, '-', '_');
  return variant;
}

}  // namespace mlxterp::test
