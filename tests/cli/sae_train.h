// tests/cli/sae_train.h: what is trained from a small text, and killed.

#pragma once

#include <signal.h>

#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "mlxterp/sae/load.h"
#include "mlxterp/sae/set.h"
#include "tests/cli/program.h"
#include "tests/cli/worded_checkpoint.h"

namespace mlxterp::test {

namespace fs = std::filesystem;

class SaeTrain : public Program {
 protected:
  void SetUp() override {
    Program::SetUp();
    // Sums in one order: a resumed run is compared bit by bit.
    ::setenv("OPENBLAS_NUM_THREADS", "1", 1);
    model = worded_checkpoint(place).string();
    text = worded_texts(place, 300).string();
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

}  // namespace mlxterp::test
