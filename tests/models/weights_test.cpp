// Weights by name, in every family: what they make of a site's value is the
// next site's.

#include "mlxterp/models/weights.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "mlx/ops.h"
#include "mlxterp/core/error.h"
#include "tests/compare.h"
#include "tests/families.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;
using test::expected;
using test::integers;
using test::load_variant;
using test::max_difference;
using test::max_magnitude;
using test::supported_variants;

// Compares sites of one pass with what weights make of others.
class Check {
 public:
  explicit Check(const std::string& variant)
      : variant_(variant),
        model(load_variant(variant, mx::float32)),
        ids(integers(expected(variant).at("ids"))) {}

  mx::array site(const std::string& name) const {
    return model.run(ids, {.save = {name}})[name];
  }
  bool has(const std::string& name) const {
    try {
      return model.sites().find(name) >= 0;
    } catch (const Error&) {
      return false;
    }
  }
  mx::array w(std::string_view name, int layer, bool folded = false) const {
    WeightPart part;
    part.layer = layer;
    part.folded = folded;
    return weight(model.decoder(), name, part);
  }
  void same(
      const mx::array& y, const mx::array& site, const std::string& what) {
    const double bound = 2e-5 * (1 + max_magnitude(site));
    EXPECT_LE(max_difference(y, site), bound) << variant_ << ": " << what;
    values += site.size();
  }

 private:
  std::string variant_;

 public:
  InterpretableModel model;
  std::vector<int> ids;
  size_t values = 0;
};

// [batch, pos, d] through [head, d, e], [batch, pos, head, e].
mx::array by_heads(const mx::array& x, const mx::array& w, const mx::array& b) {
  const auto y = mx::matmul(mx::expand_dims(x, 1), w);  // [batch, head, pos, e]
  return mx::add(mx::transpose(y, {0, 2, 1, 3}), b);
}

void check_attention(Check& check, int i, bool folded) {
  const auto here = fmt::format("layers.{}.", i);
  const auto& config = check.model.decoder().config();
  const auto& layer = *check.model.decoder().layers[static_cast<size_t>(i)];
  if (!layer.attention() || (folded && !layer.ln1)) return;
  const auto x = check.site(here + (folded ? "ln1.normalized" : "attn.input"));
  const auto& attn = layer.attention()->config();
  const int group = config.n_heads / attn.n_kv_heads;
  for (const auto* name : {"Q", "K", "V"}) {
    const bool latent =
        config.latent && (name[0] != 'Q' || config.latent->q_rank > 0);
    if (latent || (name[0] != 'Q' && !attn.own_kv)) {
      EXPECT_THROW((void)check.w(fmt::format("W_{}", name), i, folded), Error);
      continue;
    }
    const auto lower = std::string(1, static_cast<char>(name[0] - 'A' + 'a'));
    auto of_site = check.site(here + "attn." + lower);
    if (name[0] != 'Q') of_site = mx::repeat(of_site, group, 2);
    const auto w = check.w(fmt::format("W_{}", name), i, folded);
    EXPECT_EQ(
        w.shape(), (mx::Shape{config.n_heads, config.d_model, attn.d_head}));
    auto made = by_heads(x, w, check.w(fmt::format("b_{}", name), i, folded));
    if (const float most = config.clip_qkv; most > 0 && lower == "v")
      made = mx::clip(made, mx::array(-most), mx::array(most));
    check.same(made, of_site, here + lower);
    // One head is that head of all.
    for (int head = 0; head < config.n_heads; ++head) {
      WeightPart one;
      one.layer = i;
      one.head = head;
      one.folded = folded;
      check.same(
          weight(check.model.decoder(), fmt::format("W_{}", name), one),
          mx::take(w, head, 0),
          fmt::format("{}{} of head {}", here, lower, head));
    }
  }
  if (folded) return;
  const auto z = check.site(here + "attn.z");
  const auto result = mx::transpose(
      mx::matmul(mx::transpose(z, {0, 2, 1, 3}), check.w("W_O", i)),
      {0, 2, 1, 3});
  check.same(result, check.site(here + "attn.result"), here + "result");
  check.same(
      mx::add(mx::sum(result, 2), check.w("b_O", i)),
      check.site(here + "attn.output"),
      here + "attn.output");
}

