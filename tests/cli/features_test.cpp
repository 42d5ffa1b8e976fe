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

TEST_F(Features, AStoreSaysWhichSaesWereAttached) {
  const auto text = (place / "text.txt").string();
  std::ofstream(text) << "The first line of it\nthe second, and a third\n";
  const auto collect = [&](const std::vector<std::string>& more) {
    std::vector<std::string> all = {
        "collect",
        model,
        "--text",
        text,
        "--save",
        "layers.1.resid_post",
        "--resume",
        "-o",
        (folder / "store").string()};
    all.insert(all.end(), more.begin(), more.end());
    return run(all);
  };
  const std::vector<std::string> attached = {
      "--sae", sae, "--no-sae-check", "--sae-mode", "replace"};
  ASSERT_EQ(collect(attached).code, 0);
  const auto again = collect(attached);
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_NE(again.err.find("was complete before"), std::string::npos);
  for (const auto& other :
       {std::vector<std::string>{}, {"--sae", sae, "--no-sae-check"}}) {
    const auto outcome = collect(other);
    EXPECT_EQ(outcome.code, 2);
    EXPECT_NE(outcome.err.find("saes"), std::string::npos) << outcome.err;
  }
}

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

TEST_F(Features, HaveDashboards) {
  const auto text = (place / "text.txt").string();
  std::ofstream(text) << "The first line of it\nthe second, and a third\n";
  const auto page = (place / "page.html").string();
  const auto pages = (place / "pages").string();
  const auto exports = (place / "exports").string();
  const std::vector<std::string> asked = {
      "sae",
      "dashboards",
      model,
      "--sae",
      sae,
      "--no-sae-check",
      "--text",
      text,
      "--length",
      "16",
      "--features",
      "3,47,11"};
  const auto with = [&](const std::vector<std::string>& more) {
    auto all = asked;
    all.insert(all.end(), more.begin(), more.end());
    return run(all);
  };
  const auto outcome = with(
      {"-o", page, "--neuronpedia", exports, "--neuronpedia-model", "tiny"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  for (const auto* word : {"density", "promotes", "3 of 52 features"})
    EXPECT_NE(outcome.out.find(word), std::string::npos) << outcome.out;
  std::istringstream lines(outcome.out);
  for (std::string line; std::getline(lines, line);)
    EXPECT_LE(line.size(), 80u) << line;
  const auto checked = [&](const std::string& file) {
    const auto found = shell(
        "python3 " +
        test::quoted(MLXTERP_SOURCE_DIR "/tests/view/check_page.py") + " " +
        test::quoted(file) + " dashboards");
    EXPECT_EQ(found.code, 0) << file << ": " << found.out << found.err;
  };
  checked(page);
  const auto source =
      std::filesystem::path(exports) / "tiny" / "0-mlxterp-res-52";
  for (const auto* file :
       {"release.jsonl",
        "model.jsonl",
        "sourceset.jsonl",
        "source.jsonl",
        "features/batch-0.jsonl.gz",
        "activations/batch-0.jsonl.gz",
        "saedashboard/batch-0.json"})
    EXPECT_TRUE(std::filesystem::exists(source / file)) << file;
  ASSERT_EQ(with({"-o", pages}).code, 0);
  for (const auto* file : {"index.html", "feature-3.html", "feature-47.html"})
    checked(pages + "/" + file);

  const auto fails = [&](int code,
                         const std::string& words,
                         const std::vector<std::string>& more) {
    const auto failed = with(more);
    EXPECT_EQ(failed.code, code) << failed.err;
    EXPECT_NE(failed.err.find(words), std::string::npos) << failed.err;
  };
  fails(2, "exists", {"-o", page});
  fails(2, "holds something", {"-o", pages});
  fails(2, "is a file", {"-o", text});
  fails(2, "exists", {"--neuronpedia", exports, "--neuronpedia-model", "tiny"});
  fails(
      2,
      "no model id",
      {"--neuronpedia", exports, "--neuronpedia-model", "a/b"});
  fails(2, "bins", {"--bins", "0"});
  EXPECT_EQ(with({"-o", pages, "--force"}).code, 0);
  const auto other = [&](const std::string& features) {
    return run(
        {"sae",
         "dashboards",
         model,
         "--sae",
         sae,
         "--no-sae-check",
         "--text",
         text,
         "--features",
         features});
  };
  EXPECT_EQ(other("52").code, 2);
  EXPECT_NE(other("52").err.find("52 features"), std::string::npos);
  EXPECT_EQ(other("random:0").code, 2);
  std::ofstream(text, std::ios::trunc) << "";
  fails(2, "is empty", {});
}

}  // namespace
}  // namespace mlxterp
