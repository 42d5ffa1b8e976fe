// SAEs of a hub: only what is read of them is downloaded.

#include <gtest/gtest.h>
#include <stdlib.h>

#include <fstream>
#include <set>

#include "mlxterp/core/error.h"
#include "mlxterp/sae/load.h"
#include "mlxterp/sae/set.h"
#include "tests/io/hub_server.h"
#include "tests/temp_folder.h"

namespace mlxterp {
namespace {

namespace fs = std::filesystem;
using testing::TempFolder;

const fs::path fixtures = MLXTERP_SOURCE_DIR "/tests/sae/fixtures";

class SaeHub : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NE(server_.hub, 0) << "hub_server.py does not run";
    for (const char* name :
         {"HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN", "HF_TOKEN_PATH"})
      ::unsetenv(name);
    ::setenv("HF_HOME", (folder_ / "home").c_str(), 1);
    ::setenv(
        "HF_ENDPOINT",
        ("http://127.0.0.1:" + std::to_string(server_.hub)).c_str(),
        1);
    ::setenv("no_proxy", "*", 1);
  }

  void put(const fs::path& from, const std::string& repository) {
    const auto to = folder_ / ("repos/" + repository);
    fs::create_directories(to.parent_path());
    fs::copy(from, to, fs::copy_options::recursive);
  }
  void put_text(const std::string& name) {
    folder_.write("repos/" + name, "nobody asked for this");
  }
  std::set<std::string> asked() const {
    std::set<std::string> out;
    std::ifstream file(folder_ / "log.jsonl");
    for (std::string line; std::getline(file, line);)
      if (const auto at = line.find("/resolve/"); at != line.npos)
        out.insert(
            line.substr(at + 50, line.find_first_of("\"?", at) - at - 50));
    return out;
  }
  void forget() { fs::remove(folder_ / "log.jsonl"); }

  TempFolder folder_;
  testing::HubServer server_{folder_.path()};
};

TEST_F(SaeHub, OneFolderOfMany) {
  const std::string repository = "google/gemma-scope-2b-pt-res";
  put(fixtures / "gemma_scope/gemma-scope-2b-pt-res", repository);
  put_text(repository + "/layer_21/width_16k/average_l0_70/params.npz");
  put_text(repository + "/README.md");
  const auto id = repository + "/layer_20/width_16k/average_l0_71";
  const auto sae = load_sae(id);
  EXPECT_EQ(sae.source.model, "google/gemma-2-2b");
  EXPECT_EQ(sae.source.site_in, "layers.20.resid_post");
  EXPECT_EQ(sae.source.l0, 71);
  const std::set<std::string> one = {
      "layer_20/width_16k/average_l0_71/params.npz"};
  EXPECT_EQ(asked(), one);
  forget();
  EXPECT_EQ(load_sae(id + "/params.npz").d_sae(), 32);
  EXPECT_EQ(asked(), std::set<std::string>()) << "it was there already";

  // A folder above it, or none: what there is is named.
  for (const auto& [wrong, says] :
       std::vector<std::pair<std::string, std::string>>{
           {repository, "layer_20, layer_21"},
           {repository + "/layer_20", "width_16k"},
           {repository + "/layer_9", "layer_20, layer_21"}}) {
    try {
      (void)load_sae(wrong);
      FAIL() << wrong;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(says), std::string::npos)
          << error.what();
    }
  }
  server_.stop();
  ::setenv("HF_HUB_OFFLINE", "1", 1);
  EXPECT_EQ(load_sae(id).d_sae(), 32);
  EXPECT_THROW(load_sae(repository + "/layer_21"), Error);
}

TEST_F(SaeHub, FilesAndWhatBelongsToThem) {
  put(fixtures / "llama_scope", "fnlp/scope");
  const std::string inside = "Llama3_1-8B-Base-L15R-8x";
  EXPECT_EQ(load_sae("fnlp/scope/" + inside).source.layer, 15);
  const std::set<std::string> both = {
      inside + "/hyperparams.json", inside + "/checkpoints/final.safetensors"};
  EXPECT_EQ(asked(), both);
  put(fixtures / "qwen_scope/SAE-Res-Qwen3-1.7B-Base-W32K-L0_5",
      "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_5");
  const auto sae =
      load_sae("Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_5/layer7.sae.pt");
  EXPECT_EQ(sae.k, 5);
  EXPECT_EQ(sae.source.model, "Qwen/Qwen3-1.7B-Base");
}

TEST_F(SaeHub, ASetALayerAtATime) {
  put(fixtures / "circuit_tracer_clt", "some/clt");
  const auto set = SaeSet::open("some/clt");
  EXPECT_EQ(set.layers(), 3);
  EXPECT_EQ(asked(), std::set<std::string>({"config.yaml"}));
  EXPECT_EQ(set.layer(1).targets(), 2);
  const std::set<std::string> one = {
      "config.yaml", "W_enc_1.safetensors", "W_dec_1.safetensors"};
  EXPECT_EQ(asked(), one);
  // Files of another repository.
  put(fixtures / "circuit_tracer_jump", "some/layers");
  folder_.write(
      "repos/some/set/config.yaml",
      "model_name: m\nfeature_input_hook: mlp.hook_in\n"
      "feature_output_hook: mlp.hook_out\ntranscoders:\n"
      "- id: a\n  layer: 1\n"
      "  filepath: \"hf://some/layers/layer_1.safetensors?revision=main\"\n"
      "- id: b\n  layer: 0\n  filepath: "
      "hf://some/layers/layer_0.safetensors\n");
  forget();
  const auto sae = load_sae("some/set", {.layer = 1});
  EXPECT_EQ(sae.source.layer, 1);
  EXPECT_EQ(sae.source.model, "m");
  EXPECT_TRUE(asked().contains("layer_1.safetensors"));
  EXPECT_FALSE(asked().contains("layer_0.safetensors"));
}

}  // namespace
}  // namespace mlxterp