void check_mlp(Check& check, int i, bool folded) {
  const auto here = fmt::format("layers.{}.", i);
  const auto& config = check.model.decoder().config();
  const auto& layer = *check.model.decoder().layers[static_cast<size_t>(i)];
  const std::string norm = config.shared_norm ? "ln1" : "ln2";
  if (!layer.mlp || (folded && !check.has(here + norm))) return;
  const auto x =
      check.site(here + (folded ? norm + ".normalized" : "mlp.input"));
  const auto by = [&](const mx::array& in, std::string_view what) {
    return mx::add(
        mx::matmul(in, check.w(fmt::format("W_{}", what), i, folded)),
        check.w(fmt::format("b_{}", what), i, folded));
  };
  const bool gated = layer.mlp->gate_proj.has_value();
  const auto in = here + (gated ? "mlp.pre_linear" : "mlp.pre");
  check.same(by(x, "in"), check.site(in), in);
  if (gated) check.same(by(x, "gate"), check.site(here + "mlp.pre"), "gate");
  check.same(
      by(check.site(here + "mlp.post"), "out"),
      check.site(here + "mlp.output"),
      here + "mlp.output");
}

// Of the one token after the other through the experts that were chosen.
void check_experts(Check& check, int i) {
  const auto here = fmt::format("layers.{}.mlp.", i);
  const auto& moe = check.model.decoder().layers[static_cast<size_t>(i)]->moe;
  const auto& layer = *check.model.decoder().layers[static_cast<size_t>(i)];
  if (!moe || layer.moe_beside()) return;
  const auto x = mx::squeeze(check.site(here + "input"), 0);
  auto chosen = mx::astype(
      mx::squeeze(check.site(here + "expert_indices"), 0), mx::int32);
  const auto of_expert = mx::squeeze(check.site(here + "expert_weights"), 0);
  const auto pick = [&](std::string_view name) {
    return mx::take(check.w(name, i), chosen, 0);  // [pos, k, in, out]
  };
  const auto& config = *check.model.decoder().config().moe;
  auto rows = mx::expand_dims(x, {1, 2});  // [pos, 1, 1, d_model]
  if (config.weigh_input)
    rows = mx::multiply(rows, mx::expand_dims(of_expert, {2, 3}));
  const auto through = [&](const mx::array& in, const std::string& name) {
    const auto bias = mx::expand_dims(pick("b_" + name), 2);
    return mx::add(mx::matmul(in, pick("W_" + name)), bias);
  };
  const auto gate = through(rows, "gate"), up = through(rows, "in");
  const auto clamped = [&](const nn::ClampedSwiglu& by) {
    const mx::array most(by.limit), one(1.0f);
    const auto held = mx::minimum(gate, most);
    const auto share = one / (one + mx::exp(-mx::array(by.slope) * held));
    return (mx::clip(up, -most, most) + one) * held * share;
  };
  const auto post = config.swiglu ? clamped(*config.swiglu)
                                  : nn::activate(config.activation, gate, up);
  const auto each = mx::squeeze(through(post, "out"), 2);
  const auto weighed = config.weigh_input
                           ? each
                           : mx::multiply(each, mx::expand_dims(of_expert, 2));
  const auto sum = mx::sum(weighed, 1);
  check.same(
      mx::expand_dims(sum, 0), check.site(here + "experts.output"), here);
}

void check_ends(Check& check) {
  const auto& decoder = check.model.decoder();
  const auto& config = decoder.config();
  const mx::array ids(
      check.ids.data(), {1, static_cast<int>(check.ids.size())}, mx::int32);
  check.same(
      mx::take(weight(decoder, "W_E"), ids, 0), check.site("embed"), "embed");
  if (config.positions > 0) {
    const auto rows = mx::slice(
        weight(decoder, "W_pos"), {0, 0}, {ids.shape(1), config.d_model});
    check.same(mx::expand_dims(rows, 0), check.site("pos_embed"), "pos_embed");
  }
  for (const bool folded : {false, true}) {
    WeightPart part;
    part.folded = folded;
    auto logits = mx::add(
        mx::matmul(
            check.site(folded ? "ln_final.normalized" : "ln_final.output"),
            weight(decoder, "W_U", part)),
        weight(decoder, "b_U", part));
    // A normalized stream that is centred on its own takes what is folded.
    if (config.logit_softcap != 0) {
      const mx::array cap(config.logit_softcap);
      logits = mx::multiply(mx::tanh(mx::divide(logits, cap)), cap);
    }
    check.same(logits, check.site("logits"), "logits");
  }
  WeightPart some;
  some.tokens = {5, 3, 5};
  const auto three = mx::array({5, 3, 5}, {3}, mx::int32);
  check.same(
      weight(decoder, "W_U", some),
      mx::take(weight(decoder, "W_U"), three, 1),
      "W_U of tokens");
  check.same(
      weight(decoder, "W_E", some),
      mx::take(weight(decoder, "W_E"), three, 0),
      "W_E of tokens");
}

