// A checkpoint's weights arrive in the Decoder; see bad_checkpoint_test.cpp for
// what is refused.

#include "mlxterp/models/load.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlxterp/core/error.h"
#include "mlxterp/io/safetensors.h"
#include "tests/compare.h"
#include "tests/temp_folder.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;
namespace fs = std::filesystem;
using nlohmann::json;

using Tensors = std::map<std::string, mx::array>;

json tiny_json() {
  return {
      {"model_type", "llama"},
      {"vocab_size", 97},
      {"hidden_size", 24},
      {"num_hidden_layers", 3},
      {"num_attention_heads", 6},
      {"num_key_value_heads", 2},
      {"head_dim", 8},
      {"intermediate_size", 40},
      {"max_position_embeddings", 64},
      {"rms_norm_eps", 1e-5},
      {"rope_theta", 10000.0},
      {"hidden_act", "silu"},
      {"tie_word_embeddings", false},
  };
}

// The tiny decoder's weights under a Llama checkpoint's names.
Tensors tiny_tensors(const Decoder& decoder) {
  Tensors tensors;
  for (const auto& [path, value] : decoder.parameters()) {
    auto name = path;
    const auto swap = [&](const std::string& from, const std::string& to) {
      if (const auto at = name.find(from); at != std::string::npos)
        name.replace(at, from.size(), to);
    };
    swap("embed.", "embed_tokens.");
    swap("unembed_tokens.", "lm_head.");
    swap("ln_final", "norm");
    swap("ln1", "input_layernorm");
    swap("ln2", "post_attention_layernorm");
    swap(".attn.", ".self_attn.");
    tensors.emplace(
        name.starts_with("lm_head") ? name : "model." + name, *value);
  }
  return tensors;
}

