// Traces as a user meets them: saving, nesting, threads. What is refused is in
// misuse_test.cpp.

#include "mlxterp/trace/trace.h"

#include <gtest/gtest.h>

#include <future>
#include <thread>

#include "mlx/ops.h"
#include "mlxterp/core/error.h"
#include "tests/compare.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

using test::expect_close;
using test::expect_repeated;
using test::tiny_model;
namespace mx = mlx::core;

const std::vector<int> prompt = {3, 14, 15, 92, 65};

// The message of the Error that `f` throws, which must be of that kind.
template <typename F>
std::string message_of(ErrorKind kind, F&& f) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

void expect_has(const std::string& message, const std::string& part) {
  EXPECT_NE(message.find(part), std::string::npos)
      << "'" << part << "' is not in: " << message;
}

mx::array evaluated(mx::array x) {
  x.eval();
  return x;
}

TEST(Trace, SavedValuesSurviveIt) {
  Saved attn, last;
  {
    const auto model = tiny_model();  // the model may go, too
    auto trace = model.trace(prompt);
    attn = model.layers()[1]["self_attn"].output().save();
    last = model.layers()[-1].output().save();
    EXPECT_EQ(
        trace.value("layers.0.attn.pattern").shape(), (mx::Shape{1, 6, 5, 5}));
    EXPECT_EQ(trace.output().shape(), (mx::Shape{1, 5, 97}));
  }
  EXPECT_EQ(attn.value().shape(), (mx::Shape{1, 5, 24}));
  EXPECT_TRUE(attn.value().is_available());
  EXPECT_EQ(attn.name(), "layers.1.attn_out");
  EXPECT_EQ(last.name(), "layers.2.resid_post");
}

TEST(Trace, ValuesAreUsableInside) {
  const auto model = tiny_model();
  auto trace = model.trace(prompt);
  auto pattern = model["layers.1.attn.pattern"].output().value();
  const auto sum = mx::sum(pattern).item<float>();
  EXPECT_NEAR(sum, 6 * 5, 1e-4);
  EXPECT_EQ(model.layers()[1]["attn"]["z"].output().name(), "layers.1.attn.z");
  EXPECT_EQ(model.layers()[1].input().name(), "layers.1.resid_pre");
  trace.save("layers.1.attn.z");
  const auto saved = trace.saved();
  EXPECT_EQ(saved.size(), 1u);
  EXPECT_TRUE(saved.contains("blocks.1.attn.hook_z"));
  expect_has(
      message_of(ErrorKind::usage, [&] { trace.save("logits"); }), "has ended");
}

TEST(Trace, AnotherThreadCanNeitherEndNorSpoilIt) {
  const auto model = tiny_model();
  auto trace = std::unique_ptr<Trace>(new Trace(model.trace(prompt)));
  const auto logits = trace->save("logits");
  const auto elsewhere = [](const std::function<void()>& work) {
    std::async(std::launch::async, work).get();
  };
  expect_has(
      message_of(
          ErrorKind::usage, [&] { elsewhere([&] { trace->finish(); }); }),
      "another thread");
  EXPECT_EQ(trace->output().shape(), (mx::Shape{1, 5, 97}));
  trace->finish();
  elsewhere([&] { trace.reset(); });
  EXPECT_TRUE(logits.value().is_available());
}

TEST(Trace, ContainsNeverThrows) {
  const auto model = tiny_model();
  const auto run = model.run(prompt, {.save = {"layers.1", "logits"}});
  EXPECT_TRUE(run.contains("blocks.1.hook_resid_post"));
  EXPECT_TRUE(run.contains("layers.1*"));  // one that many words mean
  for (const auto* name :
       {"", "layers.0", "layers.*", "layers.{0,1}", "layers.{", "nonsense"})
    EXPECT_FALSE(run.contains(name)) << name;
  EXPECT_TRUE(model.sites().contains("layers.*"));
  for (const auto* name : {"", "layers.{", "nonsense"})
    EXPECT_FALSE(model.sites().contains(name)) << name;
}

