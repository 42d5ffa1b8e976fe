// `mlxterp sae train`: killed, interrupted, without room, with other settings.

#include "tests/cli/sae_train.h"

namespace mlxterp {
namespace {

namespace fs = std::filesystem;
using test::SaeTrain;

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
  refused(with(words, {"--bfloat16"}), "options.bfloat16");
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
