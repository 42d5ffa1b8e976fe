// Path patching against forward passes with plain edits.

#include "mlxterp/analysis/path_patch.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>

#include "mlx/ops.h"
#include "mlxterp/core/error.h"
#include "tests/compare.h"
#include "tests/families.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;
using Input = Receiver::Input;

const std::vector<int> clean = {5, 11, 3, 29, 7, 13, 2};
const std::vector<int> corrupt = {5, 11, 3, 30, 7, 14, 2};

const char* text(Input input) {
  return input == Input::q ? "q" : input == Input::k ? "k" : "v";
}

// By the definition: two forward passes for each sender.
std::vector<float> plainly(
    const InterpretableModel& model, const PathPatchOptions& options) {
  const auto& config = model.decoder().config();
  std::vector<std::string> held = {
      "layers.*.attn.z", "layers.*.mlp_out", "logits"};
  if (model.decoder().ple) held.emplace_back("layers.*.ple_out");
  const auto run = model.run(clean, {.save = held});
  const auto other =
      model.run(corrupt, {.save = {"layers.*.attn.z", "layers.*.mlp_out"}});
  const bool heads = options.senders == "z";
  std::vector<float> cells;
  for (int l = 0; l < config.n_layers; ++l)
    for (int h = 0; h < (heads ? config.n_heads : 1); ++h) {
      const auto sender =
          fmt::format("layers.{}.{}", l, heads ? "attn.z" : "mlp_out");
      const auto value = other[sender];
      std::vector<Edit> edits;
      edits.push_back(
          {sender,
           heads ? on_heads(
                       {h},
                       replace_with(mx::slice(
                           value, {0, 0, h, 0}, {1, 7, h + 1, value.shape(3)})))
                 : replace_with(value)});
      for (int i = l + 1; i < config.n_layers; ++i) {
        const auto site = fmt::format("layers.{}.attn.z", i);
        edits.push_back({site, replace_with(run[site])});
      }
      if (!options.through_mlps)
        for (int i = heads ? l : l + 1; i < config.n_layers; ++i) {
          const auto site = fmt::format("layers.{}.mlp_out", i);
          edits.push_back({site, replace_with(run[site])});
        }
      if (!options.through_mlps && model.decoder().ple)
        for (int i = l; i < config.n_layers; ++i) {
          const auto site = fmt::format("layers.{}.ple_out", i);
          edits.push_back({site, replace_with(run[site])});
        }
      std::vector<std::string> save = {"logits"};
      for (const auto& r : options.receivers)
        save.push_back(
            fmt::format("layers.{}.attn.{}", r.layer, text(r.input)));
      auto sent = model.run(clean, {.save = save, .edits = edits});
      if (!options.receivers.empty()) {
        std::vector<Edit> received;
        for (const auto& r : options.receivers) {
          const auto site =
              fmt::format("layers.{}.attn.{}", r.layer, text(r.input));
          received.push_back(
              {site,
               on_heads(
                   {r.head},
                   replace_with(mx::slice(
                       sent[site],
                       {0, 0, r.head, 0},
                       {1, 7, r.head + 1, sent[site].shape(3)})))});
        }
        sent = model.run(clean, {.save = {"logits"}, .edits = received});
      }
      cells.push_back(measure(model, options.metric, sent["logits"]));
    }
  return cells;
}

void expect_exact(
    const InterpretableModel& model,
    const PathPatchOptions& options,
    const std::string& what) {
  const auto sweep = path_patch(model, options);
  const auto wanted = plainly(model, options);
  const auto flat = [](const std::vector<float>& values) {
    return mx::array(values.data(), {static_cast<int>(values.size())});
  };
  test::expect_close(
      flat(sweep.metric), flat(wanted), 2e-5, wanted.size(), what);
  EXPECT_TRUE(std::ranges::any_of(sweep.metric, [&](float value) {
    return value != sweep.clean;
  })) << what;
}

