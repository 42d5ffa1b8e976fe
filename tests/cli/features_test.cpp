// mlxterp features, and --sae on other verbs.

#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/cli/program.h"
#include "tests/cli/worded_checkpoint.h"

namespace mlxterp {
namespace {

using Json = nlohmann::json;

class Features : public test::Program {
 protected:
  void SetUp() override {
    Program::SetUp();
    model = test::worded_checkpoint(place).string();
  }

  Json answer(std::vector<std::string> arguments) const {
    arguments.emplace_back("--json");
    const auto outcome = run(arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return outcome.code == 0 ? Json::parse(outcome.out) : Json();
  }

  testing::TempFolder place;
  std::string model;
  const std::string sae = MLXTERP_SOURCE_DIR "/tests/sae/fixtures/eval";
  const std::string prompt = "one two three";
  const std::string acts = "layers.0.resid_post.sae.acts";
};

TEST_F(Features, AreShownInEightyColumns) {
  const auto text = (place / "text.txt").string();
  std::ofstream(text) << "The first line of it\nthe second, and a third\n";
  const auto outcome = run(
      {"features",
       model,
       prompt,
       "--sae",
       sae,
       "--no-sae-check",
       "--text",
       text,
       "--length",
       "16"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  for (const auto* word :
       {"activation",
        "promotes",
        "52 features of layers.0.resid_post",
        "explain",
        "feature ",
        "context",
        "["})
    EXPECT_NE(outcome.out.find(word), std::string::npos) << word << outcome.out;
  std::istringstream lines(outcome.out);
  for (std::string line; std::getline(lines, line);)
    // Labels of single bytes are of a column each.
    EXPECT_LE(
        std::ranges::count_if(line, [](char c) { return (c & 0xC0) != 0x80; }),
        80)
        << line;
}

TEST_F(Features, EditedOnesActOnAllThatFollows) {
  const auto zeroed = acts + "=on_neurons([0..51], zero_out)";
  const auto plain = answer({"trace", model, prompt});
  const auto with = answer(
      {"trace", model, prompt, "--sae", sae, "--no-sae-check", "--save", acts});
  EXPECT_EQ(with["saved"][0]["site"], acts);
  EXPECT_EQ(with["saved"][0]["shape"][2], 52);
  EXPECT_EQ(with["next"], plain["next"]);  // its error keeps the value
  const auto edited = answer(
      {"trace",
       model,
       prompt,
       "--sae",
       sae,
       "--no-sae-check",
       "--edit",
       zeroed});
  EXPECT_EQ(edited["next"], plain["next"]);
  EXPECT_NE(edited["next_edited"], plain["next"]);
  const auto features = answer(
      {"features",
       model,
       prompt,
       "--sae",
       sae,
       "--no-sae-check",
       "--edit",
       acts + "=on_neurons([0..51], replace_with(0))"});
  for (const auto& position : features["positions"])
    EXPECT_EQ(position["active"], 0);
  // By patching, and in text that is generated.
  const auto patched = answer(
      {"patch",
       model,
       "--clean-ids",
       "3,4,5,6",
       "--corrupt-ids",
       "3,9,5,6",
       "--metric",
       "logit(id:5)",
       "--sae",
       sae,
       "--no-sae-check",
       "--site",
       "resid_post.sae.acts",
       "--layers",
       "0",
       "--by",
       "neuron"});
  EXPECT_EQ(patched["cells"], 52);
  EXPECT_EQ(
      run({"generate",
           model,
           prompt,
           "--max-tokens",
           "2",
           "--sae",
           sae,
           "--no-sae-check",
           "--edit",
           zeroed})
          .code,
      0);
  // At another site, twice.
  const auto moved = "layers.1.resid_post=" + sae;
  const auto two = answer(
      {"trace",
       model,
       prompt,
       "--sae",
       moved,
       "--sae",
       moved,
       "--no-sae-check",
       "--save",
       "layers.1.resid_post.{sae,sae2}.acts"});
  EXPECT_EQ(two["saved"].size(), 2u);
}

TEST_F(Features, WhatDoesNotFitIsSaid) {
  const auto fails = [&](int code,
                         const std::string& words,
                         const std::vector<std::string>& arguments) {
    const auto outcome = run(arguments);
    EXPECT_EQ(outcome.code, code) << outcome.err;
    EXPECT_NE(outcome.err.find(words), std::string::npos) << words << "\n"
                                                          << outcome.err;
  };
  fails(2, "no --sae", {"features", model, prompt});
  fails(
      2,
      "one SAE at a time",
      {"features", model, prompt, "--sae", sae, "--sae", sae});
  fails(2, "SITE=FILE", {"features", model, prompt, "--sae", "=x"});
  fails(
      2,
      "read, replace, replace_with_error",
      {"trace", model, prompt, "--sae", sae, "--sae-mode", "add"});
  fails(
      2, "has 48", {"trace", model, prompt, "--sae", "layers.1.attn.z=" + sae});
  fails(
      2,
      "layers.9",
      {"trace", model, prompt, "--sae", "layers.9.resid_post=" + sae});
  fails(4, "", {"trace", model, prompt, "--sae", (place / "none").string()});
  fails(
      2,
      "out of range",
      {"features",
       model,
       prompt,
       "--sae",
       sae,
       "--no-sae-check",
       "--feature",
       "52"});
  // Trained on another model: its file does not know of this one.
  const auto elsewhere = "layers.2.mlp_out=" + sae;
  const auto checked = run({"trace", model, prompt, "--sae", elsewhere});
  if (checked.code != 0) {
    EXPECT_EQ(checked.code, 2);
    EXPECT_NE(checked.err.find("explains"), std::string::npos) << checked.err;
  }
}

}  // namespace
}  // namespace mlxterp