TEST(Trace, EvaluatesOnlyWhatIsSaved) {
  const auto model = tiny_model();
  mx::array unsaved(0), pre(0);
  Saved early;
  {
    auto trace = model.trace(prompt);
    early = model.layers()[0].output().save();
    unsaved = trace.value("layers.1.mlp_out");
  }
  EXPECT_TRUE(early.value().is_available());
  EXPECT_FALSE(unsaved.is_available());
}

TEST(Trace, NestedTracesEachHaveTheirPass) {
  const auto model = tiny_model(), other = tiny_model();
  const auto plain = evaluated(model(prompt));
  Saved outer_logits, inner_logits, outer_again;
  {
    auto outer = model.trace(prompt);
    outer_logits = model.output().save();
    {
      auto inner = model.trace(prompt, {{"layers.0", scale(0.5f)}});
      inner_logits = model.output().save();
      auto third = other.trace({1, 2});
      expect_has(
          message_of(ErrorKind::usage, [&] { model.output().save(); }),
          "another model");
    }
    outer_again = model.layers()[0].output().save();
  }
  expect_repeated(outer_logits.value(), plain, "outer logits");
  EXPECT_GT(test::max_difference(inner_logits.value(), plain), 1e-3);
  EXPECT_TRUE(outer_again.value().is_available());
}

TEST(Trace, ThreadsTraceOneModelAtOnce) {
  const auto model = tiny_model();
  const auto plain = evaluated(model(prompt));
  std::vector<std::future<double>> workers;
  for (int i = 0; i < 4; ++i)
    workers.push_back(std::async(std::launch::async, [&, i] {
      double worst = 0;
      for (int round = 0; round < 20; ++round) {
        Saved logits;
        {
          std::vector<Edit> edits;
          if (i % 2) edits.push_back({"layers.1.mlp_out", zero_out()});
          auto trace = model.trace(prompt, edits);
          logits = model.output().save();
        }
        const double moved = test::max_difference(logits.value(), plain);
        worst = std::max(worst, i % 2 ? (moved > 1e-4 ? 0.0 : 1.0) : moved);
      }
      return worst;
    }));
  for (auto& worker : workers)
    EXPECT_LE(worker.get(), 1e-5);
}

struct MyError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

TEST(Trace, AnExceptionInsideAnInterventionArrivesUnchanged) {
  const auto model = tiny_model();
  const auto plain = evaluated(model(prompt));
  const std::vector<Edit> edits = {
      {"layers.1.attn.z",
       [](const mx::array&) -> mx::array { throw MyError("mine"); }}};
  try {
    auto trace = model.trace(prompt, edits);
    FAIL() << "nothing was thrown";
  } catch (const MyError& error) {
    EXPECT_STREQ(error.what(), "mine");
  }
  EXPECT_THROW(
      model.run(prompt, {.save = {"logits"}, .edits = edits}), MyError);
  EXPECT_EQ(TraceContext::current(), nullptr);
  expect_repeated(
      model.run(prompt, {.save = {"logits"}})["logits"], plain, "next run");
}

TEST(Trace, LeftByAnExceptionItEvaluatesNothing) {
  const auto model = tiny_model();
  Saved logits;
  try {
    auto trace = model.trace(prompt);
    logits = model.output().save();
    throw MyError("body");
  } catch (const MyError&) {
  }
  EXPECT_EQ(TraceContext::current(), nullptr);
  expect_has(
      message_of(ErrorKind::usage, [&] { logits.value(); }), "exception left");
}

TEST(Trace, EditsActInDeclaredOrder) {
  const auto model = tiny_model();
  const auto plus = add_vector(mx::ones({24}));
  const auto out = [&](std::vector<Edit> edits) {
    return model.run(
        prompt, {.save = {"layers.1.mlp_out"}, .edits = edits})["layers.1.mlp"];
  };
  const auto x = out({});
  expect_close(
      out({{"layers.1.mlp", scale(2)}, {"layers.1.mlp_out", plus}}),
      x * mx::array(2.0f) + mx::array(1.0f),
      1e-6,
      120,
      "scale, then add");
  expect_close(
      out({{"layers.1.mlp_out", plus}, {"layers.1.mlp", scale(2)}}),
      (x + mx::array(1.0f)) * mx::array(2.0f),
      1e-6,
      120,
      "add, then scale");
}

}  // namespace
}  // namespace mlxterp
