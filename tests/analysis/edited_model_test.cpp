// Edits that stand and modules that are attached: every analysis of such a
// handle equals the same edits made in each plain pass.

#include <gtest/gtest.h>

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "mlx/ops.h"
#include "mlxterp/analysis/ablate.h"
#include "mlxterp/analysis/attribute.h"
#include "mlxterp/analysis/causal_trace.h"
#include "mlxterp/analysis/heads.h"
#include "mlxterp/analysis/lens.h"
#include "mlxterp/analysis/logit_attribution.h"
#include "mlxterp/analysis/patch.h"
#include "mlxterp/analysis/path_patch.h"
#include "mlxterp/core/error.h"
#include "mlxterp/nn/linear.h"
#include "tests/compare.h"
#include "tests/families.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;

const std::vector<int> clean = {5, 11, 3, 29, 7, 13, 2};
const std::vector<int> corrupt = {5, 11, 3, 30, 7, 14, 2};

// Looks at the whole sequence, so that every position depends on later ones.
mx::array mixed(const mx::array& x) {
  return mx::add(
      mx::multiply(x, mx::array(0.75f, x.dtype())),
      mx::multiply(mx::mean(x, 1, true), mx::array(0.25f, x.dtype())));
}

void same(
    const mx::array& got,
    const mx::array& wanted,
    double tolerance,
    const std::string& what) {
  test::expect_close(got, wanted, tolerance, wanted.size(), what);
}

std::vector<float> ramp(int n) {
  std::vector<float> out;
  for (int i = 0; i < n; ++i)
    out.push_back(0.3f * std::sin(static_cast<float>(i)));
  return out;
}

// The memories behind the third position, where it is among those seen.
mx::array third_forgotten(const mx::array& states) {
  const auto at = mx::reshape(mx::arange(states.shape(1)), {1, -1, 1, 1, 1});
  return mx::where(mx::equal(at, mx::array(2)), mx::zeros_like(states), states);
}

struct Kind {
  const char* name;
  std::vector<Edit> edits;
};

// What a value, a position or a sequence decides, in every part of a model.
std::vector<Kind> kinds(const InterpretableModel& model) {
  const int d = model.decoder().config().d_model;
  const mx::array vector(ramp(d).data(), {d});
  // In the first layer that has attention, and the last.
  std::vector<int> attending;
  for (int i = 0; i < model.decoder().config().n_layers; ++i)
    if (model.decoder().layers[static_cast<size_t>(i)]->attention())
      attending.push_back(i);
  const auto in = [](int layer, const char* site) {
    return fmt::format("layers.{}.attn.{}", layer, site);
  };
  const bool attends = !attending.empty();
  const int first = attends ? attending.front() : 0,
            last = attends ? attending.back() : 0;
  std::vector<Kind> all = {
      {"values",
       {{"layers.0.resid_pre", add_vector(vector)},
        {"layers.*.mlp_out", scale(0.5f)},
        {in(first, "z"), on_heads({0}, zero_out())},
        {"layers.1.resid_post", scale(1.25f)}}},
      {"positions",
       {{"embed", at_positions({2}, scale(0.5f))},
        {in(first, "v"), at_positions({-1, 1}, scale(2.0f))},
        {"layers.1.resid_pre", at_positions({-2}, add_vector(vector))},
        {in(last, "rot_q"), at_positions({4}, zero_out())}}},
      {"sequences",
       {{"layers.0.attn_out", mixed}, {"layers.1.mlp_out", mixed}}},
      {"patterns",
       {{in(first, "pattern"),
         on_heads({0}, at_positions({-1, 3}, scale(0.5f)))},
        {in(last, "scores"), scale(0.5f)}}},
      {"head",
       {{"ln_final", at_positions({-1}, scale(1.5f))},
        {"logits", on_neurons({4}, scale(2.0f))}}},
      {"head of sequences", {{"ln_final", mixed}}},
      {"noise",
       {{"layers.1.resid_post", noise(0.3f, 5)},
        {"layers.0.attn_out", at_positions({2, -1}, noise(0.3f, 6))}}},
  };
  if (model.sites().contains("layers.*.conv.B"))
    all.push_back(
        {"convolutions",
         {{"layers.*.conv.B", at_positions({2, -1}, scale(2.0f))},
          {"layers.*.conv.conv.input", at_positions({3}, zero_out())}}});
  if (model.sites().contains("layers.*.delta.q"))
    all.push_back(
        {"recurrences",
         {{"layers.*.delta.k", on_heads({0}, at_positions({2}, scale(-2.0f)))},
          {"layers.*.delta.g", at_positions({3}, scale(3.0f))},
          {"layers.*.delta.z", at_positions({-1}, scale(2.0f))}}});
  if (model.sites().contains("layers.*.delta.q"))
    all.push_back({"memories", {{"layers.*.delta.state", third_forgotten}}});
  // Layers that are a mixer alone have fewer sites.
  for (auto& [name, edits] : all)
    std::erase_if(edits, [&](const Edit& edit) {
      return !model.sites().contains(edit.site);
    });
  std::erase_if(all, [](const Kind& kind) { return kind.edits.empty(); });
  return all;
}

