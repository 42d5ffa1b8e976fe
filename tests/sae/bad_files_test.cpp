// Files that are no SAE, or a broken one: each a clear answer.

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <optional>

#include "mlx/ops.h"
#include "mlxterp/core/error.h"
#include "mlxterp/io/npz.h"
#include "mlxterp/io/safetensors.h"
#include "mlxterp/sae/load.h"
#include "mlxterp/sae/set.h"
#include "tests/temp_folder.h"

namespace mx = mlx::core;
namespace fs = std::filesystem;

namespace mlxterp {
namespace {

using testing::TempFolder;

const fs::path fixtures = MLXTERP_SOURCE_DIR "/tests/sae/fixtures";

void refused(
    const std::string& place,
    ErrorKind kind,
    const std::vector<std::string>& says,
    const SaeLoadOptions& options = {}) {
  try {
    (void)load_sae(place, options);
    FAIL() << "no error for " << place;
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_EQ(error.kind(), kind) << text;
    EXPECT_EQ(text.substr(0, 1), "[") << text;
    EXPECT_NE(text.find(';'), text.npos) << "no advice: " << text;
    for (const auto& part : says)
      EXPECT_NE(text.find(part), text.npos) << part << " is not in: " << text;
  }
}

class BadSae : public ::testing::Test {
 protected:
  /** A copy of a fixture. */
  std::string copy(const std::string& name) {
    const auto to = folder_ / name;
    fs::create_directories(to.parent_path());
    fs::copy(fixtures / name, to, fs::copy_options::recursive);
    return to.string();
  }

  /** Its weights again, some of them changed: an absent array leaves a tensor
   * out. */
  static void change(
      const fs::path& path,
      const std::map<std::string, std::optional<mx::array>>& changes) {
    std::vector<std::pair<std::string, mx::array>> tensors;
    const auto file = Safetensors::open(path);
    for (const auto& tensor : file.tensors())
      if (!changes.contains(tensor.name))
        tensors.emplace_back(tensor.name, file.read(tensor));
    for (const auto& [name, value] : changes)
      if (value) tensors.emplace_back(name, *value);
    save_safetensors(path, tensors, {}, /*overwrite=*/true);
  }

  static void replace(
      const fs::path& path, const std::string& from, const std::string& to) {
    auto text = testing::read_file(path);
    const auto at = text.find(from);
    ASSERT_NE(at, text.npos) << from;
    std::ofstream(path, std::ios::binary) << text.replace(at, from.size(), to);
  }

