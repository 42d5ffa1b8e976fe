// A user's own modules are traceable without touching the library.

#include <gtest/gtest.h>

#include "mlx/ops.h"
#include "mlxterp/core/error.h"
#include "mlxterp/nn/linear.h"
#include "mlxterp/trace/model.h"
#include "tests/compare.h"

namespace mlxterp {
namespace {

using test::expect_close;
using test::expect_identical;
namespace mx = mlx::core;

struct Block : nn::Module {
  nn::Linear attn, mlp;
  explicit Block(int d) : attn(d, d), mlp(d, d, true) {
    add("attn", attn);
    add("mlp", mlp);
  }
  mx::array forward(const mx::array& x, Pass& pass) const override {
    return x + mlp(attn(x, pass), pass);
  }
};

struct Net : nn::Module {
  Block first{4}, second{4};
  Net() {
    add("layers.0", first);
    add("layers.1", second);
    add("shared", first);  // the same module under a second name
  }
  mx::array forward(const mx::array& x, Pass& pass) const override {
    return second(first(x, pass), pass);
  }
};

TEST(OwnModule, ItsTreeIsNamed) {
  Net net;
  std::vector<std::string> modules, parameters;
  for (const auto& [path, module] : net.named_modules())
    modules.push_back(path);
  for (const auto& [path, value] : net.parameters())
    parameters.push_back(path);
  EXPECT_EQ(
      modules,
      (std::vector<std::string>{
          "",
          "layers.0",
          "layers.0.attn",
          "layers.0.mlp",
          "layers.1",
          "layers.1.attn",
          "layers.1.mlp"}));
  EXPECT_EQ(
      parameters,
      (std::vector<std::string>{
          "layers.0.attn.weight",
          "layers.0.mlp.weight",
          "layers.0.mlp.bias",
          "layers.1.attn.weight",
          "layers.1.mlp.weight",
          "layers.1.mlp.bias"}));
}

TEST(OwnModule, EveryPartIsASite) {
  const auto net = std::make_shared<Net>();
  const InterpretableModel model(net);
  const auto x = mx::reshape(mx::arange(8, mx::float32), {2, 4});
  Saved attn, out, in;
  {
    auto trace = model.trace(x);
    attn = model.layers()[0]["attn"].output().save();
    in = model.layers()[1]["mlp"].input().save();
    out = model.output().save();
  }
  Pass plain;
  expect_identical(out.value(), (*net)(x, plain), "output");
  expect_close(
      attn.value(),
      mx::matmul(x, mx::transpose(net->first.attn.weight)),
      1e-6,
      8,
      "attn");
  EXPECT_EQ(in.value().shape(), (mx::Shape{2, 4}));

  const auto run = model.run(
      x,
      {.save = {"output", "layers.0"},
       .edits = {{"layers.1.mlp", zero_out()}}});
  expect_identical(run["output"], run["layers.0"], "second block without mlp");
  EXPECT_EQ(
      model.sites().find("shared.attn.output"),
      model.sites().find("layers.0.attn.output"));
}

TEST(OwnModule, MisuseIsAnError) {
  const auto net = std::make_shared<Net>();
  const InterpretableModel model(net);
  EXPECT_THROW(InterpretableModel{net}, Error);  // it has its model already
  EXPECT_THROW(model.decoder(), Error);
  struct Twice : nn::Module {
    nn::Linear a{2, 2};
    Twice() {
      add("a", a);
      add("a", a);
    }
    mx::array forward(const mx::array& x, Pass&) const override { return x; }
  };
  EXPECT_THROW(Twice{}, Error);
}

}  // namespace
}  // namespace mlxterp
