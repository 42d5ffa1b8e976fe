// A family that the library does not know, brought along by whoever loads it.

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "mlxterp/core/error.h"
#include "mlxterp/models/family.h"
#include "mlxterp/report/info.h"
#include "mlxterp/trace/model.h"
#include "tests/compare.h"
#include "tests/families.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;
namespace fs = std::filesystem;
using nlohmann::json;

// llama-gqa under names of its own.
DecoderConfig configure(const std::string& config_json) {
  const auto config = json::parse(config_json);
  DecoderConfig c;
  c.model_type = "own_model";
  c.vocab = config.at("vocab_size");
  c.d_model = config.at("width");
  c.n_layers = config.at("num_hidden_layers");
  c.n_heads = config.at("num_attention_heads");
  c.n_kv_heads = config.at("num_key_value_heads");
  c.d_head = c.d_model / c.n_heads;
  c.d_mlp = config.at("intermediate_size");
  c.context = config.at("max_position_embeddings");
  c.norm.eps = config.at("rms_norm_eps");
  c.rope.dims = c.d_head;
  c.tied = config.value("tie_word_embeddings", false);
  return c;
}

constexpr std::array<Rename, 7> own_names{{
    {"model", ""},
    {"embed_tokens", "embed"},
    {"input_layernorm", "ln1"},
    {"self_attn", "attn"},
    {"post_attention_layernorm", "ln2"},
    {"norm", "ln_final"},
    {"lm_head", "unembed"},
}};

class OwnFamily : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() /
              ("mlxterp-own-family-" + std::to_string(::getpid()));
    fs::create_directories(folder_);
    auto config = json::parse(test::config_text("llama-gqa"));
    config["model_type"] = "own_model";
    config["width"] = config["hidden_size"];
    config.erase("hidden_size");
    std::ofstream(folder_ / "config.json") << config.dump();
    fs::copy_file(
        test::families_root / "llama-gqa" / "model.safetensors",
        folder_ / "model.safetensors",
        fs::copy_options::overwrite_existing);
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path folder_;
};

TEST_F(OwnFamily, IsReadByItsOwnTable) {
  const LoadOptions options{
      .dtype = mx::float32, .families = {{"own_model", configure, own_names}}};
  const auto model = InterpretableModel::load(folder_.string(), options);
  const auto expected = test::expected("llama-gqa");
  const auto ids = test::integers(expected.at("ids"));
  const auto run = model.run(ids, {.save = {"layers.0.self_attn.output"}});
  const auto logits = model(ids);
  const auto& theirs = expected.at("logits");
  EXPECT_LE(
      test::max_difference(mx::reshape(logits, theirs.shape()), theirs), 1e-5);
  EXPECT_EQ(run["layers.0.self_attn.output"].shape(2), 24);
}

TEST_F(OwnFamily, IsDescribed) {
  const auto checkpoint = Checkpoint::open(folder_);
  const LoadOptions options{.families = {{"own_model", configure, own_names}}};
  const auto info = report::model_info(checkpoint, "it", options);
  EXPECT_EQ(info.config.d_head, 6);
  EXPECT_EQ(config_of(checkpoint, options.families).model_type, "own_model");
  EXPECT_THROW(report::model_info(checkpoint, "it"), Error);
}

TEST_F(OwnFamily, IsUnknownWithoutIt) {
  try {
    InterpretableModel::load(folder_.string());
    FAIL() << "loaded";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_data);
    const std::string said = error.what();
    EXPECT_NE(said.find("'own_model' is not supported"), said.npos) << said;
  }
}

// One's own goes before the built-in one of that name.
TEST_F(OwnFamily, GoesBeforeTheBuiltInOne) {
  const auto text = test::config_text("llama-gqa");
  const std::array<Family, 1> own{{{"llama", configure, own_names}}};
  EXPECT_EQ(family_of(text, own).configure, configure);
  EXPECT_NE(family_of(text).configure, configure);
}

}  // namespace
}  // namespace mlxterp
