// `mlxterp sae train --layers`: transcoders across layers and crosscoders.

#include <fmt/format.h>

#include "mlxterp/sae/attach.h"
#include "mlxterp/trace/model.h"
#include "tests/cli/sae_train.h"

namespace mlxterp {
namespace {

namespace fs = std::filesystem;
using test::SaeTrain;

TEST_F(SaeTrain, ACrossLayerTranscoderGoesOnToTheSameBytes) {
  for (const char* recipe : {"jump_relu", "batch_topk"}) {
    const auto whole = folder / "whole", to = folder / "killed";
    fs::remove_all(whole);
    kill_often(
        across_layers(whole, recipe), across_layers(to, recipe), whole, to, 4);
  }
}

TEST_F(SaeTrain, ACrossLayerTranscoderIsReadAndAttached) {
  const auto to = folder / "clt";
  auto words = across_layers(to, "jump_relu");
  words[14] = "6400";
  words[20] = "30";
  words = with(words, {"--rate", "0.005", "--sparsity", "0.2"});
  const auto outcome = run(with(words, {"--json"}));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto json = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(json["layers"], nlohmann::json({0, 1, 2}));
  EXPECT_EQ(json["site"], "resid_mid");
  EXPECT_EQ(json["site_out"], "mlp_out");
  EXPECT_EQ(json["steps"], 100);
  ASSERT_EQ(json["trained"]["layers"].size(), 3u);
  EXPECT_GT(json["trained"]["explained_variance"], 0.3);
  double l0 = 0;
  for (const auto& layer : json["trained"]["layers"])
    l0 += layer["l0"].get<double>();
  EXPECT_NEAR(json["trained"]["l0"].get<double>(), l0, 1e-6 * l0);
  const auto info = run({"sae", "info", to.string(), "--json"});
  ASSERT_EQ(info.code, 0) << info.err;
  EXPECT_NE(info.out.find("cross_layer"), std::string::npos);
  // From the files, what the trainer measured.
  const auto model_here = InterpretableModel::load(model);
  const auto set = SaeSet::open(to.string());
  ASSERT_EQ(set.layers(), 3);
  for (int layer = 0; layer < 3; ++layer) {
    const auto sae = set.layer(layer);
    EXPECT_EQ(sae.targets(), 3 - layer);
    const auto site = fmt::format("layers.{}.resid_mid", layer);
    EXPECT_EQ(sae.source.site_in, site);
    const auto attached = attach_sae(model_here, sae);
    EXPECT_NO_THROW((void)attached.sites().find(site + ".sae.acts"));
  }
  const auto again = run(words);
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_NE(again.out.find("layers 0 to 2"), std::string::npos) << again.out;
}

TEST_F(SaeTrain, ACrossLayerTranscoderWithoutRoomGoesOnLater) {
  const auto to = folder / "full";
  std::string command;
  for (const auto& word : across_layers(to, "jump_relu"))
    command += ' ' + test::quoted(word);
  const auto outcome = shell("ulimit -f 8; " + binary() + command);
  EXPECT_EQ(outcome.code, 4) << outcome.err;
  EXPECT_NE(outcome.err.find("resuming goes on"), std::string::npos)
      << outcome.err;
  EXPECT_FALSE(fs::exists(to / "config.yaml"));
  EXPECT_EQ(run(across_layers(to, "jump_relu")).code, 0);
  EXPECT_FALSE(fs::exists(to / "next"));
  const auto whole = folder / "whole";
  EXPECT_EQ(run(across_layers(whole, "jump_relu")).code, 0);
  const auto expected = files(whole), made = files(to);
  for (const auto& [name, bytes] : made)
    EXPECT_TRUE(expected.contains(name)) << name;
  for (const auto& [name, bytes] : expected)
    EXPECT_TRUE(made.at(name) == bytes) << name;
}

TEST_F(SaeTrain, ACrossLayerTranscoderOfAStore) {
  const auto to = folder / "clt";
  const auto from = (folder / "sites").string();
  const auto collected = run(
      {"collect",
       model,
       "--text",
       text,
       "--save",
       "layers.*.{mlp.input,mlp_out}",
       "-o",
       from});
  ASSERT_EQ(collected.code, 0) << collected.err;
  const Words words = {
      "sae",
      "train",
      "--store",
      from,
      "--layers",
      "0..2",
      "--site",
      "mlp.input",
      "--features",
      "32",
      "--batch",
      "64",
      "--tokens",
      "640",
      "-o",
      to.string()};
  const auto outcome = run(words);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto sae = SaeSet::open(to.string()).layer(2);
  EXPECT_EQ(sae.source.site_in, "layers.2.mlp.input");
  EXPECT_EQ(sae.source.hook_in, "blocks.2.mlp.hook_in");
  EXPECT_EQ(sae.source.site_out, "layers.2.mlp_out");
  auto other = words;
  other[7] = "resid_mid";
  other.back() = (folder / "other").string();
  const auto refused = run(other);
  EXPECT_EQ(refused.code, 2);
  EXPECT_NE(refused.err.find("layers.0.resid_mid"), std::string::npos)
      << refused.err;
}

TEST_F(SaeTrain, ACrossLayerTranscoderRefusesWhatCannotBe) {
  const auto to = folder / "clt";
  const auto refused = [&](const Words& more, const std::string& what) {
    auto words = across_layers(to, "jump_relu");
    words.erase(words.begin() + 5, words.begin() + 7);
    const auto outcome = run(with(words, more));
    EXPECT_EQ(outcome.code, 2) << what << outcome.err;
    EXPECT_NE(outcome.err.find(what), std::string::npos) << outcome.err;
    EXPECT_FALSE(fs::exists(to));
  };
  refused({"--layers", "0"}, "give two or more");
  refused({"--layers", "1..2"}, "give two or more, 0, 1, 2");
  refused({"--layers", "0..99"}, "layers.");
  refused(
      {"--layers", "0..2", "--site", "layers.1.resid_mid"},
      "no site within a layer");
  refused({"--layers", "0..2", "--site", "nowhere"}, "layers.0.nowhere");
  refused({"--layers", "0..2", "--layer", "1"}, "give one of the two");
  refused({"--layers", "0..2", "--preset", "saelens"}, "CLT-Forge");
  refused({"--layers", "0..2", "--skip"}, "has no skip");
  refused({"--layers", "0..2", "--bfloat16"}, "trained in float32");
  refused({"--layers", "0..2", "--baseline"}, "a cross-layer transcoder");
  auto words = across_layers(to, "topk");
  const auto outcome = run(words);
  EXPECT_EQ(outcome.code, 2);
  EXPECT_NE(outcome.err.find("not by topk"), std::string::npos) << outcome.err;
}

TEST_F(SaeTrain, ACrosscoderReadsSeveralLayers) {
  // Of the store's two layers; killed, and on to the same bytes.
  const auto words = [&](const fs::path& to) {
    return Words{"sae",        "train",        "--store",      store,
                 "--layers",   "1,2",          "--crosscoder", "--k",
                 "4",          "--features",   "64",           "--batch",
                 "64",         "--tokens",     "6400",         "--recipe",
                 "batch_topk", "--checkpoint", "0.02",         "--resume",
                 "-o",         to.string()};
  };
  const auto whole = folder / "whole", to = folder / "killed";
  kill_often(words(whole), words(to), whole, to, 3);
  const auto outcome = run(with(words(to), {"--json"}));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto json = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(json["layers"], nlohmann::json({1, 2}));
  EXPECT_EQ(json["site_out"], nullptr);
  ASSERT_EQ(json["trained"]["layers"].size(), 2u);
  for (const auto& layer : json["trained"]["layers"])
    EXPECT_GT(layer["explained_variance"], 0.2);
  const auto sae = load_sae(to.string());
  EXPECT_EQ(sae.d_in(), json["d_in"].get<int>());
  EXPECT_EQ(sae.source.site_in, "layers.{1,2}.resid_post");
  auto other = words(folder / "other");
  for (const auto& [layers, say] :
       {std::pair{"1", "give two or more"},
        {"2,1", "that ascend"},
        {"1,1", "that ascend"},
        {"0,2", "layers.0.resid_post"}}) {
    other[5] = layers;
    const auto it = run(other);
    EXPECT_EQ(it.code, 2) << layers;
    EXPECT_NE(it.err.find(say), std::string::npos) << it.err;
  }
  other[5] = "1,2";
  for (const auto& [more, say] :
       {std::pair{Words{"--site-out", "mlp_out"}, "no transcoder"},
        {Words{"--transcoder"}, "a transcoder needs"},
        {Words{"--preset", "openai"}, "SAELens'"}}) {
    const auto it = run(with(other, more));
    EXPECT_EQ(it.code, 2) << say;
    EXPECT_NE(it.err.find(say), std::string::npos) << it.err;
  }
}

}  // namespace
}  // namespace mlxterp