std::string variant_name(const testing::TestParamInfo<std::string>& tested) {
  auto name = tested.param;
  std::ranges::replace_if(
      name, [](char c) { return !std::isalnum(c); }, '_');
  return name;
}

class EditedModel : public testing::TestWithParam<std::string> {
 protected:
  void expect_near(
      const std::vector<float>& got,
      const std::vector<float>& wanted,
      const std::string& what) {
    ASSERT_EQ(got.size(), wanted.size()) << what;
    ASSERT_FALSE(got.empty()) << what;
    float largest = 1e-3f, error = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      largest = std::max(largest, std::abs(wanted[i]));
      // A NaN fails: it is no number below a bound.
      ASSERT_TRUE(std::isfinite(got[i]) && std::isfinite(wanted[i])) << what;
      error = std::max(error, std::abs(got[i] - wanted[i]));
    }
    compared_ += got.size();
    worst_ = std::max(worst_, error / largest);
    // Small effects are differences of logits, which float32 rounds.
    constexpr float of_logits = 4 * std::numeric_limits<float>::epsilon();
    EXPECT_LE(error, 1e-4f * largest + of_logits) << what;
  }

  const InterpretableModel model_ =
      InterpretableModel::load((test::families_root / GetParam()).string());
  size_t compared_ = 0;
  float worst_ = 0;
};

