// Traces, edits and prompts that make no sense. Each case is a test, and so a
// process, of its own: a crash fails that one. After each the model runs as if
// nothing had been.

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "mlx/compile.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/core/error.h"
#include "tests/compare.h"
#include "tests/families.h"
#include "tests/said.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;
using ::testing::TestParamInfo;
using ::testing::TestWithParam;
using ::testing::Values;

const std::vector<int> prompt = {3, 14, 15, 92, 65};

// Runs it on a thread of its own; what it throws arrives here.
void elsewhere(const std::function<void()>& work) {
  std::async(std::launch::async, work).get();
}

struct Case {
  std::string name;
  ErrorKind kind;
  std::function<void(const InterpretableModel&)> misuse;
  std::vector<std::string> says;
};

void PrintTo(const Case& one, std::ostream* out) {
  *out << one.name;
}

class Misuse : public TestWithParam<Case> {};

TEST_P(Misuse, IsRefused) {
  const auto model = test::tiny_model();
  auto plain = model(prompt);
  plain.eval();
  try {
    GetParam().misuse(model);
    ADD_FAILURE() << "it was accepted";
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_EQ(error.kind(), GetParam().kind) << message;
    EXPECT_EQ(message.substr(0, 1), "[") << message;
    for (const auto& part : GetParam().says)
      EXPECT_NE(message.find(part), std::string::npos)
          << "'" << part << "' is not in: " << message;
  }
  EXPECT_EQ(TraceContext::current(), nullptr);
  const auto again = model.run(prompt, {.save = {"logits"}})["logits"];
  test::expect_repeated(again, plain, "the next run");
}

std::string name_of(const TestParamInfo<Case>& info) {
  return info.param.name;
}

Case run(
    const std::string& name,
    ErrorKind kind,
    const std::function<Inputs()>& inputs,
    const std::vector<std::string>& says) {
  return {
      name,
      kind,
      [inputs](const InterpretableModel& model) {
        model.run(inputs(), {.save = {"logits"}});
      },
      says};
}

