// Models as mlx-lm saves them: convolutions turned around, experts stacked, the
// 1 of zero-centred gains added, and what makes keys and values of a latent
// apart by head. They are the same models.

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

// [heads * (d_nope + d_value), rank] as two stacks of each head's, the first
// turned around.
void split_latent(
    const std::string& variant,
    const std::string& name,
    const mx::array& value,
    std::map<std::string, mx::array>& out) {
  const auto config = nlohmann::json::parse(test::config_text(variant));
  const int n = config["num_attention_heads"], d = config["qk_nope_head_dim"];
  const auto parts =
      mx::split(mx::reshape(value, {n, -1, value.shape(1)}), mx::Shape{d}, 1);
  const auto here = name.substr(0, name.rfind("kv_b_proj"));
  out.emplace(
      here + "embed_q.weight", mx::contiguous(mx::swapaxes(parts[0], 1, 2)));
  out.emplace(here + "unembed_out.weight", mx::contiguous(parts[1]));
}

// What sanitize() in mlx_lm/models/{lfm2,qwen3_next,qwen3_5,deepseek_v2,
// deepseek_v3,glm4_moe,glm4_moe_lite,dots1,qwen2_moe,granitemoehybrid,mamba2,
// llama4}.py does.
std::map<std::string, mx::array> as_mlx_lm(const std::string& variant) {
  const auto file =
      Safetensors::open(test::families_root / variant / "model.safetensors");
  const bool adds_one = variant.starts_with("qwen3");
  const bool splits = variant.starts_with("deepseek_v3") ||
                      variant.starts_with("glm4_moe_lite");
  const std::string stack =
      variant.starts_with("dots1") ? ".experts" : ".switch_mlp";
  const bool has_experts =
      std::ranges::any_of(file.tensors(), [](const auto& tensor) {
        return tensor.name.find("block_sparse_moe.") != std::string::npos;
      });
  std::map<std::string, mx::array> out;
  std::map<std::string, std::map<int, mx::array>> experts;
  for (const auto& tensor : file.tensors()) {
    auto value = file.read(tensor);
    const auto& name = tensor.name;
    const std::string list = ".experts.";
    if (variant.starts_with("llama4") && name.find(list) != name.npos) {
      // Stacked and turned around, gates before ups.
      const auto here = name.substr(0, name.rfind('.') + 1);
      const auto parts = mx::split(value, 2, -1);
      const auto turned = [](const mx::array& x) {
        return mx::contiguous(mx::swapaxes(x, 1, 2));
      };
      if (name.ends_with("down_proj")) {
        out.emplace(here + "down_proj.weight", turned(value));
      } else {
        out.emplace(here + "gate_proj.weight", turned(parts[0]));
        out.emplace(here + "up_proj.weight", turned(parts[1]));
      }
      continue;
    }
    if (const auto at = name.find(list); at != name.npos) {
      const auto number = at + list.size();
      const auto end = name.find('.', number);
      experts[name.substr(0, at) + stack + name.substr(end)].emplace(
          std::stoi(name.substr(number)), value);
      continue;
    }
    if (splits && name.ends_with("kv_b_proj.weight")) {
      split_latent(variant, name, value, out);
      continue;
    }
    // Granite's, whose halves are apart there; a lone MLP's is called so.
    const auto halves = name.find("input_linear.weight");
    const auto down = name.find("output_linear.weight");
    const bool expert = name.find("block_sparse_moe.") != name.npos;
    if (variant.starts_with("granitemoehybrid") &&
        (halves != name.npos || down != name.npos) &&
        (expert || !has_experts)) {
      auto here = name.substr(0, std::min(halves, down));
      if (expert)
        here += "switch_mlp.";
      else
        here.replace(here.find("shared_mlp"), 10, "mlp");
      if (down != name.npos) {
        out.emplace(here + "down_proj.weight", value);
        continue;
      }
      const auto parts = mx::split(value, 2, expert ? 1 : 0);
      out.emplace(here + "gate_proj.weight", mx::contiguous(parts[0]));
      out.emplace(here + "up_proj.weight", mx::contiguous(parts[1]));
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

std::vector<std::string> saved_otherwise() {
  auto all = test::supported_variants();
  std::erase_if(all, [](const std::string& variant) {
    return std::ranges::none_of(
        std::vector{
            "lfm2",
            "qwen3_next",
            "qwen3_5",
            "deepseek",
            "glm4_moe",
            "dots1",
            "granitemoehybrid",
            "mamba2",
            "llama4",
            "qwen2_moe"},
        [&](const char* family) { return variant.starts_with(family); });
  });
  return all;
}

INSTANTIATE_TEST_SUITE_P(
    All,
    MlxLayout,
    ::testing::ValuesIn(saved_otherwise()),
    [](const auto& tested) { return test::test_name(tested.param); });

TEST(MlxLayout, OfEveryModelThatItSavesOtherwise) {
  EXPECT_EQ(saved_otherwise().size(), 28u);
}

}  // namespace
}  // namespace mlxterp
