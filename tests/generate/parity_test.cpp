// What is generated is what transformers generates (make_generation.py).

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "mlxterp/generate/generate.h"
#include "tests/families.h"

namespace mlxterp::test {
namespace {

using nlohmann::json;

json fixture() {
  std::ifstream file(MLXTERP_SOURCE_DIR "/tests/parity/generation.json");
  return json::parse(file);
}

struct Count {
  size_t texts = 0, tokens = 0, ties = 0;
};

// Equal up to the first token whose second likeliest was as likely.
void compare(
    const std::vector<int>& got,
    const json& wanted,
    const std::string& what,
    Count& count) {
  const auto ids = wanted["ids"].get<std::vector<int>>();
  const auto ties = wanted["ties"].get<std::vector<size_t>>();
  ASSERT_EQ(got.size(), ids.size()) << what;
  ++count.texts;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (got[i] != ids[i] && std::ranges::count(ties, i)) {
      ++count.ties;
      return;
    }
    ASSERT_EQ(got[i], ids[i]) << what << ", token " << i;
    ++count.tokens;
  }
}

TEST(GenerateParity, EveryFamily) {
  const auto all = fixture()["families"];
  Count count;
  for (const auto& [variant, wanted] : all.items()) {
    const auto model = load_variant(variant, mlx::core::float32);
    GenerateOptions options;
    // A short context ended some of transformers'.
    options.max_tokens = static_cast<int>(wanted["ids"].size());
    options.ends = false;
    const auto made =
        generate(model, wanted["prompt"].get<std::vector<int>>(), options);
    compare(made.texts[0].ids(), wanted, variant, count);
  }
  EXPECT_EQ(count.texts, all.size());
  EXPECT_GT(count.texts, 130u);
  fmt::print(
      "{} texts, {} tokens equal, {} left at a tie\n",
      count.texts,
      count.tokens,
      count.ties);
  EXPECT_LT(count.ties, 10u);
}

TEST(GenerateParity, SmolLM2) {
  const auto model = InterpretableModel::load("demo");
  const auto all = fixture()["smollm2"];
  ASSERT_EQ(all.size(), 20u);
  Inputs::Rows prompts;
  for (const auto& one : all) {
    prompts.push_back(one["prompt"].get<std::vector<int>>());
    EXPECT_EQ(
        model.tokenizer().encode(one["text"].get<std::string>()),
        prompts.back());
  }
  GenerateOptions options;
  options.max_tokens = 64;
  options.ends = false;
  const auto made = generate(model, prompts, options);
  Count count;
  for (size_t i = 0; i < all.size(); ++i)
    compare(made.texts[i].ids(), all[i], all[i]["text"], count);
  fmt::print(
      "{} texts, {} tokens equal, {} left at a tie\n",
      count.texts,
      count.tokens,
      count.ties);
  EXPECT_EQ(count.texts, 20u);
  EXPECT_LE(count.ties, 2u);
}

}  // namespace
}  // namespace mlxterp::test