TEST_P(EditedModel, EveryAnalysisEqualsEditsInEachPass) {
  for (const auto& [name, edits] : kinds(model_)) {
    SCOPED_TRACE(name);
    const auto edited = model_.with(edits);
    const auto wanted = [&](const Inputs& prompt, std::vector<Edit> more = {}) {
      auto all = edits;
      all.insert(all.end(), more.begin(), more.end());
      return model_.run(prompt, {.save = {"logits"}, .edits = all})["logits"];
    };
    const auto plain = wanted(clean);
    const auto logits = edited.run(clean, {.save = {"logits"}})["logits"];
    same(logits, plain, 1e-5, "run of " + GetParam());
    EXPECT_FALSE(mx::allclose(plain, model_(clean), 1e-4, 1e-4).item<bool>())
        << "the edits changed nothing";

    // Patching: the plain sweep of the edited handle runs edited passes.
    for (const auto* site :
         {"resid_pre", "resid_post", "z", "attn_out", "pattern", "mlp_out"}) {
      const std::string_view of_attention = "z pattern";
      const auto path = fmt::format(
          "layers.*.{}{}",
          of_attention.find(site) == std::string_view::npos ? "" : "attn.",
          site);
      if (!model_.sites().contains(path)) continue;
      PatchOptions options{
          .clean = clean,
          .corrupt = corrupt,
          .site = site,
          .by = {Axis::layer, Axis::position},
          .metric = logit_diff(4, 9)};
      const auto fast = patch(edited, options);
      options.one_pass_per_cell = true;
      expect_near(fast.metric, patch(edited, options).metric, site);
      // And one cell by hand, with the edits in the plain model's own passes.
      const auto corner = fast.metric.back();
      if (std::string_view(site) == "resid_pre") {
        const auto last = model_.decoder().config().n_layers - 1;
        const auto where = fmt::format("layers.{}.resid_pre", last);
        const auto source =
            model_.run(clean, {.save = {where}, .edits = edits})[where];
        const auto by_hand = wanted(
            corrupt,
            {{where, at_positions({-1}, [&](const mx::array&) {
                return mx::slice(source, {0, 6, 0}, {1, 7, source.shape(2)});
              })}});
        expect_near(
            {corner},
            {measure(model_, options.metric, by_hand)},
            "a cell by hand");
      }
    }

    // Ablation to zero of each head, by hand.
    const bool attends = model_.sites().contains("layers.*.attn.z");
    std::vector<float> ablated, each;
    if (attends)
      ablated = ablate(
                    edited,
                    {.prompts = clean,
                     .by = {Axis::layer, Axis::head},
                     .metric = logit(4),
                     .ablation = Ablation::zero})
                    .metric;
    const auto& config = model_.decoder().config();
    for (int i = 0; i < config.n_layers; ++i)
      for (int h = 0; h < config.n_heads; ++h) {
        if (!model_.decoder().layers[static_cast<size_t>(i)]->attention())
          continue;
        each.push_back(measure(
            model_,
            logit(4),
            wanted(
                clean,
                {{fmt::format("layers.{}.attn.z", i),
                  on_heads({h}, zero_out())}})));
      }
    if (attends) expect_near(ablated, each, "ablate");

    // Attribution: a small step along the difference, in edited passes.
    const auto attributed = attribute(
        edited,
        {.clean = clean,
         .corrupt = corrupt,
         .sites = {"resid_pre"},
         .by = {Axis::layer},
         .metric = logit(4)});
    EXPECT_NEAR(
        attributed[0].sweep.clean,
        measure(model_, logit(4), plain),
        1e-4 * (1 + std::abs(attributed[0].sweep.clean)));

    // The lens' last row is what the edited model says.
    const auto lens = logit_lens(edited, clean, {.top_k = 1});
    std::vector<float> said, best;
    for (size_t p = 0; p < lens.columns(); ++p) {
      said.push_back(lens.top_logits[lens.cell(lens.rows() - 1, p)]);
      best.push_back(mx::max(mx::take(
                                 mx::squeeze(mx::astype(plain, mx::float32), 0),
                                 static_cast<int>(p),
                                 0))
                         .item<float>());
    }
    expect_near(said, best, "lens");

    // Parts of the logit add up to the edited one.
    const auto parts =
        logit_attribution(edited, {.prompts = clean, .metric = logit(4)});
    expect_near({parts.model}, {measure(model_, logit(4), plain)}, "dla");
    if (parts.softcap == 0)
      expect_near({parts.sum}, {parts.model}, "sum of parts");

    if (!attends) continue;  // nothing to send
    const auto path = path_patch(
        edited,
        {.clean = clean, .corrupt = corrupt, .metric = logit_diff(4, 9)});
    expect_near(
        {path.clean}, {measure(model_, logit_diff(4, 9), plain)}, "path_patch");
  }
  EXPECT_GT(compared_, 100u);
  printf(
      "%-24s %zu values, largest error %.2g\n",
      GetParam().c_str(),
      compared_,
      static_cast<double>(worst_));
}

INSTANTIATE_TEST_SUITE_P(
    All, EditedModel, testing::ValuesIn(test::first_variants()), variant_name);

// A user's own: two linear maps with a value between them.
struct Code : nn::Module {
  nn::Linear encode, decode;
  const Slot acts;
  explicit Code(int d, int hidden)
      : encode(d, hidden),
        decode(hidden, d),
        acts(site("acts", {.width = hidden})) {
    add("encode", encode);
    add("decode", decode);
    alias("recon", "output");
  }
  mx::array forward(const mx::array& x, Pass& pass) const override {
    const auto a = mx::maximum(encode(x, pass), mx::array(0.0f));
    return decode(tap(pass, acts, a), pass);
  }
};

