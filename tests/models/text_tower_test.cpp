// The language model inside multimodal checkpoints (tests/parity/towers), in
// every layout that is in use; and nested configs that are broken.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "mlxterp/core/error.h"
#include "mlxterp/io/checkpoint.h"
#include "mlxterp/io/safetensors.h"
#include "mlxterp/models/family.h"
#include "mlxterp/models/load.h"
#include "mlxterp/report/info.h"
#include "mlxterp/trace/model.h"
#include "tests/compare.h"
#include "tests/families.h"
#include "tests/spoilt_checkpoint.h"
#include "tests/temp_folder.h"
#include "tests/tiny_checkpoint.h"

namespace mlxterp {
namespace {

namespace fs = std::filesystem;
namespace mx = mlx::core;
using nlohmann::json;
using testing::TempFolder;
using ::testing::TestParamInfo;
using ::testing::TestWithParam;
using testing::TinyCheckpoint;
using ::testing::Values;
using ::testing::ValuesIn;

const fs::path towers_root = MLXTERP_SOURCE_DIR "/tests/parity/towers";

std::string rest(const std::string& name, const std::string& prefix) {
  return name.starts_with(prefix) ? name.substr(prefix.size()) : "";
}

// ---- Every layout -----------------------------------------------------------

// What a tensor that transformers saves is called in another layout.
using Layout = std::pair<std::string, std::string (*)(const std::string&)>;

// Qwen's and Gemma 4 are saved inside one model to this day.
std::string apart(const std::string& name) {
  const std::string own = "model.language_model.";
  if (const auto inner = rest(name, own); !inner.empty())
    return "language_model.model." + inner;
  if (name.starts_with("lm_head.")) return "language_model." + name;
  const auto other = rest(name, "model.");
  return other.empty() ? name : other;
}

// From 4.52 to 5, transformers had all towers inside one model.
std::string inside(const std::string& name) {
  if (const auto model = rest(name, "language_model.model."); !model.empty())
    return "model.language_model." + model;
  if (const auto head = rest(name, "language_model."); !head.empty())
    return head;
  return "model." + name;
}

std::string another_word(const std::string& name) {
  if (const auto inner = rest(name, "language_model."); !inner.empty())
    return "text_model." + inner;
  return name;
}

// The language model as if it stood alone.
std::string bare(const std::string& name) {
  const auto inner = rest(name, "language_model.");
  return inner.empty() ? name : inner;
}

const std::vector<Layout> layouts = {
    {"as_saved", [](const std::string& name) { return name; }},
    {"inside", inside},
    {"another_word", another_word},
    {"bare", bare},
};

using LayoutCase = std::tuple<std::string, Layout>;

class TextTowers : public TestWithParam<LayoutCase> {};

std::vector<std::string> towers() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(towers_root))
    names.push_back(entry.path().filename().string());
  return names;
}

// The folder in another layout; how many bytes are the language model's and how
// many not.
std::pair<uint64_t, uint64_t> write_as(
    const fs::path& from, const Layout& layout, const TempFolder& folder) {
  const auto file = Safetensors::open(from / "model.safetensors");
  std::vector<std::pair<std::string, mx::array>> tensors;
  uint64_t language = 0, other = 0;
  for (const auto& tensor : file.tensors()) {
    const auto name = apart(tensor.name);
    tensors.emplace_back(layout.second(name), file.read(tensor));
    const bool own = name.starts_with("language_model.");
    (own ? language : other) += tensor.bytes;
  }
  save_safetensors(folder / "model.safetensors", tensors);
  fs::copy_file(from / "config.json", folder / "config.json");
  return {language, other};
}

TEST_P(TextTowers, AreReadAsTransformersReadsThem) {
  const auto& [tower, layout] = GetParam();
  const TempFolder folder;
  const auto [language, other] = write_as(towers_root / tower, layout, folder);
  const auto checkpoint = Checkpoint::open(folder.path());

  uint64_t read = 0, left_out = 0;
  for (const auto& tensor : checkpoint.tensors())
    read += tensor.bytes;
  for (const auto& part : checkpoint.left_out()) {
    EXPECT_TRUE(part.part == "vision" || part.part == "projector");
    left_out += part.bytes;
  }
  EXPECT_EQ(read, language);
  EXPECT_EQ(left_out, other);
  // The projector of these two is a part of the vision tower.
  const bool one = tower == "qwen3_5" || tower == "gemma4";
  EXPECT_EQ(checkpoint.left_out().size(), one ? 1u : 2u);
  EXPECT_TRUE(checkpoint.warnings().empty());

  const auto file =
      Safetensors::open(towers_root / tower / "expected.safetensors");
  const auto expected = [&](const std::string& name) {
    for (const auto& tensor : file.tensors())
      if (tensor.name == name) return file.read(tensor);
    throw std::runtime_error(name);
  };
  const auto model =
      InterpretableModel::load(folder.path().string(), {.dtype = mx::float32});
  const auto run =
      model.run(test::integers(expected("ids")), {.save = {"logits"}});
  const auto wanted = expected("logits");
  ASSERT_EQ(run["logits"].size(), wanted.size());
  const auto error =
      test::max_difference(mx::reshape(run["logits"], wanted.shape()), wanted);
  std::cout << "largest error " << error << " of " << wanted.size() << "\n";
  EXPECT_LE(error, 1e-5);

  // Both spellings of the towers mean the layer, the last that has attention.
  const std::string layer =
      model.sites().contains("layers.3.attn") ? "layers.3." : "layers.1.";
  for (const auto* prefix :
       {"model.language_model.", "language_model.model.", "model.", ""})
    EXPECT_EQ(
        model.sites().find(prefix + layer + "self_attn"),
        model.sites().find(layer + "attn.output"))
        << prefix;
}