INSTANTIATE_TEST_SUITE_P(
    Prompt,
    Misuse,
    Values(
        run("id_of_vocabulary",
            ErrorKind::out_of_range,
            [] {
              return Inputs{1, 97};
            },
            {"token id 97", "97"}),
        run("id_negative",
            ErrorKind::out_of_range,
            [] { return Inputs{-1}; },
            {"-1"}),
        run("id_huge",
            ErrorKind::out_of_range,
            [] { return Inputs{1'000'000'000}; },
            {"1000000000"}),
        run("id_huge_in_an_array",
            ErrorKind::out_of_range,
            [] {
              return Inputs(mx::array({1, 1'000'000'000}, {1, 2}));
            },
            {"1000000000"}),
        run("id_above_32_bits",
            ErrorKind::out_of_range,
            [] {
              return Inputs(mx::reshape(
                  mx::array({int64_t{1}, (int64_t{1} << 32) + 1}), {1, 2}));
            },
            {"4294967297"}),
        run("id_above_63_bits",
            ErrorKind::out_of_range,
            [] {
              return Inputs(mx::reshape(mx::array({~uint64_t{0}}), {1, 1}));
            },
            {"vocabulary"}),
        run("no_token",
            ErrorKind::usage,
            [] { return Inputs(std::vector<int>{}); },
            {"no tokens"}),
        run("no_prompt",
            ErrorKind::usage,
            [] { return Inputs(Inputs::Rows{}); },
            {"no prompt"}),
        run("no_token_in_the_second",
            ErrorKind::usage,
            [] {
              return Inputs(Inputs::Rows{{1}, {}});
            },
            {"prompt 1", "no tokens"}),
        run("array_without_rows",
            ErrorKind::usage,
            [] {
              return Inputs(mx::zeros({0, 5}, mx::int32));
            },
            {"no prompt"}),
        run("array_without_columns",
            ErrorKind::usage,
            [] {
              return Inputs(mx::zeros({2, 0}, mx::int32));
            },
            {"no tokens"}),
        run("array_of_floats",
            ErrorKind::usage,
            [] {
              return Inputs(mx::array({1.0f, 2.0f}, {1, 2}));
            },
            {"integers"}),
        run("array_of_one_axis",
            ErrorKind::usage,
            [] {
              return Inputs(mx::array({1, 2}));
            },
            {"1 axes"}),
        run("longer_than_the_context",
            ErrorKind::usage,
            [] { return Inputs(std::vector<int>(65, 1)); },
            {"65", "64"}),
        run("text_without_a_tokenizer",
            ErrorKind::usage,
            [] { return Inputs("text"); },
            {"tokenizer"})),
    name_of);

Case name(
    const std::string& what,
    ErrorKind kind,
    const std::string& site,
    const std::vector<std::string>& says) {
  return {
      what,
      kind,
      [site](const InterpretableModel& model) {
        model.run(prompt, {.save = {site}});
      },
      says};
}

INSTANTIATE_TEST_SUITE_P(
    Name,
    Misuse,
    Values(
        name(
            "misspelt",
            ErrorKind::unknown_name,
            "layers.1.mpl_out",
            {"did you mean layers.1.mlp_out"}),
        name("empty", ErrorKind::unknown_name, "", {}),
        name("hostile", ErrorKind::unknown_name, "\x1b[2J\xff", {"\\x1b"}),
        name("long", ErrorKind::usage, std::string(100'000, 'x'), {}),
        name(
            "layer_beyond", ErrorKind::unknown_name, "layers.3.mlp_out", {"3"}),
        name("layer_negative", ErrorKind::unknown_name, "layers.-1.z", {}),
        name("brace_open", ErrorKind::usage, "layers.{1", {"{"}),
        name("brace_closed", ErrorKind::usage, "layers.1}", {"}"}),
        name("brace_empty", ErrorKind::usage, "layers.{}.x", {"{"}),
        name("brace_in_brace", ErrorKind::usage, "{{1,2}}", {"{"}),
        name("range_turned", ErrorKind::usage, "layers.{3..1}.x", {"range"}),
        name("range_of_words", ErrorKind::usage, "layers.{a..b}.x", {"range"}),
        name(
            "range_endless",
            ErrorKind::usage,
            "layers.{0..2000000000}.x",
            {"range"}),
        name(
            "choices_multiplied",
            ErrorKind::usage,
            "{1..999}.{1..999}.{1..999}",
            {"10000 names"}),
        Case{
            "edit_of_no_site",
            ErrorKind::unknown_name,
            [](const auto& model) {
              (void)model.trace(prompt, {{"layers.9", zero_out()}});
            },
            {"layers.9"}},
        Case{
            "module",
            ErrorKind::unknown_name,
            [](const auto& model) { model.layers()[0]["attnn"]; },
            {"layers.0.attnn"}},
        Case{
            "layer_3_of_3",
            ErrorKind::out_of_range,
            [](const auto& model) { model.layers()[3]; },
            {"the model has 3"}},
        Case{
            "layer_minus_4_of_3",
            ErrorKind::out_of_range,
            [](const auto& model) { model.layers()[-4]; },
            {"-4"}},
        Case{
            "pattern_for_one",
            ErrorKind::usage,
            [](const auto& model) { model.sites().find("layers.*.attn.z"); },
            {"means 3 sites"}}),
    name_of);

Case edit(
    const std::string& what,
    ErrorKind kind,
    const std::function<Intervention()>& make,
    std::vector<std::string> says = {}) {
  return {
      what,
      kind,
      [make](const InterpretableModel& model) {
        model.run(
            prompt,
            {.save = {"logits"}, .edits = {{"layers.1.mlp_out", make()}}});
      },
      std::move(says)};
}

INSTANTIATE_TEST_SUITE_P(
    Edit,
    Misuse,
    Values(
        edit(
            "of_another_rank",
            ErrorKind::usage,
            [] { return [](const mx::array& x) { return mx::sum(x, 1); }; },
            {"layers.1.mlp_out", "(1, 24)", "(1, 5, 24)"}),
        edit(
            "that_would_broadcast",
            ErrorKind::usage,
            [] {
              return [](const mx::array& x) { return mx::sum(x, 1, true); };
            },
            {"(1, 1, 24)", "(1, 5, 24)"}),
        edit(
            "replaced_by_a_vector",
            ErrorKind::usage,
            [] { return replace_with(mx::zeros({24})); }),
        edit(
            "plus_another_width",
            ErrorKind::usage,
            [] { return add_vector(mx::zeros({25})); },
            {"25"}),
        edit(
            "of_another_precision",
            ErrorKind::usage,
            [] {
              return
                  [](const mx::array& x) { return mx::astype(x, mx::float16); };
            },
            {"float16", "float32"}),
        edit(
            "complex",
            ErrorKind::usage,
            [] {
              return [](const mx::array& x) {
                return mx::astype(x, mx::complex64);
              };
            },
            {"complex64"}),
        edit(
            "nan",
            ErrorKind::usage,
            [] {
              return [](const mx::array& x) {
                return mx::full(x.shape(), mx::array(NAN));
              };
            },
            {"layers.1.mlp_out", "NaN"}),
        edit(
            "plus_complex",
            ErrorKind::usage,
            [] { return add_vector(mx::zeros({24}, mx::complex64)); },
            {"complex64"}),
        edit(
            "replaced_by_complex",
            ErrorKind::usage,
            [] {
              return replace_with(mx::zeros({1, 5, 24}, mx::complex64));
            },
            {"complex64"}),
        edit(
            "part_of_another_precision",
            ErrorKind::usage,
            [] {
              return on_neurons({1}, [](const mx::array& x) {
                return mx::astype(x, mx::float16);
              });
            },
            {"dtype"}),
        edit(
            "part_of_another_shape",
            ErrorKind::usage,
            [] {
              return on_neurons(
                  {1}, [](const mx::array& x) { return mx::sum(x, 1); });
            },
            {"(1, 5, 1)", "(1, 1)"}),
        edit(
            "position_beyond",
            ErrorKind::out_of_range,
            [] { return at_positions({5}, zero_out()); },
            {"5"}),
        edit(
            "position_before",
            ErrorKind::out_of_range,
            [] { return at_positions({-6}, zero_out()); },
            {"-6"}),
        edit(
            "neuron_huge",
            ErrorKind::out_of_range,
            [] { return on_neurons({2'000'000'000}, zero_out()); },
            {"2000000000"}),
        edit(
            "neuron_least",
            ErrorKind::out_of_range,
            [] { return on_neurons({-2'147'483'647 - 1}, zero_out()); },
            {"-2147483648"}),
        edit(
            "heads_where_there_are_none",
            ErrorKind::usage,
            [] { return on_heads({0}, zero_out()); },
            {"head"}),
        edit(
            "noise_of_a_negative_size",
            ErrorKind::usage,
            [] { return noise(-1); },
            {"-1"}),
        edit(
            "noise_of_no_size",
            ErrorKind::usage,
            [] { return noise(NAN); },
            {"[noise]"}),
        edit(
            "an_empty_function",
            ErrorKind::usage,
            [] { return std::function<mx::array(const mx::array&)>(); },
            {"empty"}),
        edit(
            "an_empty_function_of_two",
            ErrorKind::usage,
            [] {
              return std::function<mx::array(
                  const mx::array&, const SiteView&)>();
            },
            {"empty"}),
        edit(
            "a_null_pointer",
            ErrorKind::usage,
            [] {
              mx::array (*none)(const mx::array&) = nullptr;
              return none;
            },
            {"empty"}),
        edit(
            "bounds_turned",
            ErrorKind::usage,
            [] { return clamp(2, 1); },
            {"2", "1"}),
        Case{
            "never_reached",
            ErrorKind::usage,
            [](const auto& model) {
              model.run(
                  prompt,
                  {.save = {"layers.1.attn.o_proj.input"},
                   .edits = {{"layers.1.attn.result", scale(2)}}});
            },
            {"never reached", "layers.1.attn.o_proj.input"}}),
    name_of);

Case integers(
    const std::string& what,
    const std::string& site,
    const Intervention& change,
    const std::vector<std::string>& says,
    ErrorKind kind = ErrorKind::out_of_range) {
  return {
      what,
      kind,
      [site, change](const InterpretableModel&) {
        auto config = test::tiny_config();
        config.positions = config.context;
        config.moe = nn::MoEConfig{24, 40, 5, 2};
        test::tiny_model(config).run(
            prompt, {.save = {"logits"}, .edits = {{site, change}}});
      },
      says};
}

INSTANTIATE_TEST_SUITE_P(
    Integers,
    Misuse,
    Values(
        integers(
            "token_of_vocabulary",
            "tokens",
            replace_with(97),
            {"id 97", "tokens", "96"}),
        integers(
            "token_far_away",
            "tokens",
            replace_with(1e8f),
            {"tokens", "100000000"}),
        integers("token_negative", "tokens", scale(-1), {"tokens", "-3"}),
        integers(
            "one_token",
            "tokens",
            on_neurons({4}, replace_with(1000)),
            {"tokens", "1000"}),
        integers(
            "embedding_row",
            "embed.input",
            scale(100'000),
            {"embed.input", "300000", "96"}),
        integers(
            "position",
            "pos_embed.input",
            replace_with(400'000'000),
            {"pos_embed.input", "400000000", "63"}),
        integers(
            "position_before_the_first",
            "pos_embed.input",
            add_vector(mx::array(-1)),
            {"pos_embed.input", "-1"}),
        integers(
            "expert",
            "layers.1.mlp.expert_indices",
            replace_with(3'000'000),
            {"layers.1.mlp.expert_indices", "3000000", "4"}),
        integers(
            "expert_of_five",
            "layers.2.mlp.expert_indices",
            replace_with(5),
            {"layers.2.mlp.expert_indices", "expert 5"}),
        integers(
            "noise_on_tokens",
            "tokens",
            noise(1),
            {"[noise]", "tokens"},
            ErrorKind::usage)),
    name_of);

// What is in range goes through, and means what it says.
TEST(OddUse, TokensAndExpertsMayBeEdited) {
  auto config = test::tiny_config();
  config.moe = nn::MoEConfig{24, 40, 5, 2};
  const auto model = test::tiny_model(config);
  const auto logits = [&](std::vector<int> ids, std::vector<Edit> edits) {
    return model.run(
        ids, {.save = {"logits"}, .edits = std::move(edits)})["logits"];
  };
  test::expect_repeated(
      logits(prompt, {{"tokens", replace_with(96)}}),
      logits(std::vector<int>(prompt.size(), 96), {}),
      "edited tokens");
  logits(prompt, {{"layers.1.mlp.expert_indices", replace_with(4)}});
}

INSTANTIATE_TEST_SUITE_P(
    Trace,
    Misuse,
    Values(
        Case{
            "save_outside",
            ErrorKind::usage,
            [](const auto& model) { model.output().save(); },
            {"outside a trace"}},
        Case{
            "value_outside",
            ErrorKind::usage,
            [](const auto& model) { model.output().value(); },
            {"outside a trace"}},
        Case{
            "nothing_saved",
            ErrorKind::usage,
            [](const auto&) { Saved().value(); },
            {"nothing was saved"}},
        Case{
            "save_after_its_end",
            ErrorKind::usage,
            [](const auto& model) {
              auto trace = model.trace(prompt);
              trace.finish();
              trace.save("logits");
            },
            {"has ended"}},
        Case{
            "value_after_its_end",
            ErrorKind::usage,
            [](const auto& model) {
              auto trace = model.trace(prompt);
              trace.finish();
              trace.value("logits");
            },
            {"has ended"}},
        Case{
            "output_after_its_end",
            ErrorKind::usage,
            [](const auto& model) {
              auto trace = model.trace(prompt);
              trace.finish();
              trace.output();
            },
            {"has ended"}},
        Case{
            "of_another_model",
            ErrorKind::usage,
            [](const auto& model) {
              const auto other = test::tiny_model();
              auto trace = other.trace(prompt);
              model.output().save();
            },
            {"another model"}},
        Case{
            "left_by_an_exception",
            ErrorKind::usage,
            [](const auto& model) {
              Saved logits;
              try {
                auto trace = model.trace(prompt);
                logits = model.output().save();
                throw std::runtime_error("mine");
              } catch (const std::runtime_error&) {
              }
              logits.value();
            },
            {"exception left"}},
        Case{
            "read_on_another_thread",
            ErrorKind::usage,
            [](const auto& model) {
              auto trace = model.trace(prompt);
              elsewhere([&] { trace.value("layers.0.attn.pattern"); });
            },
            {"another thread"}},
        Case{
            "saved_on_another_thread",
            ErrorKind::usage,
            [](const auto& model) {
              auto trace = model.trace(prompt);
              elsewhere([&] { trace.save("logits"); });
            },
            {"another thread"}},
        Case{
            "finished_on_another_thread",
            ErrorKind::usage,
            [](const auto& model) {
              auto trace = model.trace(prompt);
              trace.save("logits");
              elsewhere([&] { trace.finish(); });
            },
            {"another thread"}},
        Case{
            "deleted_on_another_thread",
            ErrorKind::usage,
            [](const auto& model) {
              std::unique_ptr<mlxterp::Trace> trace(
                  new mlxterp::Trace(model.trace(prompt)));
              const auto logits = trace->save("logits");
              elsewhere([&] { trace.reset(); });
              EXPECT_EQ(TraceContext::current(), nullptr);
              logits.value();
            },
            {"another thread"}},
        Case{
            "more_than_the_memory",
            ErrorKind::environment,
            [](const auto&) {
              auto config = test::tiny_config();
              config.vocab = 1 << 22;
              config.context = 1 << 20;
              const InterpretableModel large(std::make_shared<Decoder>(config));
              large.run(std::vector<int>(1 << 20, 1), {.save = {"logits"}});
            },
            {"GB"}}),
    name_of);

TEST(OddUse, AProxyOutlivesItsModel) {
  std::optional<OutputProxy> proxy;
  {
    const auto model = test::tiny_model();
    proxy = model.layers()[1].output();
  }
  EXPECT_EQ(proxy->name(), "layers.1.resid_post");
  EXPECT_THROW(proxy->save(), Error);
}

TEST(OddUse, AnInterventionMayRunTheModelItself) {
  const auto model = test::tiny_model();
  const auto other = model.run({7, 8, 9, 10, 11}, {.save = {"layers.0"}});
  const Edit plain{"layers.0", replace_with(other["layers.0"])};
  const Edit within{"layers.0", [&](const mx::array&) {
                      auto trace = model.trace({7, 8, 9, 10, 11});
                      auto seen = model.layers()[0].output().save();
                      trace.finish();
                      return seen.value();
                    }};
  const auto logits = [&](const Edit& made) {
    return model.run(prompt, {.save = {"logits"}, .edits = {made}})["logits"];
  };
  test::expect_repeated(logits(within), logits(plain), "a run within a run");
}

// MLX cannot evaluate while it compiles; what it says arrives unchanged.
TEST(OddUse, AnInterventionThatEvaluatesWhileMlxCompiles) {
  const auto model = test::tiny_model();
  const auto plain = model.run(prompt, {.save = {"logits"}})["logits"];
  const auto edited = mx::compile(
      [&](const std::vector<mx::array>& in) -> std::vector<mx::array> {
        const Intervention peek = [&](const mx::array& x) {
          auto sum = mx::sum(mx::add(x, in[0]));
          sum.eval();
          return x;
        };
        auto trace = model.trace(prompt, {{"layers.1.mlp_out", peek}});
        return {trace.output()};
      });
  try {
    edited({mx::array(1.0f)});
    ADD_FAILURE() << "it was evaluated";
  } catch (const std::exception& error) {
    EXPECT_NE(std::string(error.what()).find("eval"), std::string::npos)
        << error.what();
  }
  EXPECT_EQ(TraceContext::current(), nullptr);
  const auto again = model.run(prompt, {.save = {"logits"}})["logits"];
  test::expect_repeated(again, plain, "the next run");
}

// Layers with a window may turn by a rotation of their own, and that one may
// depend on the length of the batch where the other does not.
TEST(OddUse, RowsThatOneLayerWouldTurnDifferently) {
  auto config = test::tiny_config();
  config.windows = {4, 4, 0};
  config.local_rope = config.rope;
  config.local_rope->dynamic = {2.0f, 3};
  const auto model = test::tiny_model(config);
  try {
    model.run(Inputs::Rows{{1, 2}, prompt}, {.save = {"logits"}});
    ADD_FAILURE() << "they were accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::usage);
    EXPECT_NE(
        std::string(error.what()).find("differs between lengths 2 and 5"),
        std::string::npos)
        << error.what();
  }
  EXPECT_EQ(
      model.run(Inputs::Rows{{1, 2}, {3}}, {.save = {"logits"}})
          .lengths()
          .size(),
      2u);
}

// Small values are summed up first and looked at where that says so, large ones
// are looked at: both say the same, in every dtype.
TEST(Edit, WhatIsNotFiniteIsSaidOfSmallAndLargeValues) {
  size_t tried = 0;
  for (const auto dtype : {mx::float32, mx::float16, mx::bfloat16}) {
    const auto model = test::load_variant("llama-gqa", dtype);
    for (const size_t rows : {size_t{1}, size_t{90}}) {
      const Inputs texts(Inputs::Rows(rows, std::vector<int>(40, 5)));
      const auto said = [&](const std::vector<Edit>& edits) {
        return test::error_of([&] {
          const auto run =
              model.run(texts, {.save = {"layers.1.mlp_out"}, .edits = edits});
          ASSERT_EQ(run["layers.1.mlp_out"].size() > 1u << 16, rows > 1);
        });
      };
      // At one number of many.
      const auto put = [](float value) {
        return [value](const mx::array& x) {
          const auto where =
              mx::equal(mx::arange(static_cast<int>(x.size())), mx::array(7));
          return mx::where(
              mx::reshape(where, x.shape()), mx::array(value, x.dtype()), x);
        };
      };
      const auto what = fmt::format("{} rows", rows);
      for (const float infinity : {INFINITY, -INFINITY})
        EXPECT_SAYS(
            said({{"layers.1.mlp_out", put(infinity)}}),
            "returned an infinity");
      EXPECT_SAYS(said({{"layers.1.mlp_out", put(NAN)}}), "returned NaN");
      EXPECT_EQ(said({{"layers.1.mlp_out", scale(0.5f)}}), "") << what;
      EXPECT_EQ(said({{"layers.1.mlp_out", put(3e4f)}}), "") << what;
      tried += 5;
    }
  }
  EXPECT_EQ(tried, 30u);
}

}  // namespace
}  // namespace mlxterp
