// Every architecture that is read from GGUF, against transformers:
// tests/parity/gguf/ holds the fixtures of tests/parity/families/ as
// llama.cpp's converter writes them (tests/parity/convert_gguf.py, and by its
// tables make_gguf.py).

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "io/gguf_architecture.h"
#include "mlx/ops.h"
#include "mlxterp/io/checkpoint.h"
#include "mlxterp/io/gguf.h"
#include "mlxterp/io/safetensors.h"
#include "mlxterp/models/family.h"
#include "mlxterp/models/load.h"
#include "mlxterp/trace/model.h"
#include "tests/compare.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;
namespace fs = std::filesystem;

constexpr double logits_tolerance = 1e-5;

const fs::path parity = MLXTERP_SOURCE_DIR "/tests/parity";

fs::path file_of(const std::string& variant) {
  return parity / "gguf" / (variant + ".gguf");
}

std::vector<std::string> variants() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(parity / "gguf"))
    if (entry.path().extension() == ".gguf")
      names.push_back(entry.path().stem());
  std::ranges::sort(names);
  return names;
}

// A quantised one holds other numbers than its Hugging Face checkpoint; what
// GGUF keeps as one where that has several, or the reverse, is not tensor by
// tensor the same. Those that convert_gguf.py draws have no checkpoint.
std::vector<std::string> exact_variants() {
  const std::set<std::string> otherwise = {
      "apertus",
      "falcon",
      "falcon-grouped",
      "gpt_neox-no-bias",
      "gpt_neox-sequential",
      "granitemoehybrid-attention",
      "granitemoehybrid-groups",
      "internlm2",
      "lfm2",
      "youtu"};
  auto names = variants();
  std::erase_if(names, [&](const auto& name) {
    if (name.ends_with("q8_0") || otherwise.contains(name) ||
        !fs::exists(parity / "families" / name))
      return true;
    std::ifstream file(parity / "families" / name / "config.json");
    const auto config = nlohmann::json::parse(file);
    for (const auto* experts :
         {"num_experts",
          "num_local_experts",
          "n_routed_experts",
          "moe_num_experts"})
      if (config.contains(experts)) return true;
    return false;
  });
  return names;
}

std::string model_type(const Checkpoint& checkpoint) {
  return nlohmann::json::parse(checkpoint.config()).at("model_type");
}

// What lies beside the file is of a config that GGUF can say.
fs::path expected_of(const std::string& variant) {
  const auto own = parity / "gguf" / (variant + ".safetensors");
  return fs::exists(own)
             ? own
             : parity / "families" / variant / "expected.safetensors";
}

mx::array read(const Safetensors& file, const std::string& name) {
  for (const auto& tensor : file.tensors())
    if (tensor.name == name) return file.read(tensor);
  ADD_FAILURE() << "no " << name;
  return mx::array(0);
}

TEST(GgufFamilies, EveryArchitectureHasAFixture) {
  std::set<std::string> types;
  for (const auto& variant : variants())
    types.insert(model_type(Checkpoint::open(file_of(variant))));
  std::set<std::string> all;
  for (const auto& architecture : gguf_architectures())
    all.emplace(architecture.model_type);
  EXPECT_EQ(types, all);
  EXPECT_EQ(all.size(), 52u);
}

class GgufParity : public testing::TestWithParam<std::string> {};

TEST_P(GgufParity, Logits) {
  const auto& variant = GetParam();
  const auto checkpoint = Checkpoint::open(file_of(variant));
  const auto expected = Safetensors::open(expected_of(variant));
  const auto ids = read(expected, "ids");
  const auto wanted = read(expected, "logits");
  const InterpretableModel model(
      load_decoder(checkpoint, {.dtype = mx::float32}),
      std::nullopt,
      family_of(checkpoint.config()).renames);
  const std::vector<int> prompt(ids.data<int>(), ids.data<int>() + ids.size());
  const auto run = model.run(prompt, {.save = {"logits"}});
  ASSERT_EQ(run["logits"].size(), wanted.size());
  const double error =
      test::max_difference(mx::reshape(run["logits"], wanted.shape()), wanted);
  EXPECT_LE(error, logits_tolerance);
  std::printf("%-22s logits within %.1e\n", variant.c_str(), error);
}

class GgufTensors : public testing::TestWithParam<std::string> {};

// Tensor by tensor what the Hugging Face checkpoint holds.
TEST_P(GgufTensors, AreTheCheckpoints) {
  const auto& variant = GetParam();
  const auto folder = parity / "families" / variant;
  const auto ours = Checkpoint::open(file_of(variant));
  const auto theirs = Checkpoint::open(folder);
  EXPECT_EQ(ours.tensors().size(), theirs.tensors().size());
  for (const auto& tensor : theirs.tensors()) {
    const auto* found = ours.find(tensor.name);
    ASSERT_TRUE(found) << tensor.name;
    ASSERT_EQ(found->shape, tensor.shape) << tensor.name;
    for (const auto dtype : {mx::float32, mx::float16}) {
      const auto values = ours.read(*found, dtype);
      EXPECT_EQ(values.dtype(), dtype);
      EXPECT_TRUE(values.flags().row_contiguous) << tensor.name;
      // One added and subtracted again costs a rounding next to 1.
      const auto tolerance = dtype == mx::float32 ? 2e-7 : 1e-3;
      EXPECT_LE(
          test::max_difference(
              mx::astype(values, mx::float32),
              mx::astype(theirs.read(tensor, dtype), mx::float32)),
          tolerance)
          << tensor.name;
    }
  }
}

// Its last block guesses further tokens.
TEST(GgufFamilies, DraftsAreLeftOut) {
  const auto checkpoint = Checkpoint::open(file_of("qwen3_5-small"));
  EXPECT_EQ(
      checkpoint.gguf()->metadata().count("qwen35.nextn_predict_layers"), 1u);
  ASSERT_EQ(checkpoint.left_out().size(), 1u);
  EXPECT_EQ(checkpoint.left_out()[0].part, "draft");
  EXPECT_EQ(checkpoint.left_out()[0].tensors, 15u);
}

std::string test_name(const testing::TestParamInfo<std::string>& variant) {
  auto name = variant.param;
  std::ranges::replace(name, '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(
    All, GgufParity, testing::ValuesIn(variants()), test_name);
INSTANTIATE_TEST_SUITE_P(
    All, GgufTensors, testing::ValuesIn(exact_variants()), test_name);

}  // namespace
}  // namespace mlxterp
