// Every family's checkpoint with one thing broken is refused, by the name of
// the tensor or field that is wrong.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>
#include <set>

#include "mlx/ops.h"
#include "mlxterp/core/error.h"
#include "mlxterp/models/load.h"
#include "tests/bad_input.h"
#include "tests/families.h"
#include "tests/temp_folder.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;
using nlohmann::json;

using Tensors = std::vector<std::pair<std::string, mx::array>>;

// Their matrices are as large whatever the number of heads is.
const std::set<std::string> blind_to_heads = {
    "bloom",
    "codegen",
    "falcon",
    "gpt2",
    "gpt_bigcode",
    "gpt_neo",
    "gpt_neox",
    "gptj",
    "mpt",
    "opt"};

Tensors tensors_of(const std::string& variant) {
  const auto file =
      Safetensors::open(test::families_root / variant / "model.safetensors");
  Tensors tensors;
  for (const auto& tensor : file.tensors())
    tensors.emplace_back(tensor.name, file.read(tensor));
  return tensors;
}

class BrokenFamily : public ::testing::TestWithParam<std::string> {
 protected:
  // What loading says; empty where it loads.
  std::string refusal(const json& config, const Tensors& tensors) const {
    const auto path = folder_.path() / "m";
    std::filesystem::create_directories(path);
    std::ofstream(path / "config.json") << config.dump();
    save_safetensors(
        path / "model.safetensors", tensors, {}, /*overwrite=*/true);
    const testing::ExpectCheap cheap;
    try {
      load_decoder(Checkpoint::open(path));
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::bad_data) << error.what();
      return error.what();
    }
    return "";
  }

  void expect_named(
      const std::string& what,
      const std::string& name,
      const json& config,
      const Tensors& tensors) {
    const auto message = refusal(config, tensors);
    EXPECT_NE(message.find(name), std::string::npos)
        << what << " " << name << ": " << message;
    ++broken_;
  }

  const testing::TempFolder folder_;
  size_t broken_ = 0;
};

TEST_P(BrokenFamily, IsRefusedByName) {
  const auto config = json::parse(test::config_text(GetParam()));
  const auto whole = tensors_of(GetParam());
  ASSERT_EQ(refusal(config, whole), "");
  for (size_t i = 0; i < whole.size(); ++i) {
    const auto& [name, value] = whole[i];
    auto tensors = whole;
    tensors.erase(tensors.begin() + static_cast<long>(i));
    expect_named("missing", name, config, tensors);
    // One layer is like another to what follows.
    if (name.find(".1.") != name.npos) continue;
    if (value.ndim() == 2 && value.shape(0) != value.shape(1)) {
      tensors = whole;
      tensors[i].second = mx::contiguous(mx::transpose(value));
      expect_named("transposed", name, config, tensors);
    }
    tensors = whole;
    const auto first =
        mx::equal(mx::arange(static_cast<int>(value.size())), mx::array(0));
    tensors[i].second =
        mx::where(mx::reshape(first, value.shape()), mx::array(NAN), value);
    expect_named("NaN", name, config, tensors);
  }
  EXPECT_GE(broken_, 2 * 12u);
  std::printf("%zu broken\n", broken_);
}

TEST_P(BrokenFamily, AWrongNumberOfHeadsIsRefusedWhereShapesShowIt) {
  const auto config = json::parse(test::config_text(GetParam()));
  const auto whole = tensors_of(GetParam());
  auto fields = config;
  fields.update(config.value("rope_parameters", json::object()));
  for (const std::string field :
       {"num_attention_heads",
        "num_key_value_heads",
        "n_head",
        "n_heads",
        "num_heads",
        "num_kv_heads"}) {
    if (!config.contains(field)) continue;
    const int right = config[field];
    for (const int wrong : {right - 1, right + 1, 2 * right}) {
      if (wrong == 0) continue;
      auto changed = config;
      changed[field] = wrong;
      const auto message = refusal(changed, whole);
      if (message.empty()) {
        EXPECT_TRUE(blind_to_heads.contains(config["model_type"]))
            << field << " " << wrong << " was loaded";
        continue;
      }
      // The field itself, one that cannot be beside it, or a tensor.
      bool named = false;
      for (const auto& [key, value] : fields.items())
        named |= message.find(key) != message.npos;
      for (const auto& tensor : whole)
        named |= message.find(tensor.first) != message.npos;
      EXPECT_TRUE(named) << message;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    All,
    BrokenFamily,
    ::testing::ValuesIn(test::supported_variants()),
    [](const auto& variant) { return test::test_name(variant.param); });

}  // namespace
}  // namespace mlxterp