TEST(Attach, AModuleIsReadReplacesAndKeepsItsError) {
  const auto plain = test::tiny_model();
  const int d = plain.decoder().config().d_model;
  const auto code = std::make_shared<Code>(d, 24);
  using Mode = AttachOptions::Mode;
  const std::string at = "layers.1.resid_post";
  const auto value = plain.run(clean, {.save = {at}})[at];
  Pass pass;
  const auto made = (*code)(value, pass);

  const auto read = plain.attach(at, code, {.name = "sae"});
  const auto seen = read.run(
      clean, {.save = {at + ".sae.acts", at + ".sae.recon", at, "logits"}});
  same(seen[at], value, 1e-6, "read leaves the value");
  same(seen[at + ".sae.recon"], made, 1e-5, "recon");
  EXPECT_EQ(seen[at + ".sae.acts"].shape(), (mx::Shape{1, 7, 24}));
  // TransformerLens' name of the site leads to the module, too.
  EXPECT_TRUE(read.sites().contains("blocks.1.hook_resid_post.sae.acts"));

  const auto replaced =
      plain.attach(at, code, {.mode = Mode::replace, .name = "sae"});
  same(
      replaced.run(clean, {.save = {"logits"}})["logits"],
      plain.run(
          clean,
          {.save = {"logits"}, .edits = {{at, replace_with(made)}}})["logits"],
      1e-5,
      "replace");

  const auto exact =
      plain.attach(at, code, {.mode = Mode::replace_with_error, .name = "sae"});
  same(exact(clean), plain(clean), 1e-5, "with its error nothing changes");
  const auto cut = exact.run(
      clean,
      {.save = {"logits", at + ".sae.error"},
       .edits = {{at + ".sae.acts", on_neurons({3}, zero_out())}}});
  same(cut[at + ".sae.error"], mx::subtract(value, made), 1e-5, "error");

  // The plain handle knows nothing of it, and stays usable.
  EXPECT_FALSE(plain.sites().contains(at + ".sae.acts"));
  EXPECT_EQ(plain.run(clean, {.save = {at}}).size(), 1u);
  EXPECT_THROW((void)exact.attach(at, code, {.name = "sae"}), Error);  // taken
  const auto twice = exact.attach("layers.0.mlp_out", code, {.name = "other"});
  EXPECT_TRUE(twice.sites().contains("layers.0.mlp_out.other.acts"));
  EXPECT_TRUE(twice.sites().contains(at + ".sae.acts"));
  // A module's path means its output, and leads to what is attached there.
  const auto whole = plain.attach("layers.1", code, {.name = "sae"});
  EXPECT_EQ(
      whole.sites().find("layers.1.sae.acts"),
      whole.sites().find(at + ".sae.acts"));
  for (const auto* name : {"", "a.b", "a b", "\u00e9"})
    EXPECT_THROW((void)plain.attach(at, code, {.name = name}), Error) << name;
}

// A value of another shape would broadcast.
TEST(Attach, WhatTakesTheSitesPlaceHasItsShape) {
  struct Mean : nn::Module {
    mx::array forward(const mx::array& x, Pass&) const override {
      return mx::mean(x, 1, true);
    }
  };
  using Mode = AttachOptions::Mode;
  const auto plain = test::tiny_model();
  for (const auto mode :
       {Mode::read, Mode::replace, Mode::replace_with_error}) {
    const auto model =
        plain.attach("layers.1", std::make_shared<Mean>(), {.mode = mode});
    if (mode == Mode::read)
      EXPECT_NO_THROW(model(clean).eval());
    else
      EXPECT_THROW(model(clean).eval(), Error);
  }
}

// A part with fewer positions than the prompts: an error, and no write beyond.
TEST(Attach, WhatPoolsPositionsIsNotSwept) {
  struct Pool : nn::Module {
    Slot pooled = site("pooled", {.width = 24});
    mx::array forward(const mx::array& x, Pass& pass) const override {
      tap(pass, pooled, mx::mean(x, 1, true));
      return x;
    }
  };
  const auto plain = test::tiny_model();
  for (const bool by_position : {true, false}) {
    const auto model = plain.attach(
        "layers.1.resid_post",
        std::make_shared<Pool>(),
        {.name = "sae", .by_position = by_position});
    for (const bool slow : {false, true}) {
      PatchOptions options{
          .clean = clean,
          .corrupt = corrupt,
          .site = "resid_post.sae.pooled",
          .by = {Axis::position},
          .metric = logit_diff(4, 9)};
      options.one_pass_per_cell = slow;
      EXPECT_THROW(patch(model, options), Error) << by_position << slow;
    }
  }
}

