// The demo model against transformers, in float32, on the same dequantised
// weights (tests/parity/make_smollm2_fixture.py).

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "mlx/ops.h"
#include "mlxterp/core/paths.h"
#include "mlxterp/io/safetensors.h"
#include "mlxterp/trace/model.h"
#include "tests/compare.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;

class Parity : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    ASSERT_TRUE(std::filesystem::exists(demo_model_path()))
        << "the demo model is missing; run `make demo`";
    model = new InterpretableModel(
        InterpretableModel::load("demo", {.dtype = mx::float32}));
    fixture = new Safetensors(Safetensors::open(
        MLXTERP_SOURCE_DIR "/tests/parity/smollm2.safetensors"));
  }

  static mx::array expected(const std::string& name) {
    for (const auto& tensor : fixture->tensors())
      if (tensor.name == name) return fixture->read(tensor);
    ADD_FAILURE() << "the fixture has no " << name;
    return mx::array(0);
  }

  static std::vector<int> ids(const std::string& name) {
    const auto array = expected(name);
    return {array.data<int>(), array.data<int>() + array.size()};
  }

  // Within 1e-4 of the site's largest magnitude.
  static void check(
      const ActivationCache& run,
      const std::string& site,
      const std::string& name) {
    const auto reference = expected(name);
    test::expect_close(
        mx::reshape(run[site], reference.shape()),
        reference,
        1e-4 * test::max_magnitude(reference),
        reference.size(),
        site);
  }

  static InterpretableModel* model;
  static Safetensors* fixture;
};

InterpretableModel* Parity::model = nullptr;
Safetensors* Parity::fixture = nullptr;

TEST_F(Parity, TokenIds) {
  EXPECT_EQ(
      model->tokenizer().encode("The Eiffel Tower is located in the city of"),
      ids("ids"));
  EXPECT_EQ(ids("ids").size(), 10u);
  EXPECT_EQ(
      model->tokenizer().encode(
          "When Mary and John went to the store, John gave a drink to"),
      ids("ioi.clean.ids"));
}

TEST_F(Parity, EveryResidualAndTheSitesBetween) {
  const auto run = model->run(
      ids("ids"),
      {.save = {
           "layers.*.resid_pre",
           "layers.29.resid_post",
           "ln_final",
           "layers.{0,15,29}.attn_out",
           "layers.{0,15,29}.mlp_out",
           "layers.{0,15,29}.attn.{q,k,v}",
           "layers.15.mlp.post",
           "layers.{0,9,29}.attn.pattern"}});
  for (int i = 0; i < 30; ++i)
    check(
        run, fmt::format("layers.{}.resid_pre", i), fmt::format("resid.{}", i));
  check(run, "layers.29.resid_post", "resid.30");
  check(run, "ln_final", "ln_final");
  for (const int i : {0, 15, 29})
    for (const char* site : {"attn_out", "mlp_out"})
      check(
          run,
          fmt::format("layers.{}.{}", i, site),
          fmt::format("layers.{}.{}", i, site));
  for (const int i : {0, 15, 29})
    for (const char* site : {"q", "k", "v"})
      check(
          run,
          fmt::format("layers.{}.attn.{}", i, site),
          fmt::format("layers.{}.{}", i, site));
  for (const int i : {0, 9, 29})
    check(
        run,
        fmt::format("layers.{}.attn.pattern", i),
        fmt::format("layers.{}.pattern", i));
  check(run, "layers.15.mlp.post", "layers.15.mlp_post");
}

TEST_F(Parity, Logits) {
  const auto run = model->run(ids("ids"), {.save = {"logits"}});
  const auto last = mx::take(run["logits"], 9, 1);
  test::expect_close(
      mx::flatten(last), expected("logits"), 1e-3, 49152, "last logits");
  const auto top = ids("top5.ids");
  const float oracle[] = {12.8419f, 9.6438f, 9.6156f, 9.5936f, 9.5582f};
  const char* words[] = {" Paris", " Mont", " Mar", " T", " La"};
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(model->tokenizer().single_token(words[i]), top[i]);
    EXPECT_NEAR(mx::take(last, top[i], 1).item<float>(), oracle[i], 1e-3);
  }
  EXPECT_EQ(mx::argmax(last).item<uint32_t>(), static_cast<uint32_t>(top[0]));
}