INSTANTIATE_TEST_SUITE_P(
    Every,
    TextTowers,
    ::testing::Combine(ValuesIn(towers()), ValuesIn(layouts)),
    [](const TestParamInfo<LayoutCase>& one) {
      return fmt::format(
          "{}_{}", std::get<0>(one.param), std::get<1>(one.param).first);
    });

// ---- What nested configs leave out -----------------------------------------

// A Llama inside a LLaVA.
TinyCheckpoint nested() {
  TinyCheckpoint tiny;
  auto tensors = std::exchange(tiny.tensors, {});
  for (auto& [name, tensor] : tensors)
    tiny.tensors["language_model." + name] = std::move(tensor);
  tiny.put("vision_tower.vision_model.patch.weight", {4, 4});
  tiny.put("multi_modal_projector.linear_1.weight", {24, 4});
  tiny.config = {{"model_type", "llava"}, {"text_config", tiny.config}};
  return tiny;
}

DecoderConfig configured(const TinyCheckpoint& tiny) {
  const TempFolder folder;
  const auto checkpoint = Checkpoint::open(tiny.write(folder));
  check_tensors(checkpoint);
  return family_of(checkpoint.config()).configure(checkpoint.config());
}

// What gemma-3-4b-it's config.json says, and nothing else.
TEST(NestedConfig, LeavesOutWhatItsClassSays) {
  TinyCheckpoint tiny;
  tiny.config = {
      {"model_type", "gemma3"},
      {"eos_token_id", {1, 106}},
      {"text_config",
       {{"hidden_size", 2560},
        {"intermediate_size", 10240},
        {"model_type", "gemma3_text"},
        {"num_hidden_layers", 34},
        {"rope_scaling", {{"factor", 8.0}, {"rope_type", "linear"}}},
        {"sliding_window", 1024}}}};
  const TempFolder folder;
  const auto checkpoint = Checkpoint::open(tiny.write(folder));
  const auto config =
      family_of(checkpoint.config()).configure(checkpoint.config());
  EXPECT_EQ(config.model_type, "gemma3_text");
  EXPECT_EQ(config.vocab, 262'208);
  EXPECT_EQ(config.n_layers, 34);
  EXPECT_EQ(config.n_heads, 8);
  EXPECT_EQ(config.n_kv_heads, 4);
  EXPECT_EQ(config.d_head, 256);
  EXPECT_EQ(config.windows[0], 1024);
  EXPECT_EQ(config.windows[5], 0);
  EXPECT_FLOAT_EQ(config.rope.scale, 1 / 8.0f);
  EXPECT_EQ(
      json::parse(checkpoint.config()).at("eos_token_id"), json({1, 106}));
}

TEST(NestedConfig, NamesItsKindByThatOfTheWhole) {
  auto tiny = nested();
  tiny.config["text_config"].erase("model_type");
  EXPECT_EQ(configured(tiny).model_type, "llama");
}

// Both configs may say whether the unembedding is tied.
TEST(NestedConfig, TheTensorsSayWhatTheConfigsDoNotAgreeOn) {
  const std::vector<std::optional<bool>> said = {std::nullopt, false, true};
  size_t seen = 0;
  for (const auto inside : said)
    for (const auto around : said)
      for (const bool there : {true, false}) {
        auto tiny = nested();
        constexpr const char* field = "tie_word_embeddings";
        auto& text = tiny.config["text_config"];
        text.erase(field);
        if (inside) text[field] = *inside;
        if (around) tiny.config[field] = *around;
        if (!there) tiny.tensors.erase("language_model.lm_head.weight");
        const bool agree = inside == around || !inside || !around;
        const auto either = inside ? inside : around;
        // One that says it is tied has no use for another matrix, and one that
        // says it is not cannot do without.
        if (agree && either && *either == there) continue;
        ++seen;
        EXPECT_EQ(configured(tiny).tied, !there)
            << inside.has_value() << around.has_value() << there;
      }
  EXPECT_EQ(seen, 12u);
}

TEST(NestedConfig, LeftOutIsInInfo) {
  const TempFolder folder;
  const auto info =
      report::model_info(Checkpoint::open(nested().write(folder)), "it");
  const auto parts = json::parse(to_json(info)).at("left_out");
  EXPECT_EQ(
      parts, json::parse(R"([{"part": "projector", "tensors": 1, "bytes": 384},
                      {"part": "vision", "tensors": 1, "bytes": 64}])"));
  bool said = false;
  for (const auto& [what, is] : rows(info))
    if (what == "left out") {
      said = true;
      EXPECT_EQ(
          is, "projector (1 tensor, 384 bytes), vision (1 tensor, 64 bytes)");
    }
  EXPECT_TRUE(said);
}

// ---- Draft layers -----------------------------------------------------------

TEST(DraftLayers, AreLeftOutOfAnyCheckpoint) {
  TinyCheckpoint tiny;
  tiny.put("mtp.fc.weight", {24, 48});
  tiny.put("model.mtp.layers.0.mlp.up_proj.weight", {40, 24});
  tiny.put("model.layers.3.eh_proj.weight", {24, 48});
  tiny.config["num_nextn_predict_layers"] = 1;
  const TempFolder folder;
  const auto checkpoint = Checkpoint::open(tiny.write(folder));
  check_tensors(checkpoint);
  ASSERT_EQ(checkpoint.left_out().size(), 1u);
  EXPECT_EQ(checkpoint.left_out()[0].part, "draft");
  EXPECT_EQ(checkpoint.left_out()[0].tensors, 3u);
}

// ---- Broken ones ------------------------------------------------------------

using Case = testing::Spoilt;

class BrokenTower : public TestWithParam<Case> {};

TEST_P(BrokenTower, IsRefusedByName) {
  auto tiny = nested();
  EXPECT_EQ(configured(tiny).n_layers, 3);
  GetParam().spoil(tiny);
  try {
    configured(tiny);
    ADD_FAILURE() << "it was read";
  } catch (const Error& error) {
    testing::expect_says(error, GetParam().says);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Of,
    BrokenTower,
    Values(
        Case{
            "no_text_config",
            [](TinyCheckpoint& tiny) { tiny.config.erase("text_config"); },
            {"model_type 'llava'", "not supported"}},
        Case{
            "the_text_config_alone",
            [](TinyCheckpoint& tiny) {
              tiny.config = json(tiny.config["text_config"]);
            },
            {"'language_model.'", "no text_config"}},
        Case{
            "a_text_config_that_is_none",
            [](TinyCheckpoint& tiny) { tiny.config["text_config"] = "llama"; },
            {"'text_config'", "string", "not an object"}},
        Case{
            "no_kind",
            [](TinyCheckpoint& tiny) {
              tiny.config["text_config"].erase("model_type");
              tiny.config["model_type"] = "seeing_llama";
            },
            {"'text_config'", "no model_type", "seeing_llama"}},
        Case{
            "an_unknown_kind",
            [](TinyCheckpoint& tiny) {
              tiny.config["text_config"]["model_type"] = "seeing_llama";
            },
            {"seeing_llama", "not supported"}},
        Case{
            "two_configs",
            [](TinyCheckpoint& tiny) {
              tiny.config["llm_config"] = tiny.config["text_config"];
            },
            {"two language models", "text_config", "llm_config"}},
        Case{
            "two_towers",
            [](TinyCheckpoint& tiny) {
              tiny.put("text_model.model.norm.weight", {24});
            },
            {"two language models",
             "language_model.model.norm.weight",
             "text_model.model.norm.weight"}},
        Case{
            "another_prefix",
            [](TinyCheckpoint& tiny) {
              auto tensors = std::exchange(tiny.tensors, {});
              for (auto& [name, tensor] : tensors)
                tiny.tensors
                    [name.starts_with("language_model.")
                         ? "words." + rest(name, "language_model.")
                         : name] = std::move(tensor);
            },
            {"'words.'"}},
        Case{
            "a_vision_tensor_in_the_language_model",
            [](TinyCheckpoint& tiny) {
              tiny.put("language_model.model.layers.0.vision.weight", {4, 4});
            },
            {"model.layers.0.vision.weight", "no place"}},
        Case{
            "a_vision_tensor_under_a_language_name",
            [](TinyCheckpoint& tiny) {
              tiny.put(
                  "language_model.model.layers.1.mlp.up_proj.weight", {4, 4});
            },
            {"layers.1.mlp.up_proj.weight", "(4, 4)", "(40, 24)"}},
        Case{
            "an_unknown_part",
            [](TinyCheckpoint& tiny) { tiny.put("smell_tower.weight", {4}); },
            {"smell_tower.weight", "no place"}},
        Case{
            "a_tensor_missing",
            [](TinyCheckpoint& tiny) {
              tiny.tensors.erase("language_model.model.norm.weight");
            },
            {"lacks 1 tensor", "model.norm.weight"}}),
    testing::name_of);

// Towers beside a flat config are no part of the model it describes.
TEST(BrokenTower, VisionBesideAFlatConfig) {
  TinyCheckpoint tiny;
  tiny.put("vision_tower.patch.weight", {4, 4});
  EXPECT_THROW(configured(tiny), Error);
}

}  // namespace
}  // namespace mlxterp
