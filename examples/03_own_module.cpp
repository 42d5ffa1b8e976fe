// A two-layer transformer of your own, traced and edited by path. No line of
// the library knows it.

#include <iostream>

#include "mlx/fast.h"
#include "mlx/ops.h"
#include "mlxterp/mlxterp.h"
#include "mlxterp/nn/linear.h"
#include "mlxterp/nn/norm.h"

namespace mx = mlx::core;
using namespace mlxterp;

struct SelfAttention : nn::Module {
  nn::Linear qkv, out;
  explicit SelfAttention(int d) : qkv(d, 3 * d), out(d, d) {
    add("qkv", qkv);
    add("out", out);
  }
  mx::array forward(const mx::array& x, Pass& pass) const override {
    const auto heads = mx::split(mx::expand_dims(qkv(x, pass), 1), 3, -1);
    const float scale = 1.0f / 4.0f;  // sqrt(d) = 4
    const auto mixed = mx::fast::scaled_dot_product_attention(
        heads[0], heads[1], heads[2], scale, "causal");
    return out(mx::squeeze(mixed, 1), pass);
  }
};

struct Block : nn::Module {
  nn::Norm norm;
  SelfAttention attn;
  nn::Linear mlp;
  // A site of its own, between attention and MLP.
  const Slot middle = site("middle", Layout::features);
  explicit Block(int d) : norm(d, {}), attn(d), mlp(d, d) {
    add("norm", norm);
    add("attn", attn);
    add("mlp", mlp);
  }
  mx::array forward(const mx::array& x, Pass& pass) const override {
    const auto mid = tap(pass, middle, x + attn(norm(x, pass), pass));
    return mid + mlp(mid, pass);
  }
};

struct TwoLayers : nn::Module {
  nn::Embedding embed{100, 16};
  Block first{16}, second{16};
  TwoLayers() {
    add("embed", embed);
    add("layers.0", first);
    add("layers.1", second);
  }
  mx::array forward(const mx::array& ids, Pass& pass) const override {
    return second(first(embed(ids, pass), pass), pass);
  }
};

int main() {
  const InterpretableModel model(std::make_shared<TwoLayers>());
  for (const auto& [path, module] : model.named_modules())
    std::cout << "  " << (path.empty() ? "(model)" : path) << "\n";

  const std::vector<int> ids = {3, 1, 4, 1, 5};
  Saved attn, middle;
  {
    auto trace = model.trace(ids);
    attn = model.layers()[0]["attn"].output().save();
    middle = model["layers.1.middle"].output().save();
  }
  std::cout << attn.name() << " " << attn.value().shape() << "\n";
  std::cout << middle.name() << " " << middle.value().shape() << "\n";

  const auto run = model.run(
      ids,
      {.save = {"layers.1.middle", "output"},
       .edits = {{"layers.1.mlp", zero_out()}}});
  auto gone = mx::array_equal(run["output"], run["layers.1.middle"]);
  std::cout << "without its MLP, layer 1 returns its middle: "
            << (gone.item<bool>() ? "yes" : "no") << "\n";
}