class Weights : public testing::TestWithParam<std::string> {};

TEST_P(Weights, MakeOfASiteTheNext) {
  Check check(GetParam());
  const int n_layers = check.model.decoder().config().n_layers;
  for (int i = 0; i < n_layers; ++i) {
    for (const bool folded : {false, true}) {
      check_attention(check, i, folded);
      check_mlp(check, i, folded);
    }
    check_experts(check, i);
  }
  check_ends(check);
  // State spaces alone have no matrix between two sites.
  const bool bare = std::ranges::all_of(
      check.model.decoder().layers,
      [](const auto& layer) { return !layer->attention() && !layer->mlp; });
  EXPECT_GT(check.values, bare ? 2000u : 5000u);
}

INSTANTIATE_TEST_SUITE_P(
    Families,
    Weights,
    testing::ValuesIn(supported_variants()),
    [](const auto& of) { return test::test_name(of.param); });

TEST(WeightNames, AllLayersAreTheLayers) {
  const auto decoder = test::tiny_decoder();
  size_t stacked = 0, absent = 0;
  for (const auto name : weight_names()) {
    if (name == "W_pos") {
      EXPECT_THROW((void)weight(*decoder, name), Error);
      ++absent;
      continue;
    }
    const auto all = weight(*decoder, name);
    EXPECT_GT(all.size(), 0u) << name;
    if (name.ends_with("_E") || name.ends_with("_U")) continue;
    EXPECT_EQ(all.shape(0), 3) << name;
    WeightPart one;
    one.layer = 1;
    EXPECT_EQ(
        max_difference(mx::take(all, 1, 0), weight(*decoder, name, one)), 0)
        << name;
    ++stacked;
  }
  EXPECT_EQ(stacked, 14u);
  EXPECT_EQ(absent, 1u);
}

// What is asked of it, and what the error says.
struct Refused {
  const char* name;
  std::optional<int> layer, head, token;
  ErrorKind kind;
  const char* says;
};

TEST(WeightNames, WhatIsNotThereIsSaid) {
  auto config = test::tiny_config();
  config.gated = false;
  const auto decoder = test::tiny_decoder(config);
  const auto usage = ErrorKind::usage, range = ErrorKind::out_of_range,
             unknown = ErrorKind::unknown_name;
  const std::vector<Refused> all = {
      {"W_X", {}, {}, {}, unknown, "there are W_E, W_pos"},
      {"", {}, {}, {}, unknown, "no weight"},
      {"W_gate", 0, {}, {}, unknown, "not gated"},
      {"b_gate", {}, {}, {}, unknown, "not gated"},
      {"W_pos", {}, {}, {}, unknown, "no learned position"},
      {"W_Q", 3, {}, {}, range, "there are 3"},
      {"W_Q", -1, {}, {}, range, "layer -1"},
      {"W_K", 0, 6, {}, range, "head 6"},
      {"W_U", {}, {}, 97, range, "token 97"},
      {"W_U", 0, {}, {}, usage, "no layers"},
      {"W_in", 0, 0, {}, usage, "no heads"},
      {"b_O", 0, 0, {}, usage, "no heads"},
      {"W_O", 0, 0, 1, usage, "no tokens"},
  };
  for (const auto& it : all) {
    WeightPart part;
    part.layer = it.layer;
    part.head = it.head;
    if (it.token) part.tokens = {*it.token};
    try {
      (void)weight(*decoder, it.name, part);
      ADD_FAILURE() << it.name << " was given";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), it.kind) << error.what();
      EXPECT_NE(std::string(error.what()).find(it.says), std::string::npos)
          << error.what();
    }
  }
}

}  // namespace
}  // namespace mlxterp