TEST(PathPatch, EqualsPlainEdits) {
  for (const char* variant :
       {"llama-gqa",
        "gpt2",
        "gemma2",
        "phi",
        "mixtral",
        "qwen3",
        "gemma4-experts",
        "gemma4-all"}) {
    const auto model =
        InterpretableModel::load((test::families_root / variant).string());
    // The last that makes keys and values.
    int last = model.decoder().config().n_layers - 1;
    while (!model.decoder()
                .layers[static_cast<size_t>(last)]
                ->attention()
                ->config()
                .own_kv)
      --last;
    const std::vector<std::vector<Receiver>> all = {
        {},
        {{.layer = last, .head = 1, .input = Input::q}},
        {{.layer = last, .head = 0, .input = Input::k},
         {.layer = last, .head = 0, .input = Input::v},
         {.layer = last, .head = 2, .input = Input::q}}};
    for (const auto& receivers : all)
      for (const bool through_mlps : {true, false})
        expect_exact(
            model,
            {.clean = clean,
             .corrupt = corrupt,
             .receivers = receivers,
             .through_mlps = through_mlps,
             .metric = logit_diff(4, 9)},
            fmt::format(
                "{} {} receivers{}",
                variant,
                receivers.size(),
                through_mlps ? "" : ", direct"));
    expect_exact(
        model,
        {.clean = clean,
         .corrupt = corrupt,
         .senders = "mlp_out",
         .metric = logit_diff(4, 9)},
        std::string(variant) + " MLPs");
  }
}

TEST(PathPatch, OnlySendersBelowReach) {
  const auto model = test::tiny_model();
  const auto sweep = path_patch(
      model,
      {.clean = clean,
       .corrupt = corrupt,
       .receivers = {{.layer = 1, .head = 0, .input = Input::q}},
       .metric = logit(4)});
  ASSERT_EQ(sweep.shape(), (std::vector{3, 6}));
  // Those of the receiver's own layer are run again, and change nothing.
  for (size_t i = 6; i < 12; ++i)
    EXPECT_NEAR(sweep.metric[i], sweep.clean, 1e-6);
  for (size_t i = 12; i < 18; ++i)
    EXPECT_EQ(sweep.metric[i], sweep.clean);
}

TEST(PathPatch, Misuse) {
  const auto model = test::tiny_model();
  const auto with = [&](auto change) -> std::string {
    PathPatchOptions options{
        .clean = clean, .corrupt = corrupt, .metric = logit(4)};
    change(options);
    try {
      path_patch(model, options);
    } catch (const Error& error) {
      return error.what();
    }
    return "nothing";
  };
  const auto expect = [](const std::string& said, const char* part) {
    EXPECT_NE(said.find(part), std::string::npos) << said;
  };
  EXPECT_EQ(with([](auto&) {}), "nothing");
  expect(
      with([](auto& o) { o.receivers = {{.layer = 3}}; }),
      "receiver L3H0.q is out of range; there are 3 layers, 0 to 2, and 6 "
      "heads");
  expect(
      with([](auto& o) {
        o.receivers = {{.layer = 0, .head = 2, .input = Input::k}};
      }),
      "there are 2 kv heads, 0 to 1; L0H2 reads kv head 0, which is L0H0.k");
  expect(
      with([](auto& o) { o.senders = "resid_pre"; }),
      "senders 'resid_pre' are neither heads (z) nor MLPs (mlp_out)");
  expect(
      with([](auto& o) {
        o.corrupt = std::vector{1, 2};
      }),
      "pair 0: the clean prompt has 7 tokens, the corrupted one 2");
  expect(
      with([](auto& o) {
        o.corrupt = Inputs::Rows{corrupt, corrupt};
      }),
      "1 clean and 2 corrupted prompts");
}

// Nothing reaches a receiver from its own layer or a later one.
TEST(PathPatch, SaysWhichSendersCannotAct) {
  const auto model = test::tiny_model();
  PathPatchOptions options{
      .clean = clean,
      .corrupt = corrupt,
      .receivers = {{.layer = 1, .head = 2, .input = Input::q}},
      .metric = logit(4)};
  const auto sweep = path_patch(model, options);
  ASSERT_EQ(sweep.inert.size(), 3u * 6);
  for (size_t i = 0; i < sweep.cells(); ++i)
    EXPECT_EQ(sweep.inert[i], i >= 6) << i;
  options.receivers = {};
  for (const bool inert : path_patch(model, options).inert)
    EXPECT_FALSE(inert);
}

}  // namespace
}  // namespace mlxterp