  TempFolder folder_;
};

TEST_F(BadSae, NothingThere) {
  refused("/none/at/all", ErrorKind::environment, {"there is no"});
  refused("none", ErrorKind::environment, {"there is no", "org/name"});
  const auto empty = folder_ / "empty";
  fs::create_directory(empty);
  refused(empty.string(), ErrorKind::bad_data, {"holds no SAE", "empty"});
  folder_.write("runs/a/x.txt", "");
  folder_.write("runs/b/x.txt", "");
  refused((folder_ / "runs").string(), ErrorKind::bad_data, {"a, b"});
  folder_.write("two/a.pt", "");
  folder_.write("two/b.pt", "");
  refused((folder_ / "two").string(), ErrorKind::bad_data, {"a.pt, b.pt"});
  refused(
      (fixtures / "goodfire").string(),
      ErrorKind::usage,
      {"no format 'gemma'", "gemma_scope_2"},
      {.format = "gemma"});
}

TEST_F(BadSae, Foreign) {
  refused(
      MLXTERP_SOURCE_DIR "/tests/parity/families/qwen3/model.safetensors",
      ErrorKind::bad_data,
      {"no SAE of a kind", "language model"});
  const auto text = folder_.write("x.safetensors", "<!DOCTYPE html><html>");
  refused(text.string(), ErrorKind::bad_data, {"HTML"});
  const auto zip = folder_.write("x.pt", "PK\x03\x04 and no more");
  refused(zip.string(), ErrorKind::bad_data, {"incomplete"});
  const auto temporal = folder_ / "latest_ckpt.safetensors";
  save_safetensors(temporal, {{"D", mx::zeros({4, 2})}, {"b", mx::zeros({2})}});
  refused(temporal.string(), ErrorKind::bad_data, {"temporal SAE"});
  // A format by name that it is not.
  refused(
      (fixtures / "goodfire").string(),
      ErrorKind::bad_data,
      {"no tensor 'encoder.weight'", "encoder_linear.bias"},
      {.format = "openai"});
}

TEST_F(BadSae, Truncated) {
  for (const std::string name :
       {"saelens_gated/sae_weights.safetensors",
        "dl_topk/trainer_0/ae.pt",
        "dl_legacy/trainer_0/ae.pt",
        "openai_topk/autoencoder.pt",
        "gemma_scope/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71/"
        "params.npz"}) {
    SCOPED_TRACE(name);
    copy(name.substr(0, name.find('/')));
    const auto path = folder_ / name;
    fs::resize_file(path, fs::file_size(path) * 2 / 3);
    try {
      (void)load_sae(path.string());
      FAIL() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::bad_data) << error.what();
      EXPECT_NE(
          std::string(error.what()).find(path.filename().string()),
          std::string::npos)
          << error.what();
    }
  }
}

TEST_F(BadSae, WhatIsMissing) {
  const auto jump = copy("saelens_jumprelu");
  change(jump + "/sae_weights.safetensors", {{"threshold", std::nullopt}});
  refused(jump, ErrorKind::bad_data, {"no tensor 'threshold'", "W_enc"});
  const auto gated = copy("saelens_gated");
  change(gated + "/sae_weights.safetensors", {{"r_mag", std::nullopt}});
  refused(gated, ErrorKind::bad_data, {"no tensor 'r_mag'"});
  const auto skip = copy("saelens_skip_transcoder");
  change(skip + "/sae_weights.safetensors", {{"W_skip", std::nullopt}});
  refused(skip, ErrorKind::bad_data, {"no tensor 'W_skip'"});
  const auto topk = copy("saelens_topk");
  replace(topk + "/cfg.json", "\"k\": 5", "\"kk\": 5");
  refused(topk, ErrorKind::bad_data, {"without its k"});
  EXPECT_EQ(load_sae(topk, {.k = 3}).k, 3);

  // The scale of activations, and that it can be given.
  const auto scaled = copy("saelens_scaled");
  fs::remove(scaled + "/activation_scaler.json");
  refused(
      scaled, ErrorKind::bad_data, {"not by how much", "--activation-scale"});
  EXPECT_NO_THROW(load_sae(scaled, {.activation_scale = 0.8f}));
  const auto llama = copy("llama_scope") + "/Llama3_1-8B-Base-L15R-8x";
  replace(llama + "/hyperparams.json", "{\"in\"", "{\"inn\"");
  refused(llama, ErrorKind::bad_data, {"average norm"});

  const auto qwen = folder_ / "layer7.sae.pt";
  fs::copy(
      fixtures / "qwen_scope/SAE-Res-Qwen3-1.7B-Base-W32K-L0_5/layer7.sae.pt",
      qwen);
  refused(qwen.string(), ErrorKind::bad_data, {"--k"});
  EXPECT_EQ(load_sae(qwen.string(), {.k = 5}).k, 5);

  // TopK and BatchTopK look alike.
  const auto dictionary = copy("dl_batchtopk") + "/trainer_0";
  fs::remove(dictionary + "/config.json");
  refused(dictionary, ErrorKind::bad_data, {"tells them apart"});
}

TEST_F(BadSae, WrongNumbers) {
  const auto wide = copy("saelens_standard");
  change(wide + "/sae_weights.safetensors", {{"b_enc", mx::zeros({31})}});
  refused(wide, ErrorKind::bad_data, {"b_enc is [31] and should be [32]"});
  const auto nan = copy("saelens_topk");
  change(
      nan + "/sae_weights.safetensors",
      {{"b_dec", mx::full({12}, NAN, mx::float32)}});
  refused(nan, ErrorKind::bad_data, {"b_dec", "NaN or Inf 12 times"});
  const auto npz = folder_ / "params.npz";
  save_npz(
      npz,
      {{"W_enc", mx::zeros({4, 8})},
       {"W_dec", mx::zeros({8, 4})},
       {"b_enc", mx::zeros({8})},
       {"b_dec", mx::full({4}, INFINITY, mx::float32)},
       {"threshold", mx::zeros({8})}});
  refused(npz.string(), ErrorKind::bad_data, {"b_dec", "NaN or Inf 4 times"});
  const auto config = copy("saelens_gated");
  replace(config + "/cfg.json", "\"d_in\": 12", "\"d_in\": 13");
  refused(config, ErrorKind::bad_data, {"d_in is 13, and W_enc has 12"});
}

TEST_F(BadSae, ConfigurationsThatAreNone) {
  const auto temporal = copy("saelens_standard");
  replace(temporal + "/cfg.json", "\"standard\"", "\"temporal\"");
  refused(temporal, ErrorKind::bad_data, {"'temporal'", "not read"});
  const auto norm = copy("saelens_topk");
  replace(norm + "/cfg.json", "\"none\"", "\"some\"");
  refused(norm, ErrorKind::bad_data, {"normalize_activations is 'some'"});
  const auto k = copy("saelens_topk_rescaled");
  replace(k + "/cfg.json", "\"k\": 5", "\"k\": 5.5");
  refused(k, ErrorKind::bad_data, {"5.5, not a whole number"});
  const auto json = copy("saelens_gated");
  std::ofstream(json + "/cfg.json") << "{\"d_in\": ";
  refused(json, ErrorKind::bad_data, {"cfg.json"});
  const auto activation = copy("sparsify_topk") + "/layers.5";
  replace(activation + "/cfg.json", "\"topk\"", "\"softmax\"");
  refused(activation, ErrorKind::bad_data, {"'softmax'"});
  const auto dictionary = copy("dl_new") + "/trainer_0";
  replace(dictionary + "/config.json", "AutoEncoderNew", "CrossCoder");
  refused(dictionary, ErrorKind::bad_data, {"'CrossCoder'"});
}

TEST_F(BadSae, Sets) {
  const auto gap = copy("circuit_tracer_clt");
  fs::remove(gap + "/W_enc_1.safetensors");
  refused(gap, ErrorKind::bad_data, {"none of N = 1"}, {.layer = 0});
  const auto lacking = copy("circuit_tracer_jump");
  fs::remove(lacking + "/layer_1.safetensors");
  refused(lacking, ErrorKind::environment, {"layer_1"}, {.layer = 1});
  refused(lacking, ErrorKind::out_of_range, {"layers 0 to 2"}, {.layer = 3});
  refused(lacking, ErrorKind::usage, {"--layer"});
  const auto yaml = copy("circuit_tracer_topk");
  for (const std::string text :
       {"transcoders:\n- {layer: 0}\n",
        "a: &b c\n",
        "x\n",
        "- a\n",
        "model_name:\n  deeper: 1\n",
        "transcoders:\n- id: x\n  layer: 7\n  filepath: y\n"}) {
    std::ofstream(yaml + "/config.yaml") << text;
    refused(yaml, ErrorKind::bad_data, {"config.yaml"}, {.layer = 0});
  }
  change(
      lacking + "/layer_0.safetensors",
      {{"activation_function.threshold", mx::full({32}, -1.0f, mx::float32)}});
  refused(lacking, ErrorKind::bad_data, {"below 0"}, {.layer = 0});
}

}  // namespace
}  // namespace mlxterp
