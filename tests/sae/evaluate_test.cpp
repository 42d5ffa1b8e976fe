// Metrics of an SAE against SAELens' formulas: tests/parity/make_sae_eval.py.

#include "mlxterp/sae/evaluate.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "mlxterp/core/error.h"
#include "mlxterp/sae/load.h"
#include "tests/cli/worded_checkpoint.h"
#include "tests/families.h"
#include "tests/sae/tiny_sae.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

const auto fixture =
    std::filesystem::path(MLXTERP_SOURCE_DIR "/tests/sae/fixtures/eval");

TEST(EvaluateSae, EqualsSaelensFormulas) {
  const auto model =
      InterpretableModel::load((test::families_root / "llama-gqa").string());
  const auto sae = load_sae(fixture.string());
  std::ifstream file(fixture / "expected.json");
  const auto expected = nlohmann::json::parse(file);
  const auto prompts = expected.at("prompts").get<Inputs::Rows>();
  size_t compared = 0;
  for (const bool first : {true, false}) {
    const auto& wanted = expected.at(first ? "all" : "behind");
    const auto it = evaluate_sae(model, sae, prompts, {.first = first});
    EXPECT_EQ(it.sites.writes, "layers.0.resid_post");
    EXPECT_EQ(it.tokens, wanted.at("tokens").get<int64_t>());
    EXPECT_EQ(it.windows, 5);
    double worst = 0;
    const auto near = [&](const char* name, double got) {
      const auto value = wanted.at(name).get<double>();
      ASSERT_TRUE(std::isfinite(got)) << name;
      const double error =
          std::abs(got - value) / std::max(1.0, std::abs(value));
      worst = std::max(worst, error);
      EXPECT_LE(error, 1e-5) << name << ": " << got << ", wanted " << value;
      ++compared;
    };
    near("explained_variance", it.explained_variance);
    near("fvu", it.fvu);
    near("mse", it.mse);
    near("cosine", it.cosine);
    near("l2_in", it.l2_in);
    near("l2_out", it.l2_out);
    near("l2_ratio", it.l2_ratio);
    near("relative_bias", it.relative_bias);
    near("l0", it.l0);
    near("l1", it.l1);
    near("ce", it.ce);
    near("ce_sae", it.ce_sae);
    near("ce_zero", it.ce_zero);
    near("kl_sae", it.kl_sae);
    near("kl_zero", it.kl_zero);
    near("ce_score", it.ce_score);
    near("kl_score", it.kl_score);
    EXPECT_EQ(it.active, wanted.at("active").get<std::vector<int64_t>>());
    EXPECT_EQ(it.dead, std::ranges::count(it.active, 0));
    EXPECT_GE(it.dead, 4);
    int64_t binned = it.dead;
    for (const auto& bin : it.density) {
      EXPECT_LT(bin.from, bin.to);
      binned += bin.features;
    }
    EXPECT_EQ(binned, sae.d_sae());
    EXPECT_EQ(it.density.back().to, 0);
    printf("largest relative error %.2g\n", worst);
  }
  EXPECT_EQ(compared, 34u);
}

TEST(EvaluateSae, OfATextIsThatOfItsWindows) {
  const testing::TempFolder folder;
  const auto model =
      InterpretableModel::load(test::worded_checkpoint(folder).string());
  std::string text = "one two three four five six seven eight nine ten\n";
  for (int i = 0; i < 3; ++i)
    text += text;
  const auto file = folder.path() / "text.txt";
  std::ofstream(file) << text;
  const auto sae = test::random_sae(0, 24, 32);
  const std::string site = "layers.1.resid_post";
  const auto it = evaluate_sae_on_text(
      model, sae, file, {.length = 16, .tokens = 64, .site = site});
  EXPECT_EQ(it.windows, 4);
  EXPECT_EQ(it.tokens, 4 * 15);
  EXPECT_EQ(it.predicted, 4 * 14);
  EXPECT_THROW(
      evaluate_sae_on_text(model, sae, file, {.length = 2, .site = site}),
      Error);
  const auto brief = folder.path() / "brief.txt";
  std::ofstream(brief) << "a";
  EXPECT_THROW(evaluate_sae_on_text(model, sae, brief, {.site = site}), Error);
  EXPECT_THROW(
      evaluate_sae(
          model, test::random_sae(0, 16, 32), "one two three", {.site = site}),
      Error);
}

// A transcoder is judged by what it predicts.
TEST(EvaluateSae, OfATranscoder) {
  const auto model = test::tiny_model();
  const std::vector<int> prompt = {5, 11, 3, 29, 7, 13, 2, 44};
  const std::string from = "layers.1.mlp.input", to = "layers.1.mlp_out";
  const auto run = model.run(prompt, {.save = {from, to}});
  auto sae = test::learnt_by_heart(
      mlx::core::squeeze(run[from], 0), mlx::core::squeeze(run[to], 0));
  sae.kind = SaeKind::transcoder;
  sae.source.site_in = from;
  sae.source.site_out = to;
  const auto it = evaluate_sae(model, sae, prompt);
  EXPECT_EQ(it.sites.reads, from);
  EXPECT_GT(it.explained_variance, 0.9);
  EXPECT_GT(it.kl_score, 0.9);
}

}  // namespace
}  // namespace mlxterp
