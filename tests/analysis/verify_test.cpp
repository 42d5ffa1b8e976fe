// Every family holds what verify() checks, in every precision; models broken on
// purpose do not, and the check that says so has the right name.

#include "mlxterp/analysis/verify.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlxterp/core/error.h"
#include "tests/compare.h"
#include "tests/families.h"
#include "tests/tiny_checkpoint.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;

constexpr size_t n_checks = 10;

class FamilyVerify : public ::testing::TestWithParam<std::string> {};

TEST_P(FamilyVerify, Holds) {
  const auto& variant = GetParam();
  const auto ids = test::integers(test::expected(variant).at("ids"));
  for (const auto& [name, dtype] :
       {std::pair{"float32", mx::float32},
        std::pair{"float16", mx::float16},
        std::pair{"bfloat16", mx::bfloat16}}) {
    const auto model = test::load_variant(variant, dtype);
    for (const bool own : {false, true}) {
      const auto checks = own ? verify(model, {.prompt = ids}) : verify(model);
      // Four are of attention.
      const bool attends = model.sites().contains("layers.*.attn.z");
      EXPECT_EQ(checks.size(), attends ? n_checks : n_checks - 4);
      for (const auto& check : checks) {
        EXPECT_TRUE(check.passed())
            << variant << " " << name << ": " << failures({check});
        EXPECT_GT(check.compared, 0u);
        std::printf(
            "%-24s %-8s %-18s %6zu values, %.1e of %.1e at %s\n",
            variant.c_str(),
            name,
            check.name.c_str(),
            check.compared,
            check.error,
            check.bound,
            check.where.c_str());
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    All,
    FamilyVerify,
    ::testing::ValuesIn(test::supported_variants()),
    [](const auto& variant) { return test::test_name(variant.param); });

std::map<std::string, Check> failed(
    const InterpretableModel& model, const VerifyOptions& options = {}) {
  std::map<std::string, Check> out;
  for (const auto& check : verify(model, options))
    if (!check.passed()) out.emplace(check.name, check);
  return out;
}

TEST(Verify, EditsThatBreakASiteAreNamed) {
  auto config = test::tiny_config();
  config.attn_out_bias = true;
  const auto model = test::tiny_model(config);
  EXPECT_TRUE(failed(model).empty());
  const auto broken = [&](const std::string& site, const Intervention& by) {
    return failed(model, {.edits = {{site, by}}});
  };
  const auto sums = broken("layers.1.resid_post", scale(1.01f));
  ASSERT_TRUE(sums.contains("component sums"));
  EXPECT_EQ(sums.at("component sums").where, "layers.2.resid_post");
  const auto rows = broken("layers.1.attn.pattern", scale(0.99f));
  ASSERT_TRUE(rows.contains("pattern rows"));
  EXPECT_EQ(rows.at("pattern rows").where, "layers.1.attn.pattern");
  EXPECT_FALSE(rows.contains("masked sources"));
  const auto ahead = broken("layers.2.attn.pattern", [](const mx::array& x) {
    return mx::full(x.shape(), 1.0f / static_cast<float>(x.shape(3)));
  });
  ASSERT_TRUE(ahead.contains("masked sources"));
  EXPECT_EQ(ahead.at("masked sources").where, "layers.2.attn.pattern");
  EXPECT_FALSE(ahead.contains("pattern rows"));
  const auto heads = broken("layers.0.attn.output", scale(1.01f));
  EXPECT_EQ(heads.at("heads through W_O").where, "layers.0.attn_out");
}

// Each position sees the one behind it.
struct Acausal : Decoder {
  using Decoder::Decoder;
  mx::array forward(const mx::array& ids, Pass& pass) const override {
    return Decoder::forward(mx::roll(ids, -1, 1), pass);
  }
};

// Says something else each time.
struct Fickle : Decoder {
  using Decoder::Decoder;
  mx::array forward(const mx::array& ids, Pass& pass) const override {
    return mx::multiply(
        Decoder::forward(ids, pass), mx::array(1.0f + 1e-4f * float(++calls)));
  }
  mutable int calls = 0;
};

TEST(Verify, ModelsThatLookAheadOrChangeAreFound) {
  mx::random::seed(7);  // the same weights in every process
  const InterpretableModel acausal(
      std::make_shared<Acausal>(test::tiny_config()));
  const auto ahead = failed(acausal);
  EXPECT_EQ(ahead.size(), 2u);
  EXPECT_TRUE(ahead.contains("batch = single"));
  ASSERT_TRUE(ahead.contains("cache = one pass"));
  EXPECT_EQ(ahead.at("cache = one pass").where, "layers.0.resid_pre");

  const InterpretableModel fickle(
      std::make_shared<Fickle>(test::tiny_config()));
  const auto changes = failed(fickle);
  EXPECT_EQ(changes.size(), 1u);
  EXPECT_TRUE(changes.contains("empty trace"));
}

TEST(Verify, AWeightThatChangesBetweenPassesIsFound) {
  const auto decoder = test::tiny_decoder();
  const InterpretableModel model(decoder);
  auto& weight = test::attention(*decoder, 1).v_proj->weight.dense();
  const auto changes = failed(
      model,
      {.progress = [&, original = weight](std::string_view, double done) {
        weight = done > 0.85 ? original * mx::array(1.001f) : original;
      }});
  ASSERT_EQ(changes.size(), 1u);
  const auto& check = changes.at("cache = one pass");
  EXPECT_TRUE(check.where.starts_with("layers.1.")) << check.where;
  EXPECT_NEAR(check.error, 1e-3, 1e-3);
}

TEST(Verify, NaNIsAFailureAndEndsIt) {
  const auto decoder = test::tiny_decoder();
  const InterpretableModel model(decoder);
  auto& weight = test::attention(*decoder, 1).o_proj.weight.dense();
  weight = mx::full(weight.shape(), NAN);
  const auto checks = verify(model);
  ASSERT_EQ(checks.size(), 1u);
  EXPECT_FALSE(checks[0].passed());
  EXPECT_TRUE(std::isnan(checks[0].error));
  EXPECT_EQ(checks[0].where, "layers.1.resid_post");
}

TEST(Verify, OneTokenIsEnough) {
  EXPECT_TRUE(failed(test::tiny_model(), {.prompt = {{5}}}).empty());
  EXPECT_THROW(verify(test::tiny_model(), {.prompt = {{97}}}), Error);
  EXPECT_THROW(
      verify(test::tiny_model(), {.prompt = std::vector<int>{}}), Error);
}

TEST(Verify, IsRequired) {
  // Not the tiny checkpoint: its products cancel, so that their roundings are
  // large beside them.
  EXPECT_NO_THROW(require_verified(
      InterpretableModel::load((test::families_root / "llama-gqa").string())));
  const testing::TempFolder place;
  testing::TinyCheckpoint tiny;
  for (const auto* part : {"v_proj", "o_proj"})  // their product overflows
    tiny.fill(
        std::string("model.layers.1.self_attn.") + part + ".weight", 3e38f);
  const auto path = tiny.write(place).string();
  const auto broken = InterpretableModel::load(path);
  try {
    require_verified(broken);
    ADD_FAILURE() << "it passed";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_data);
    EXPECT_NE(
        std::string(error.what()).find("'finite values'"), std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace mlxterp
