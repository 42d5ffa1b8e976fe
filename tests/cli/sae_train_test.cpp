// `mlxterp sae train`: killed, interrupted, without room, with other settings.

#include <fmt/format.h>
#include <signal.h>

#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "mlxterp/sae/attach.h"
#include "mlxterp/sae/load.h"
#include "mlxterp/sae/set.h"
#include "mlxterp/trace/model.h"
#include "tests/cli/program.h"
#include "tests/cli/worded_checkpoint.h"

namespace mlxterp {
namespace {

namespace fs = std::filesystem;

class SaeTrain : public test::Program {
 protected:
  void SetUp() override {
    Program::SetUp();
    // Sums in one order: a resumed run is compared bit by bit.
    ::setenv("OPENBLAS_NUM_THREADS", "1", 1);
    model = test::worded_checkpoint(place).string();
    std::string lines;
    for (int i = 0; i < 300; ++i)
      lines += nlohmann::json{{"text",
                               std::string("text ") + std::to_string(i * 7919) +
                                   " of it"}}
                   .dump() +
               "\n";
    text = place.write("text.jsonl", lines).string();
    store = (folder / "store").string();
    const auto outcome = run(
        {"collect",
         model,
         "--text",
         text,
         "--save",
         "layers.{1,2}.resid_post",
         "-o",
         store});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
  }

  using Words = std::vector<std::string>;

  static Words with(Words words, const Words& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }

  Words from_store(const fs::path& to) const {
    return {"sae",        "train",      "--store",
            store,        "--layer",    "1",
            "--k",        "4",          "--features",
            "64",         "--batch",    "64",
            "--tokens",   "12800",      "--recipe",
            "batch_topk", "--baseline", "--checkpoint",
            "0.02",       "--resume",   "-o",
            to.string()};
  }

  Words from_text(const fs::path& to) const {
    return {"sae",  "train",    model,  "--text",     text, "--layer",
            "1",    "--k",      "4",    "--features", "64", "--batch",
            "64",   "--tokens", "4096", "--length",   "16", "--checkpoint",
            "0.02", "--resume", "-o",   to.string()};
  }

  Words across_layers(const fs::path& to, const std::string& recipe) const {
    return {"sae",  "train",        model,  "--text",     text, "--layers",
            "0..2", "--k",          "8",    "--features", "32", "--batch",
            "64",   "--tokens",     "1024", "--length",   "16", "--recipe",
            recipe, "--checkpoint", "0.02", "--resume",   "-o", to.string()};
  }

  static std::map<std::string, std::string> files(const fs::path& at) {
    std::map<std::string, std::string> out;
    for (const auto& entry : fs::recursive_directory_iterator(at))
      if (entry.is_regular_file() && entry.path().filename() != ".lock")
        out[fs::relative(entry.path(), at).string()] = read(entry.path());
    return out;
  }

  void kill_often(
      const Words& whole_words,
      const Words& words,
      const fs::path& whole,
      const fs::path& to,
      int kills) {
    using Clock = std::chrono::steady_clock;
    const auto begin = Clock::now();
    const auto outcome = run(whole_words);
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    const auto took =
        std::chrono::duration<double>(Clock::now() - begin).count();
    const auto expected = files(whole);
    const bool one = expected.contains("sae_weights.safetensors");
    ASSERT_TRUE(expected.contains(one ? "cfg.json" : "config.yaml"));
    std::mt19937 random(7);
    int killed = 0, midway = 0, stores = 0;
    while (killed < kills || stores == 0) {
      fs::remove_all(to);
      for (int here = 0; here < 100; ++here) {
        const auto child = start(words);
        if (killed < kills) {
          // Every other one has a checkpoint, however fast the machine is.
          const bool late = killed % 2 == 1;
          const auto deadline = Clock::now() + std::chrono::seconds(60);
          while (late && !fs::exists(to / "trainer_state.safetensors") &&
                 Clock::now() < deadline)
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
          std::this_thread::sleep_for(std::chrono::duration<double>(
              (late ? 0.1 : 1.0) * took * static_cast<double>(random() % 1000) /
              1000));
          ::kill(child, SIGKILL);
        }
        const int code = wait(child);
        if (code == 0) break;
        ASSERT_EQ(code, 137);
        ++killed;
        const bool state = fs::exists(to / "trainer_state.safetensors");
        midway += state;
        // A checkpoint is an SAE.
        if (state && one) {
          EXPECT_EQ(load_sae(to.string()).d_sae(), 64);
        } else if (state) {
          EXPECT_EQ(SaeSet::open(to.string()).layer(1).d_sae(), 32);
        }
      }
      EXPECT_EQ(run(words).code, 0);
      EXPECT_EQ(files(to), expected);
      ++stores;
    }
    std::printf("%d kills, %d of them midway\n", killed, midway);
    EXPECT_GT(midway, kills / 4);
  }

