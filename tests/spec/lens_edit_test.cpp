#include <gtest/gtest.h>

#include "mlx/ops.h"
#include "mlxterp/analysis/jacobian_lens.h"
#include "mlxterp/analysis/lens_edits.h"
#include "mlxterp/io/safetensors.h"
#include "mlxterp/spec/edit.h"
#include "tests/spec/model.h"
#include "tests/temp_folder.h"
#include "tests/tiny_model.h"

namespace mlxterp::spec {
namespace {

namespace mx = mlx::core;
using test::message_of;
using testing::TempFolder;

// A tiny model, a lens of it, directions of tokens 3 and 50, and a run.
struct Case {
  TempFolder folder;
  InterpretableModel model = test::tiny_model();
  std::vector<int> ids = {5, 9, 2, 7, 11, 30, 8};
  JacobianLens lens;
  std::string lens_file = (folder / "a,b.safetensors").string();
  std::string directions = (folder / "d.safetensors").string();
  std::string run = (folder / "run.safetensors").string();

  Case() {
    JacobianOptions options;
    options.skip = 2;
    lens = fit_jacobian_lens(model, {ids}, options).lens;
    lens.save(lens_file);
    lens_directions(model, {3, 50}, {ids}, options).save(directions);
    const auto site = std::string("layers.1.resid_post");
    save_safetensors(run, {{site, model.run(ids, {.save = {site}})[site]}}, {});
  }

  EditOptions options() const {
    return {.name = "edit", .read = read_tensor, .model = &model};
  }
  mx::array vector(int token) const {
    return mx::reshape(lens.directions(model, {token}, 1), {-1});
  }
  mx::array logits(const std::vector<Edit>& edits) const {
    return model.with(edits).run(ids, {.save = {"logits"}})["logits"];
  }
  mx::array logits(const std::string& edit) const {
    return logits(parse_edits({"layers.1.resid_post=" + edit}, options()));
  }
};

float apart(const mx::array& a, const mx::array& b) {
  return mx::max(mx::abs(mx::subtract(a, b))).item<float>();
}

TEST(LensEdit, IsTheFunctionOfItsName) {
  const Case it;
  const auto clean = it.model.run(
      it.ids, {.save = {"layers.1.resid_post"}})["layers.1.resid_post"];
  const auto a = it.vector(3), b = it.vector(50);
  const std::vector<std::pair<std::string, Intervention>> cases = {
      {"lens_steer({}, id:3, 2.5)", lens_steer(a, 2.5f)},
      {"lens_steer({}, id:3)", lens_steer(a)},
      {"lens_ablate({}, id:3, id:50)", lens_ablate(mx::stack({a, b}))},
      {"lens_swap({}, id:3, id:50)", lens_swap(a, b)},
      {"at_positions(-1, lens_swap({}, id:3,id:50, 2))",
       at_positions({-1}, lens_swap(a, b, 2.0f))},
      {"lens_clamp({}, id:3, id:50, " + it.run + ", 0.5)",
       lens_clamp(a, b, mx::squeeze(clean, 0), 0.5f)}};
  const auto plain = it.logits(std::vector<Edit>{});
  for (const auto& [text, edit] : cases) {
    const auto wanted = it.logits({{"layers.1.resid_post", edit}});
    EXPECT_GE(apart(wanted, plain), 1e-3f) << text;
    for (const auto& file : {it.lens_file, it.directions}) {
      auto said = text;
      said.replace(said.find("{}"), 2, file);
      EXPECT_LE(apart(it.logits(said), wanted), 1e-4f) << said;
    }
  }
  // A clean run's coordinates belong to their positions, whoever chose them.
  const auto clamp = "lens_clamp(" + it.directions + ", id:3, id:50, " + it.run;
  EXPECT_LE(
      apart(
          it.logits("at_positions([-1,2], " + clamp + "))"),
          it.logits(
              "at_positions([-1,2], lens_swap(" + it.directions +
              ", id:3, id:50))")),
      1e-4f);
  // By an alias, and by a text alone that learns its site in the pass.
  const auto swap = "lens_swap(" + it.directions + ", id:3, id:50)";
  EXPECT_LE(
      apart(
          it.logits(
              {{"layers.1.resid_post",
                parse_intervention(swap, it.options())}}),
          it.logits(parse_edits({"layers.1=" + swap}, it.options()))),
      1e-6f);
}

TEST(LensEdit, RefusesByName) {
  const Case it;
  const auto said = [&](const std::string& edit,
                        ErrorKind kind = ErrorKind::usage) {
    return message_of([&] { parse_edits({edit}, it.options()); }, kind);
  };
  const auto has = [](const std::string& text, const std::string& part) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  const auto& d = it.directions;
  const std::string at = "layers.1.resid_post=";
  has(said(at + "lens_swap(" + d + ", id:3, id:3)"), "nearly parallel");
  has(said(at + "lens_ablate(" + d + ", id:4)"), "no direction of 'id:4'");
  has(said("layers.1.mlp_out=lens_ablate(" + d + ", id:3)"), "mlp_out");
  has(said(at + "lens_ablate(" + d + ")"), "token in quotes");
  has(said(at + "lens_ablate(" + d + ", 'x)"), "not closed");
  has(said(at + "lens_swap(" + d + ", id:3)"), "two tokens");
  has(said(at + "lens_clamp(" + d + ", id:3, id:50)"), "expected ','");
  has(said(at + "lens_steer(" + d + ", id:3, much)"), "finite number");
  has(said(at + "lens_steer(" + d + ", id:3, 1, 2)"), "expected ')'");
  has(said(at + "lens_steer(" + d + ", id:97)", ErrorKind::out_of_range), "97");
  auto one = it.lens;
  one.layers = {0};
  one.matrices.pop_back();
  const auto first = (it.folder / "first.safetensors").string();
  one.save(first);
  has(said(at + "lens_steer(" + first + ", id:3)", ErrorKind::out_of_range),
      "no layer 1");
  one.source.weights = "0123456789abcdef";
  one.save(first, /*overwrite=*/true);
  has(said("layers.0.resid_post=lens_steer(" + first + ", id:3)"), "weights");
  // Of another model; without one nothing is known of tokens.
  auto wide = test::tiny_config();
  wide.d_model = 32;
  const auto other = test::tiny_model(wide);
  const EditOptions of_other{.read = read_tensor, .model = &other};
  const auto steer = "lens_steer(" + d + ", id:3)";
  has(message_of([&] { parse_edits({at + steer}, of_other); }), "32");
  const auto unbound = parse_intervention(steer, {.read = read_tensor});
  has(message_of([&] {
        it.logits({{"layers.1.resid_post", unbound}});
      }),
      "of a model");
  EXPECT_THROW(parse_intervention(steer), Error);  // no files here
  // Several tokens, by a tokenizer.
  const auto demo = test::demo_without_weights();
  const EditOptions named{.read = read_tensor, .model = &demo};
  message_of(
      [&] {
        parse_edits({at + "lens_steer(x, ' Eiffel Tower of Paris')"}, named);
      },
      ErrorKind::unknown_name);
}

}  // namespace
}  // namespace mlxterp::spec