TEST_F(Parity, IndirectObject) {
  const auto difference = [&](const std::string& name) {
    const auto prompt = ids(name);
    EXPECT_EQ(prompt.size(), 14u);
    const auto run = model->run(prompt, {.save = {"logits"}});
    const auto last = mx::take(run["logits"], 13, 1);
    return mx::take(last, 5099, 1).item<float>() -
           mx::take(last, 2322, 1).item<float>();
  };
  const float clean = difference("ioi.clean.ids");
  const float corrupt = difference("ioi.corrupt.ids");
  std::printf("Mary minus John: %.4f clean, %.4f corrupt\n", clean, corrupt);
  EXPECT_NEAR(clean, 6.1196f, 1e-3);
  EXPECT_NEAR(corrupt, -5.4853f, 1e-3);
  EXPECT_NEAR(clean, expected("ioi.clean.logit_diff").data<float>()[0], 1e-3);
  EXPECT_NEAR(
      corrupt, expected("ioi.corrupt.logit_diff").data<float>()[0], 1e-3);
}

// On real weights, what algebra_test.cpp holds on random ones.
TEST_F(Parity, Algebra) {
  const auto prompt = ids("ids");
  auto plain = (*model)(prompt);
  plain.eval();
  const auto run = model->run(
      prompt,
      {.save = {
           "logits",
           "embed",
           "layers.*.attn_out",
           "layers.*.mlp_out",
           "layers.29.resid_post",
           "layers.*.attn.pattern"}});
  test::expect_repeated(run["logits"], plain, "traced logits");

  auto sum = run["embed"];
  for (int i = 0; i < 30; ++i)
    sum = sum + run[fmt::format("layers.{}.attn_out", i)] +
          run[fmt::format("layers.{}.mlp_out", i)];
  const auto& last = run["layers.29.resid_post"];
  test::expect_close(
      sum, last, 1e-5 * test::max_magnitude(last), 5760, "sum of components");

  for (int i = 0; i < 30; ++i)
    EXPECT_LE(
        test::max_difference(
            mx::sum(run[fmt::format("layers.{}.attn.pattern", i)], -1),
            mx::ones({1, 9, 10})),
        1e-5);

  std::vector<Edit> own;
  for (int i = 0; i < 30; ++i) {
    const auto site = fmt::format("layers.{}.attn.pattern", i);
    own.push_back({site, replace_with(run[site])});
  }
  const auto patched = model->run(prompt, {.save = {"logits"}, .edits = own});
  test::expect_close(
      patched["logits"],
      plain,
      1e-4,
      491520,
      "patterns patched with themselves");

  const auto zeroed = model->run(
      prompt,
      {.save = {"logits"}, .edits = {{"layers.4.mlp_out", zero_out()}}});
  const auto scaled = model->run(
      prompt, {.save = {"logits"}, .edits = {{"layers.4.mlp_out", scale(0)}}});
  test::expect_repeated(zeroed["logits"], scaled["logits"], "scale(0)");
  EXPECT_GT(test::max_difference(zeroed["logits"], plain), 1e-2);

  const auto resid = model->run(prompt, {.save = {"layers.7"}})["layers.7"];
  const auto same = model->run(
      prompt,
      {.save = {"logits"}, .edits = {{"layers.7", replace_with(resid)}}});
  test::expect_repeated(
      same["logits"], plain, "a residual patched with itself");
}

TEST_F(Parity, PaddedBatch) {
  const std::vector<std::string> prompts = {
      "The Eiffel Tower is located in the city of",
      "When Mary and John went to the store, John gave a drink to",
      "Hello world",
      "Hello"};
  const auto batch = model->run(prompts, {.save = {"logits"}});
  for (size_t row = 0; row < prompts.size(); ++row) {
    const auto run = model->run(prompts[row], {.save = {"logits"}});
    const auto& single = run["logits"];
    const int n = batch.lengths()[row], r = static_cast<int>(row);
    // A lone first token carries a residual of 22,000, whose own rounding in
    // float32 is 1e-4 of a logit; so it is held to its magnitude, the others
    // to an absolute 1e-4.
    const double bound = n == 1 ? 1e-4 * test::max_magnitude(single) : 1e-4;
    test::expect_close(
        mx::slice(batch["logits"], {r, 0, 0}, {r + 1, n, 49152}),
        single,
        bound,
        static_cast<size_t>(n) * 49152,
        prompts[row]);
  }
}

}  // namespace
}  // namespace mlxterp
