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
using test::expect_repeated;
namespace mx = mlx::core;
using namespace std::string_literals;

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
  expect_repeated(out.value(), (*net)(x, plain), "output");
  expect_close(
      attn.value(),
      mx::matmul(x, mx::transpose(net->first.attn.weight.numbers())),
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

// Neither given nor edited ids may lead outside: MLX looks at none.
TEST(OwnModule, AnEmbeddingChecksItsIds) {
  struct Bag : nn::Module {
    nn::Embedding embed{10, 4};
    Bag() { add("embed", embed); }
    mx::array forward(const mx::array& ids, Pass& pass) const override {
      return mx::sum(embed(ids, pass), 1);
    }
  };
  const InterpretableModel model(std::make_shared<Bag>());
  const auto refused = [&](const Inputs& ids,
                           const std::string& id,
                           const std::vector<Edit>& edits = {}) {
    try {
      model.run(ids, {.save = {"output"}, .edits = edits});
      ADD_FAILURE() << id << " was accepted";
    } catch (const Error& error) {
      const std::string message = error.what();
      EXPECT_EQ(error.kind(), ErrorKind::out_of_range) << message;
      for (const auto& part : {"id " + id, "embed.input"s, "0 to 9"s})
        EXPECT_NE(message.find(part), std::string::npos) << message;
    }
  };
  const auto ids = [](auto first) {
    return mx::reshape(mx::array({decltype(first)(1), first}), {1, 2});
  };
  refused({1, 10}, "10");
  refused({1, -1}, "-1");
  refused(ids(1'000'000'000), "1000000000");
  refused(ids(int64_t{1} << 40), "1099511627776");
  refused(ids(uint8_t{200}), "200");
  refused(mx::subtract(ids(3), mx::array(4)), "-3");  // not evaluated yet
  refused(mx::transpose(mx::array({1, 2, 3, 11}, {2, 2})), "11");
  refused({1, 2}, "200", {{"input", scale(200)}});
  refused({1, 2}, "200", {{"embed.input", scale(200)}});
  EXPECT_THROW(model(std::vector<int>{10}), Error);
  const auto run = model.run(ids(9), {.save = {"output"}});
  EXPECT_EQ(run["output"].shape(), (mx::Shape{1, 4}));
}

TEST(OwnModule, MisuseIsAnError) {
  const auto net = std::make_shared<Net>();
  const InterpretableModel model(net);
  EXPECT_EQ(InterpretableModel(net).sites().size(), model.sites().size());
  struct Around : nn::Module {  // whose part has its numbers already
    std::shared_ptr<Net> net;
    nn::Linear before{2, 2};
    explicit Around(std::shared_ptr<Net> it) : net(std::move(it)) {
      add("before", before);
      add("net", *net);
    }
    mx::array forward(const mx::array& x, Pass&) const override { return x; }
  };
  EXPECT_THROW(InterpretableModel(std::make_shared<Around>(net)), Error);
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

// A root over a block that somebody else owns.
struct Around : nn::Module {
  Block& block;
  Around(Block& inner, std::string end) : block(inner) {
    add("layers.0", inner);
    alias("end", std::move(end));
  }
  mx::array forward(const mx::array& x, Pass& pass) const override {
    return block(x, pass);
  }
};

// What could not be numbered stays free, to be part of another model.
TEST(OwnModule, ATreeThatWasRefusedCanBePutRight) {
  Block block(4);
  const auto made = [&](const std::string& end) {
    return InterpretableModel(std::make_shared<Around>(block, end));
  };
  const auto message = [&](const std::string& end) -> std::string {
    try {
      made(end);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::usage) << error.what();
      return error.what();
    }
    return "nothing";
  };
  const auto expect = [](const std::string& said, const char* part) {
    EXPECT_NE(said.find(part), std::string::npos) << said;
  };
  for (int i = 0; i < 2; ++i)
    expect(
        message("layers.0.nowhere.output"),
        "'end' is an alias of 'layers.0.nowhere.output', which is not a site");
  const auto model = made("layers.0.mlp.output");
  const auto x = mx::reshape(mx::arange(8, mx::float32), {2, 4});
  Pass plain;
  const auto wanted = block.mlp(block.attn(x, plain), plain);
  expect_repeated(model.run(x, {.save = {"end"}})["end"], wanted, "end");
  // Another root with the block in the same place is another model of it.
  const auto again = made("layers.0.output");
  expect_repeated(
      again.run(x, {.save = {"layers.0.mlp"}})["layers.0.mlp"],
      wanted,
      "again");
  expect_repeated(model.run(x, {.save = {"end"}})["end"], wanted, "end");
}

}  // namespace
}  // namespace mlxterp
