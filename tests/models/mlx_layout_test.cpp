// Hybrids as mlx-lm saves them: convolutions turned around, experts stacked,
// and the 1 of zero-centred gains added. They are the same models.

#include <gtest/gtest.h>

#include <map>

#include "mlx/ops.h"
#include "tests/compare.h"
#include "tests/families.h"
#include "tests/temp_folder.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;

bool zero_centred(const std::string& name) {
  for (const auto* end :
       {".input_layernorm.weight",
        ".post_attention_layernorm.weight",
        "model.norm.weight",
        ".q_norm.weight",
        ".k_norm.weight"})
    if (name.ends_with(end)) return true;
  return false;
}

// What sanitize() in mlx_lm/models/{lfm2,qwen3_next,qwen3_5}.py does.
std::map<std::string, mx::array> as_mlx_lm(const std::string& variant) {
  const auto file =
      Safetensors::open(test::families_root / variant / "model.safetensors");
  const bool adds_one = variant.starts_with("qwen3");
  std::map<std::string, mx::array> out;
  std::map<std::string, std::map<int, mx::array>> experts;
  for (const auto& tensor : file.tensors()) {
    auto value = file.read(tensor);
    const auto& name = tensor.name;
    const std::string list = ".experts.";
    if (const auto at = name.find(list); at != name.npos) {
      const auto number = at + list.size();
      const auto end = name.find('.', number);
      experts[name.substr(0, at) + ".switch_mlp" + name.substr(end)].emplace(
          std::stoi(name.substr(number)), value);
      continue;
    }
    if (name.ends_with("conv.weight") || name.ends_with("conv1d.weight"))
      value = mx::contiguous(mx::swapaxes(value, 1, 2));
    if (adds_one && zero_centred(name)) value = mx::add(value, mx::array(1.0f));
    out.emplace(name, value);
  }
  for (const auto& [name, each] : experts) {
    std::vector<mx::array> all;
    for (const auto& [number, value] : each)
      all.push_back(value);
    out.emplace(name, mx::stack(all));
  }
  return out;
}

class MlxLayout : public ::testing::TestWithParam<std::string> {};

TEST_P(MlxLayout, IsTheSameModel) {
  const testing::TempFolder folder;
  std::filesystem::copy_file(
      test::families_root / GetParam() / "config.json", folder / "config.json");
  const auto tensors = as_mlx_lm(GetParam());
  save_safetensors(
      folder / "model.safetensors", {tensors.begin(), tensors.end()}, {}, true);
  const auto reference = test::expected(GetParam());
  const auto logits =
      test::load_variant(folder.path().string(), mx::float32)
          .run(test::integers(reference.at("ids")), {.save = {"logits"}});
  const auto& wanted = reference.at("logits");
  test::expect_close(
      mx::reshape(logits["logits"], wanted.shape()),
      wanted,
      1e-5,
      wanted.size(),
      GetParam());
}

std::vector<std::string> hybrids() {
  auto all = test::supported_variants();
  std::erase_if(all, [](const std::string& variant) {
    return !variant.starts_with("lfm2") && !variant.starts_with("qwen3_next") &&
           !variant.starts_with("qwen3_5");
  });
  return all;
}

INSTANTIATE_TEST_SUITE_P(
    All, MlxLayout, ::testing::ValuesIn(hybrids()), [](const auto& tested) {
      return test::test_name(tested.param);
    });

TEST(MlxLayout, OfEveryHybrid) {
  EXPECT_EQ(hybrids().size(), 9u);
}

}  // namespace
}  // namespace mlxterp