class Load : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() /
              ("mlxterp-load-" + std::to_string(::getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::shared_ptr<Decoder> load(const LoadOptions& options = {}) {
    std::ofstream(folder_ / "config.json") << config_.dump();
    save_safetensors(
        folder_ / "model.safetensors",
        {tensors_.begin(), tensors_.end()},
        {},
        /*overwrite=*/true);
    return load_decoder(Checkpoint::open(folder_), options);
  }

  fs::path folder_;
  std::shared_ptr<Decoder> source_ = test::tiny_decoder();
  json config_ = tiny_json();
  Tensors tensors_ = tiny_tensors(*source_);
};

const std::vector<int> prompt = {1, 2, 3};

mx::array logits(std::shared_ptr<Decoder> decoder) {
  auto out = InterpretableModel(std::move(decoder))(prompt);
  out.eval();
  return out;
}

TEST_F(Load, RoundTrip) {
  double told = 0;
  const auto decoder =
      load({.progress = [&](std::string_view, double d) { told = d; }});
  EXPECT_EQ(told, 1.0);
  test::expect_repeated(logits(decoder), logits(source_), "logits");
}

TEST_F(Load, HalfPrecisionStaysInMemoryWhereAsked) {
  std::vector<std::string> warned;
  LoadOptions options{.dtype = mx::float32, .half = true};
  options.warn = [&](std::string_view text) { warned.emplace_back(text); };
  const auto plain = load(options);  // of a file in float32
  ASSERT_EQ(warned.size(), 1u);
  EXPECT_NE(warned[0].find("half precision"), std::string::npos) << warned[0];
  EXPECT_EQ(plain->embed.weight.dense().dtype(), mx::float32);

  for (auto& [name, value] : tensors_)
    if (name.find("gate_proj") == name.npos)
      value = mx::astype(value, mx::bfloat16);
  warned.clear();
  const auto half = load(options);
  EXPECT_TRUE(warned.empty());
  EXPECT_EQ(half->ln_final.weight.dtype(), mx::float32);
  for (const auto& [path, matrix] : half->matrices()) {
    const bool wide = path.find("gate_proj") != path.npos;
    EXPECT_EQ(matrix->dtype(), mx::float32) << path;
    EXPECT_EQ(matrix->dense().dtype(), wide ? mx::float32 : mx::bfloat16)
        << path;
  }
  test::expect_close(
      logits(half),
      logits(load({.dtype = mx::float32})),
      1e-5,
      3 * 97,
      "logits");
  // Where nothing is computed in float32, all goes by `dtype`.
  options.dtype = mx::float16;
  EXPECT_EQ(load(options)->embed.weight.dense().dtype(), mx::float16);
  EXPECT_TRUE(warned.empty());
}

TEST_F(Load, PrecisionIsChosenOrFloat32OnACpu) {
  for (auto& [name, value] : tensors_)
    value = mx::astype(value, mx::bfloat16);
  EXPECT_EQ(load({.dtype = mx::bfloat16})->embed.weight.dtype(), mx::bfloat16);
  EXPECT_EQ(load({.dtype = mx::float16})->embed.weight.dtype(), mx::float16);
  if (mx::default_device() == mx::Device::cpu) {
    EXPECT_EQ(load()->embed.weight.dtype(), mx::float32);
  }
  const InterpretableModel half(load({.dtype = mx::bfloat16}));
  const auto run = half.run(
      prompt,
      {.save = {"layers.*.*", "layers.*.*.*"},
       .edits = {{"layers.1.ln1.scale", scale(1)}}});
  for (const auto& [name, value] : run)
    if (!name.ends_with("scale")) {
      EXPECT_EQ(value.dtype(), mx::bfloat16) << name;
    }
}

TEST_F(Load, NewerConfigsKeepThetaInRopeParameters) {
  config_.erase("rope_theta");
  config_["rope_parameters"] = {
      {"rope_type", "default"}, {"rope_theta", 500.0}};
  EXPECT_EQ(load()->config().rope.theta, 500.0f);
}

TEST_F(Load, ATiedMatrixMayStandTwice) {
  config_["tie_word_embeddings"] = true;
  tensors_.erase("lm_head.weight");
  load();
  tensors_.emplace("lm_head.weight", tensors_.at("model.embed_tokens.weight"));
  load();
}

// What is drawn later does not depend on what was loaded, and no chain of keys
// that nothing evaluates stays behind.
TEST_F(Load, LeavesMlxsRandomStateAlone) {
  load();  // writes the files
  const auto draw = [] { return mx::random::uniform({8}); };
  mx::random::seed(3);
  draw();
  const auto expected = draw();
  mx::random::seed(3);
  draw();
  const auto decoder = load();
  check_tensors(Checkpoint::open(folder_));
  tensors_.erase("lm_head.weight");
  EXPECT_THROW(load(), Error);
  test::expect_identical(draw(), expected, "what is drawn next");
}

// Every number in a name is looked up as one of an expert.
TEST_F(Load, NamesOfManyNumbersAreRefusedSoon) {
  std::string name;
  while (name.size() < 900)
    name += "1.";
  for (int i = 0; i < 2000; ++i)
    tensors_.emplace(name + std::to_string(i), mx::array(1.0f));
  tensors_.erase("lm_head.weight");
  const auto start = std::chrono::steady_clock::now();
  try {
    load();
    ADD_FAILURE() << "it was loaded";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("lm_head"), std::string::npos);
  }
  const std::chrono::duration<double> took =
      std::chrono::steady_clock::now() - start;
  EXPECT_LT(took.count(), 30);
}

// Which of two tensors an expert is made of, nobody can tell.
TEST(LoadMixture, AnExpertThatIsThereTwiceIsRefused) {
  const testing::TempFolder folder;
  const fs::path source = MLXTERP_SOURCE_DIR "/tests/parity/families/mixtral";
  fs::copy(source / "config.json", folder / "config.json");
  const auto file = Safetensors::open(source / "model.safetensors");
  Tensors tensors;
  for (const auto& tensor : file.tensors())
    tensors.emplace(tensor.name, file.read(tensor));
  const std::string moe = "model.layers.0.block_sparse_moe.experts.";
  const auto& expert = tensors.at(moe + "0.w1.weight");
  const auto refused = [&](const std::string& name, const mx::array& value) {
    auto with = tensors;
    with.emplace(name, value);
    save_safetensors(
        folder / "model.safetensors", {with.begin(), with.end()}, {}, true);
    try {
      load_decoder(Checkpoint::open(folder.path()));
      ADD_FAILURE() << name << " was loaded";
    } catch (const Error& error) {
      const std::string message = error.what();
      EXPECT_EQ(error.kind(), ErrorKind::bad_data) << message;
      for (const auto& one : {"'" + name + "'", "'" + moe})
        EXPECT_NE(message.find(one), std::string::npos) << message;
    }
  };
  refused(moe + "00.w1.weight", expert);
  const auto all = mx::repeat(mx::expand_dims(expert, 0), 4, 0);
  // Before and behind the parts, by the alphabet.
  refused("layers.0.mlp.experts.gate_proj.weight", all);
  refused("model.layers.0.mlp.experts.gate_proj.weight", all);
}

}  // namespace
}  // namespace mlxterp
