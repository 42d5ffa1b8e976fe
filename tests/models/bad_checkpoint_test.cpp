// Checkpoints that are not what their config says. Each case is a test, and so
// a process, of its own: a crash fails that one.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "core/machine.h"
#include "mlxterp/core/error.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/models/load.h"
#include "mlxterp/trace/model.h"
#include "tests/bad_input.h"
#include "tests/spoilt_checkpoint.h"
#include "tests/temp_folder.h"
#include "tests/tiny_checkpoint.h"

namespace mlxterp {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::name_of;
using testing::TempFolder;
using ::testing::TestWithParam;
using testing::TinyCheckpoint;
using ::testing::Values;
using ::testing::ValuesIn;

using Case = testing::Spoilt;

class BadCheckpoint : public TestWithParam<Case> {};

TEST_P(BadCheckpoint, IsRefused) {
  const TempFolder folder;
  TinyCheckpoint tiny;
  GetParam().spoil(tiny);
  const auto path = tiny.write(folder);
  const testing::ExpectCheap cheap;
  try {
    InterpretableModel::load(path.string());
    ADD_FAILURE() << "it was loaded";
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_EQ(message.substr(0, 1), "[") << message;
    testing::expect_says(error, GetParam().says);
    // What is wrong with names and shapes is found without reading weights.
    const bool values = GetParam().name == "nan" ||
                        GetParam().name == "infinite" ||
                        GetParam().name == "tied_with_another_unembedding";
    try {
      check_tensors(Checkpoint::open(path));
      EXPECT_TRUE(values) << message;
    } catch (const Error& same) {
      EXPECT_FALSE(values);
      EXPECT_EQ(same.what(), message);
    }
  }
}

Case field(
    const std::string& name,
    const char* field,
    const json& value,
    std::vector<std::string> says = {}) {
  if (says.empty()) says.emplace_back(field);
  return {
      name,
      [field, value](TinyCheckpoint& tiny) { tiny.config[field] = value; },
      says};
}

// No number that sizes something is taken as it comes.
std::vector<Case> numbers() {
  const std::pair<const char*, json> wrong[] = {
      {"zero", 0},
      {"negative", -1},
      {"fraction", 1.5},
      {"string", "3"},
      {"large", 1'000'000'000},
      {"true", true},
      {"unsigned", std::numeric_limits<uint64_t>::max()},
      {"list", json::array()},
  };
  std::vector<Case> cases;
  for (const char* name :
       {"num_hidden_layers",
        "num_attention_heads",
        "hidden_size",
        "vocab_size"}) {
    for (const auto& [what, value] : wrong)
      cases.push_back(field(std::string(name) + "_" + what, name, value));
    cases.push_back(
        {std::string(name) + "_missing",
         [name](TinyCheckpoint& tiny) { tiny.config.erase(name); },
         {name, "missing"}});
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Number, BadCheckpoint, ValuesIn(numbers()), name_of);

INSTANTIATE_TEST_SUITE_P(
    Config,
    BadCheckpoint,
    Values(
        Case{
            "number_of_1e309",
            [](TinyCheckpoint& tiny) {
              auto text = tiny.config.dump();
              text.replace(text.find("10000.0"), 7, "1e309");
              tiny.config_text = text;
            },
            {"config.json", "1e309"}},
        field("theta_above_a_float", "rope_theta", 1e39, {"float32"}),
        field("theta_below_a_float", "rope_theta", 1e-50, {"float32"}),
        field(
            "theta_that_turns_too_fast", "rope_theta", 1.5e-38, {"wavelength"}),
        field("theta_negative", "rope_theta", -1),
        field("eps_zero", "rms_norm_eps", 0),
        field("eps_string", "rms_norm_eps", "x"),
        field("inner_width_zero", "intermediate_size", 0),
        field("layers_above_limit", "num_hidden_layers", limits::layers + 1),
        field("heads_above_limit", "num_attention_heads", limits::heads + 1),
        field("width_above_limit", "hidden_size", limits::d_model + 1),
        field("inner_width_above", "intermediate_size", limits::d_mlp + 1),
        field("vocabulary_above_limit", "vocab_size", limits::vocab + 1),
        field("kv_heads_no_divisor", "num_key_value_heads", 4),
        field("head_odd", "head_dim", 7),
        field("head_fraction", "head_dim", 8.5),
        field("activation", "hidden_act", "tanhshrink", {"tanhshrink"}),
        field("tie_no_boolean", "tie_word_embeddings", "yes"),
        Case{
            "heads_do_not_divide",
            [](TinyCheckpoint& tiny) {
              tiny.config.erase("head_dim");
              tiny.config["num_attention_heads"] = 5;
              tiny.config["num_key_value_heads"] = 5;
            },
            {"hidden_size 24", "num_attention_heads 5"}},
        field(
            "rope_scaling_unknown",
            "rope_scaling",
            {{"rope_type", "sorcery"}, {"factor", 2}},
            {"rope", "sorcery"}),
        field("rope_scaling_number", "rope_scaling", 5, {"rope"}),
        field("no_family", "model_type", "mamba", {"mamba", "known: llama"}),
        field("a_path", "model_type", "../llama", {"../llama", "known: llama"}),
        field("no_name", "model_type", "", {"known: llama"}),
        field("another_case", "model_type", "Llama", {"Llama"}),
        field("no_string", "model_type", 5),
        Case{
            "model_type_missing",
            [](TinyCheckpoint& tiny) { tiny.config.erase("model_type"); },
            {"model_type", "missing"}},
        Case{
            "inner_width_missing",
            [](TinyCheckpoint& tiny) {
              tiny.config.erase("intermediate_size");
            },
            {"intermediate_size", "missing"}},
        field(
            "quantised",
            "quantization",
            {{"group_size", -3}, {"bits", 77}},
            {"-3", "expected 32, 64, 128"}),
        field(
            "quantised_by_transformers",
            "quantization_config",
            {{"quant_method", "gptq"}, {"bits", 4}},
            {"gptq"})),
    name_of);

const std::string up = "model.layers.1.mlp.up_proj.weight";

INSTANTIATE_TEST_SUITE_P(
    Tensor,
    BadCheckpoint,
    Values(
        field("another_vocabulary", "vocab_size", 98, {"(97, 24)", "(98, 24)"}),
        Case{
            "missing",
            [](TinyCheckpoint& tiny) { tiny.tensors.erase(up); },
            {"lacks 1 tensor", up}},
        Case{
            "many_missing",
            [](TinyCheckpoint& tiny) {
              std::erase_if(tiny.tensors, [](const auto& entry) {
                return entry.first.find("layers") != std::string::npos;
              });
            },
            {"lacks 27 tensor", "model.layers.0", ", ..."}},
        Case{
            "under_a_prefix",
            [](TinyCheckpoint& tiny) {
              auto tensors = std::exchange(tiny.tensors, {});
              for (auto& [name, tensor] : tensors)
                tiny.tensors["language_model." + name] = std::move(tensor);
              tiny.put("vision_tower.patch.weight", {4, 4});
            },
            {"'language_model.'", "no text_config"}},
        Case{
            "superfluous",
            [](TinyCheckpoint& tiny) {
              tiny.put("model.layers.3.mlp.up_proj.weight", {40, 24});
            },
            {"model.layers.3.mlp.up_proj.weight"}},
        Case{
            "transposed",
            [](TinyCheckpoint& tiny) {
              tiny.put(up, {24, 40});
            },
            {up, "(24, 40)", "(40, 24)"}},
        Case{
            "of_another_rank",
            [](TinyCheckpoint& tiny) {
              tiny.put(up, {1, 40, 24});
            },
            {up, "(1, 40, 24)"}},
        Case{
            "scalar",
            [](TinyCheckpoint& tiny) { tiny.put(up, {}); },
            {up, "(40, 24)"}},
        Case{
            "nan",
            [](TinyCheckpoint& tiny) { tiny.tensors.at(up).values[7] = NAN; },
            {up, "1 values of 960", "NaN"}},
        Case{
            "infinite",
            [](TinyCheckpoint& tiny) { tiny.fill(up, INFINITY); },
            {up, "960 values of 960"}},
        Case{
            "there_twice",
            [](TinyCheckpoint& tiny) {
              tiny.put("layers.1.mlp.up_proj.weight", {40, 24});
            },
            {up, "'layers.1.mlp.up_proj.weight'"}},
        Case{
            "a_tie_there_twice",
            [](TinyCheckpoint& tiny) {
              tiny.config["tie_word_embeddings"] = true;
              tiny.put("unembed.weight", {97, 24});
            },
            {"'lm_head.weight'", "'unembed.weight'"}},
        Case{
            "untied_without_unembedding",
            [](TinyCheckpoint& tiny) { tiny.tensors.erase("lm_head.weight"); },
            {"lacks 1 tensor", ": lm_head.weight"}},
        Case{
            "tied_with_another_unembedding",
            [](TinyCheckpoint& tiny) {
              tiny.config["tie_word_embeddings"] = true;
              tiny.fill("lm_head.weight", 2);
            },
            {"lm_head.weight", "tie_word_embeddings"}}),
    name_of);

TEST(OddCheckpoint, TheTinyOneItselfLoads) {
  const TempFolder folder;
  const auto path = TinyCheckpoint().write(folder);
  std::vector<std::string> told;
  load_decoder(Checkpoint::open(path), {.warn = [&](std::string_view text) {
                 told.emplace_back(text);
               }});
  EXPECT_TRUE(told.empty());
}

TEST(OddCheckpoint, WeightsThatAreNotFiniteOnPurpose) {
  const TempFolder folder;
  TinyCheckpoint tiny;
  tiny.tensors.at(up).values[7] = NAN;
  tiny.tensors.at(up).values[8] = INFINITY;
  const auto path = tiny.write(folder);
  const auto model = InterpretableModel::load(path, {.allow_not_finite = true});
  const auto* values =
      model.decoder().layers[1]->mlp->up_proj.weight.dense().data<float>();
  EXPECT_TRUE(std::isnan(values[7]));
  EXPECT_TRUE(std::isinf(values[8]));

  // A tie that is NaN twice is one.
  tiny.config["tie_word_embeddings"] = true;
  tiny.tensors.at("lm_head.weight") =
      tiny.tensors.at("model.embed_tokens.weight");
  for (const auto* name : {"lm_head.weight", "model.embed_tokens.weight"})
    tiny.tensors.at(name).values[0] = NAN;
  InterpretableModel::load(tiny.write(folder), {.allow_not_finite = true});
}

TEST(OddCheckpoint, MatricesOfZerosAreAWarning) {
  const TempFolder folder;
  TinyCheckpoint tiny;
  tiny.fill("model.norm.weight", 0);  // a vector may be zero
  const auto load = [&] {
    std::vector<std::string> told;
    load_decoder(
        Checkpoint::open(tiny.write(folder)),
        {.warn = [&](std::string_view text) { told.emplace_back(text); }});
    return told;
  };
  EXPECT_TRUE(load().empty());
  tiny.fill(up, 0);
  tiny.tensors.at("lm_head.weight").values[0] = 0;
  auto told = load();
  ASSERT_EQ(told.size(), 1u);
  EXPECT_NE(told[0].find("1 of the 23 matrices"), std::string::npos) << told[0];
  EXPECT_NE(told[0].find(up), std::string::npos) << told[0];
  for (const auto& [name, tensor] : TinyCheckpoint().tensors)
    tiny.fill(name, 0);
  told = load();
  ASSERT_EQ(told.size(), 1u);
  EXPECT_NE(told[0].find("23 of the 23"), std::string::npos) << told[0];
  // Nobody has to listen.
  load_decoder(Checkpoint::open(tiny.write(folder)));
}

// Gemma 3's tokenizer has a token for images, which its text part has no row
// for.
TEST(OddCheckpoint, ATokenWithoutARowIsRefusedOnlyWhereItIsUsed) {
  const TempFolder folder;
  TinyCheckpoint tiny;
  json vocabulary;
  for (int i = 0; i < 97; ++i)
    vocabulary[std::string("w").append(std::to_string(i))] = i;
  tiny.tokenizer =
      json{
          {"version", "1.0"},
          {"added_tokens",
           {{{"id", 97},
             {"content", "<image>"},
             {"single_word", false},
             {"lstrip", false},
             {"rstrip", false},
             {"normalized", false},
             {"special", false}}}},
          {"pre_tokenizer", {{"type", "WhitespaceSplit"}}},
          {"model",
           {{"type", "WordLevel"}, {"vocab", vocabulary}, {"unk_token", "w0"}}}}
          .dump();
  std::vector<std::string> told;
  const auto model = InterpretableModel::load(
      tiny.write(folder).string(),
      {.warn = [&](std::string_view text) { told.emplace_back(text); }});
  ASSERT_EQ(told.size(), 1u);
  EXPECT_NE(told[0].find("98 ids, the embedding 97 rows"), std::string::npos)
      << told[0];
  EXPECT_EQ(model("w3 w96").shape(), (mlx::core::Shape{1, 2, 97}));
  try {
    model("w3 <image>");
    ADD_FAILURE() << "it ran";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::out_of_range) << error.what();
    EXPECT_NE(std::string(error.what()).find("id 97"), std::string::npos)
        << error.what();
  }
}

// Half a terabyte of nothing, as often as this machine needs: it takes no room
// on the disk.
TEST(OddCheckpoint, MoreThanTheMemoryIsRefusedBeforeItIsRead) {
  const uint64_t rows = limits::vocab, columns = limits::d_model;
  const uint64_t each = 2 * rows * columns;
  const TempFolder folder;
  TinyCheckpoint tiny;
  const auto path = tiny.write(folder);
  json header;
  uint64_t bytes = 0;
  while (bytes <= machine_memory()) {
    header[fmt::format("model.layers.{}.weight", header.size())] = {
        {"dtype", "BF16"},
        {"shape", {rows, columns}},
        {"data_offsets", {bytes, bytes + each}}};
    bytes += each;
  }
  const auto file = folder.write(
      "m/model.safetensors", testing::safetensors_bytes(header.dump(), ""));
  std::error_code error;
  fs::resize_file(file, fs::file_size(file) + bytes, error);
  ASSERT_FALSE(error) << "a file with a hole of " << bytes
                      << " bytes cannot be made here: " << error.message();
  try {
    InterpretableModel::load(path.string());
    ADD_FAILURE() << "it was loaded";
  } catch (const Error& refused) {
    EXPECT_EQ(refused.kind(), ErrorKind::environment) << refused.what();
    EXPECT_NE(std::string(refused.what()).find("GB"), std::string::npos);
  }
}

}  // namespace
}  // namespace mlxterp