  testing::TempFolder place;
  std::string model, text, store;
};

TEST_F(SaeTrain, KilledAtAnyPointGoesOnToTheSameBytes) {
  const auto whole = folder / "whole", to = folder / "killed";
  kill_often(from_store(whole), from_store(to), whole, to, 12);
}

TEST_F(SaeTrain, AResumedRunAddsUpByAsManyThreads) {
  const auto whole = folder / "whole", to = folder / "to";
  ASSERT_EQ(run(from_store(whole)).code, 0);
  const auto child = start(from_store(to));
  using Clock = std::chrono::steady_clock;
  const auto deadline = Clock::now() + std::chrono::seconds(60);
  while (!fs::exists(to / "trainer_state.safetensors") &&
         Clock::now() < deadline)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  ::kill(child, SIGKILL);
  wait(child);
  // By itself it would take all the cores there are.
  ::unsetenv("OPENBLAS_NUM_THREADS");
  const auto outcome = run(from_store(to));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto expected = files(whole), made = files(to);
  ASSERT_EQ(made.size(), expected.size());
  for (const auto& [name, bytes] : expected)
    EXPECT_TRUE(made.at(name) == bytes) << name;
}

TEST_F(SaeTrain, KilledWhileReadingATextGoesOnToTheSameBytes) {
  const auto whole = folder / "whole", to = folder / "killed";
  kill_often(from_text(whole), from_text(to), whole, to, 8);
}

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
  refused({"--layers", "0..2", "--baseline"}, "a cross-layer transcoder");
  auto words = across_layers(to, "topk");
  const auto outcome = run(words);
  EXPECT_EQ(outcome.code, 2);
  EXPECT_NE(outcome.err.find("not by topk"), std::string::npos) << outcome.err;
}

TEST_F(SaeTrain, SaysWhatItDid) {
  const auto to = folder / "json";
  auto words = from_store(to);
  const auto outcome = run(with(words, {"--json"}));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto json = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(json["steps"], 200);
  EXPECT_EQ(json["tokens"], 12800);
  EXPECT_EQ(json["site"], "layers.1.resid_post");
  EXPECT_EQ(json["recipe"], "batch_topk");
  EXPECT_GT(json["trained"]["explained_variance"], 0.3);
  EXPECT_GT(json["baseline"]["explained_variance"], 0.3);
  const auto sae = load_sae(to.string());
  EXPECT_EQ(sae.source.site_in, "layers.1.resid_post");
  EXPECT_EQ(sae.activation, SaeActivation::jump_relu);
  EXPECT_EQ(load_sae((to / "baseline").string()).k, 4);
  const auto again = run(words);
  EXPECT_EQ(again.code, 0);
  EXPECT_NE(again.err.find("was complete before"), std::string::npos);
  EXPECT_NE(again.out.find("explained variance"), std::string::npos);
}

TEST_F(SaeTrain, ATranscoderReadsOneSiteAndPredictsAnother) {
  const auto to = folder / "transcoder";
  const auto outcome = run(
      {"sae",
       "train",
       "--store",
       store,
       "--site",
       "layers.1.resid_post",
       "--site-out",
       "layers.2.resid_post",
       "--skip",
       "--recipe",
       "relu_l1",
       "--sparsity",
       "0.1",
       "--features",
       "64",
       "--batch",
       "64",
       "-o",
       to.string()});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto sae = load_sae(to.string());
  EXPECT_EQ(sae.kind, SaeKind::transcoder);
  EXPECT_TRUE(sae.W_skip.has_value());
  EXPECT_EQ(sae.source.site_out, "layers.2.resid_post");
}

TEST_F(SaeTrain, RefusesWhatCannotBe) {
  const auto to = folder / "refused";
  const auto refused = [&](const Words& words, const std::string& what) {
    const auto outcome = run(words);
    EXPECT_EQ(outcome.code, 2) << what << outcome.err;
    EXPECT_NE(outcome.err.find(what), std::string::npos) << outcome.err;
  };
  auto words = from_store(to);
  ASSERT_EQ(run(words).code, 0);
  // Another site, width or number of features than it began with.
  auto other = words;
  other[5] = "2";
  refused(other, "site \"layers.1.resid_post\", asked for");
  other = words;
  other[9] = "65";
  refused(other, "options.features 64, asked for 65");
  other = words;
  other.erase(std::find(other.begin(), other.end(), "--resume"));
  refused(other, "holds a training");
  // A text that is too short.
  const auto little = place.write("little.txt", "text 1").string();
  auto brief = from_text(folder / "brief");
  brief[4] = little;
  refused(brief, "give more text");
  EXPECT_FALSE(fs::exists(folder / "brief")) << "a folder of nothing is left";
  refused({"sae", "train", "-o", to.string()}, "give one of the two");
  refused(
      {"sae", "train", model, "--text", text, "--layer", "1", "-o", "x"},
      "--tokens");
  refused(
      {"sae",
       "train",
       model,
       "--text",
       text,
       "--layer",
       "9",
       "--tokens",
       "100",
       "-o",
       "x"},
      "layers.9.resid_post");
  other = from_store(folder / "k");
  other[7] = "65";
  refused(other, "k is 65 of 64");
  EXPECT_FALSE(fs::exists(folder / "k"));
}

TEST_F(SaeTrain, WithoutRoomItSaysSoAndGoesOnLater) {
  const auto to = folder / "full";
  std::string command;
  for (const auto& word : from_store(to))
    command += ' ' + test::quoted(word);
  const auto outcome = shell("ulimit -f 8; " + binary() + command);
  EXPECT_EQ(outcome.code, 4) << outcome.err;
  EXPECT_NE(outcome.err.find("resuming goes on"), std::string::npos)
      << outcome.err;
  const auto rest = run(from_store(to));
  EXPECT_EQ(rest.code, 0) << rest.err;
  const auto whole = folder / "whole";
  EXPECT_EQ(run(from_store(whole)).code, 0);
  EXPECT_EQ(files(to), files(whole));
}

TEST_F(SaeTrain, CtrlCLeavesACheckpoint) {
  const auto to = folder / "stopped";
  auto words = from_store(to);
  words[13] = "4000000";
  const auto child = start(words);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(120);
  while (!fs::exists(to / "trainer_state.safetensors") &&
         std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  ::kill(child, SIGINT);
  EXPECT_EQ(wait(child), 130);
  EXPECT_EQ(load_sae(to.string()).d_sae(), 64);
}

}  // namespace
}  // namespace mlxterp