TEST(Attach, FeaturesAreSweptAsEverySiteIs) {
  const auto plain = test::tiny_model();
  const int d = plain.decoder().config().d_model;
  for (const bool by_position : {true, false}) {
    const auto model = plain.attach(
        "layers.1.resid_post",
        std::make_shared<Code>(d, 6),
        {.mode = AttachOptions::Mode::replace_with_error,
         .name = "sae",
         .by_position = by_position});
    // A sweep of the model's own sites, through the module.
    for (const auto* site : {"resid_pre", "z", "mlp_out"}) {
      PatchOptions options{
          .clean = clean,
          .corrupt = corrupt,
          .site = site,
          .metric = logit_diff(4, 9)};
      const auto fast = patch(model, options);
      options.one_pass_per_cell = true;
      const auto slow = patch(model, options);
      ASSERT_EQ(fast.metric.size(), slow.metric.size());
      ASSERT_GT(fast.metric.size(), 10u);
      for (size_t i = 0; i < fast.metric.size(); ++i)
        EXPECT_NEAR(fast.metric[i], slow.metric[i], 1e-4) << site << " " << i;
    }
    // And of the module's: one cell a feature and position.
    PatchOptions options{
        .clean = clean,
        .corrupt = corrupt,
        .site = "resid_post.sae.acts",
        .by = {Axis::neuron, Axis::position},
        .metric = logit_diff(4, 9)};
    const auto fast = patch(model, options);
    options.one_pass_per_cell = true;
    const auto slow = patch(model, options);
    ASSERT_EQ(fast.metric.size(), 42u);
    for (size_t i = 0; i < fast.metric.size(); ++i)
      EXPECT_NEAR(fast.metric[i], slow.metric[i], 1e-4) << "feature " << i;
  }
}

TEST(Attach, AConstructorThatThrowsLeavesNothingNumbered) {
  struct Wrong : nn::Module {
    nn::Linear part{2, 2};
    bool right = false;
    explicit Wrong(bool alias_of_nothing) {
      add("part", part);
      if (alias_of_nothing) alias("x", "nowhere");
    }
    mx::array forward(const mx::array& x, Pass& pass) const override {
      return part(x, pass);
    }
  };
  const auto wrong = std::make_shared<Wrong>(true);
  EXPECT_THROW((InterpretableModel(wrong)), Error);
  EXPECT_EQ(wrong->input_site(), -1);
  EXPECT_EQ(wrong->part.input_site(), -1);
}

TEST(EditedModel, HandlesAddUpAndStayApart) {
  const auto model = test::tiny_model();
  const auto once = model.with({{"layers.0.mlp_out", scale(0.5f)}});
  const auto twice = once.with({{"layers.0.mlp_out", scale(0.5f)}});
  const auto quarter = model.run(
      clean,
      {.save = {"logits"}, .edits = {{"layers.0.mlp_out", scale(0.25f)}}});
  same(twice(clean), quarter["logits"], 1e-5, "twice a half");
  EXPECT_THROW((void)model.with({{"layers.77", zero_out()}}), Error);
  // What stands acts before the pass' own edits and is seen by what is saved.
  const auto both = once.run(
      clean,
      {.save = {"layers.0.mlp_out"},
       .edits = {{"layers.0.mlp_out", replace_with(3.0f)}}});
  EXPECT_EQ(mx::max(both["layers.0.mlp_out"]).item<float>(), 3.0f);
  // A NaN names its site.
  const auto broken = model.with(
      {{"layers.1.mlp_out",
        replace_with(std::numeric_limits<float>::quiet_NaN())}});
  try {
    broken.run(clean, {.save = {"logits"}});
    ADD_FAILURE() << "a NaN passed";
  } catch (const Error& error) {
    EXPECT_NE(
        std::string(error.what()).find("layers.1.mlp_out"), std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace mlxterp
