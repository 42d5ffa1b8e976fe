// Every verb that sweeps or measures: what it prints is what the library says
// of the same options, each of which differs here from its default.

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "mlxterp/mlxterp.h"
#include "tests/cli/program.h"
#include "tests/cli/worded_checkpoint.h"
#include "tests/temp_folder.h"

namespace mlxterp {
namespace {

using nlohmann::json;
using Words = std::vector<std::string>;

class Verbs : public test::Program {
 protected:
  void SetUp() override {
    Program::SetUp();
    path = test::worded_checkpoint(place).string();
    model.emplace(InterpretableModel::load(path));
  }

  json answer(Words arguments) const {
    arguments.emplace_back("--json");
    const auto outcome = run(arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    if (outcome.code != 0) return {};
    auto out = json::parse(outcome.out);
    // What is told stands in the answer: a model of noise does nothing well.
    std::string told;
    for (const auto& sentence : out.value("warnings", json::array()))
      told += "mlxterp: warning: " + sentence.get<std::string>() + "\n";
    EXPECT_EQ(outcome.err, told);
    return out;
  }

  /** The cells of an answer are those values, in that order. */
  static void expect_values(
      const json& cells, const std::vector<float>& values) {
    ASSERT_EQ(cells.size(), values.size());
    ASSERT_GT(values.size(), 0u);
    float most = 1e-3f;
    for (const float value : values)
      most = std::max(most, std::abs(value));
    for (size_t i = 0; i < values.size(); ++i)
      EXPECT_NEAR(cells[i].get<float>(), values[i], 1e-4f * most) << i;
  }

  static void expect_sweep(
      const json& answer,
      const Sweep& sweep,
      const std::vector<float>& values) {
    expect_values(answer["effect"], values);
    EXPECT_EQ(answer["shape"], json(sweep.shape()));
    ASSERT_EQ(answer["axes"].size(), sweep.axes.size());
    for (size_t i = 0; i < sweep.axes.size(); ++i) {
      EXPECT_EQ(answer["axes"][i]["name"], name(sweep.axes[i].axis));
      EXPECT_EQ(answer["axes"][i]["values"], json(sweep.axes[i].values));
    }
    EXPECT_NEAR(answer["metric"]["clean"].get<float>(), sweep.clean, 1e-4f);
    EXPECT_EQ(answer["pairs"], sweep.pairs);
    EXPECT_EQ(answer["tokens"].size(), sweep.ids.size());
    for (size_t i = 0; i < sweep.ids.size(); ++i)
      EXPECT_EQ(answer["tokens"][i]["id"], sweep.ids[i]);
  }

  testing::TempFolder place;
  std::string path;
  std::optional<InterpretableModel> model;
};

TEST_F(Verbs, Patch) {
  const Words arguments = {
      "patch",         path,          "--clean-ids", "3,4,5,6,7,8",
      "--corrupt-ids", "3,9,5,6,8,8", "--metric",    "logit_diff(id:5,id:9)",
      "--site",        "z",           "--by",        "pos,head",
      "--direction",   "noise",       "--layers",    "1,2",
      "--positions",   "1..4",        "--heads",     "0,2,5"};
  PatchOptions options{
      .clean = {3, 4, 5, 6, 7, 8},
      .corrupt = {3, 9, 5, 6, 8, 8},
      .site = "z",
      .by = {Axis::position, Axis::head},
      .metric = logit_diff(5, 9),
      .direction = Direction::noise,
      .layers = {1, 2},
      .positions = {1, 2, 3, 4},
      .heads = {0, 2, 5}};
  const auto sweep = patch(*model, options);
  const auto out = answer(arguments);
  expect_sweep(out, sweep, sweep.effect());
  EXPECT_NEAR(out["metric"]["corrupt"].get<float>(), sweep.corrupt, 1e-4f);
  EXPECT_EQ(out["site"], "z");
  EXPECT_EQ(out["direction"], "noise");
  EXPECT_EQ(out["metric"]["name"], "logit_diff(id:5,id:9)");
  EXPECT_TRUE(out["seconds"]["forward"].is_null());

  for (const auto* more :
       {"--one-pass-per-cell", "--plain", "--compare-cost"}) {
    auto again = arguments;
    again.insert(again.end(), {"--raw", more});
    const auto raw = answer(again);
    expect_sweep(raw, sweep, sweep.metric);
    EXPECT_EQ(
        raw["seconds"]["forward"].is_null(),
        std::string(more) != "--compare-cost");
  }
}

TEST_F(Verbs, PatchOfPromptsOfTwoLengths) {
  const Words pair = {
      "patch",
      path,
      "--clean-ids",
      "3,4,5,6",
      "--corrupt-ids",
      "3,9,9,5,6",
      "--metric",
      "logit(id:5)"};
  auto mapped = pair;
  mapped.insert(mapped.end(), {"--align", "0:0,2..3:3..4"});
  const auto sweep = patch(
      *model,
      {.clean = {3, 4, 5, 6},
       .corrupt = {3, 9, 9, 5, 6},
       .metric = logit(5),
       .position_map = {{0, 0}, {2, 3}, {3, 4}}});
  expect_sweep(answer(mapped), sweep, sweep.effect());
  const auto without = run(pair);
  EXPECT_EQ(without.code, 2);
  EXPECT_NE(without.err.find("--align"), std::string::npos) << without.err;
}

TEST_F(Verbs, PatchOfATask) {
  const auto task = make_task(*model, "induction", {.pairs = 3, .seed = 5});
  const auto sweep = patch(
      *model,
      {.clean = task.clean(),
       .corrupt = task.corrupt(),
       .by = {Axis::layer},
       .metric = task.metric()});
  const auto out = answer(
      {"patch",
       path,
       "--task",
       "induction",
       "--n",
       "3",
       "--seed",
       "5",
       "--by",
       "layer",
       "--raw"});
  expect_sweep(out, sweep, sweep.metric);
  EXPECT_EQ(out["task"], "induction");
  EXPECT_EQ(out["pairs"], 3);
}

TEST_F(Verbs, Ablate) {
  const auto data = place.write(
      "data.txt",
      "the one and the other\nthe third of them all\n\na b c d e\n");
  const Words prompt = {
      "ablate", path, "--ids", "30,40,50,60", "--metric", "prob(id:50)"};
  AblateOptions options{
      .prompts = {30, 40, 50, 60},
      .by = {Axis::layer, Axis::head},
      .metric = probability(50),
      .data = Inputs(Inputs::Texts{
          "the one and the other", "the third of them all", "a b c d e"})};
  const auto with = [&](const Words& more) {
    auto all = prompt;
    all.insert(all.end(), more.begin(), more.end());
    return answer(all);
  };
  // mean is the default, as in C++ and Python.
  auto sweep = ablate(*model, options);
  expect_sweep(with({"--data", data}), sweep, sweep.delta());
  EXPECT_EQ(with({"--data", data})["how"], "mean");
  EXPECT_EQ(options.ablation, Ablation::mean);

  options.ablation = Ablation::zero;
  options.data = {};
  options.site = "mlp.post";
  options.by = {Axis::layer, Axis::neuron};
  options.layers = {0, 2};
  options.positions = {2, 3};
  options.neurons = {7, 9, 11};
  sweep = ablate(*model, options);
  const auto zero = with(
      {"--how",
       "zero",
       "--site",
       "mlp.post",
       "--by",
       "layer,neuron",
       "--layers",
       "0,2",
       "--positions",
       "2,3",
       "--neurons",
       "7,9,11",
       "--raw"});
  expect_sweep(zero, sweep, sweep.metric);
  EXPECT_TRUE(zero["metric"]["corrupt"].is_null());

  options = AblateOptions{
      .prompts = {30, 40, 50, 60},
      .by = {Axis::layer},
      .metric = probability(50),
      .ablation = Ablation::resample,
      .data = Inputs(Inputs::Texts{
          "the one and the other", "the third of them all", "a b c d e"}),
      .samples = 2,
      .seed = 3,
      .heads = {1, 4}};
  sweep = ablate(*model, options);
  const auto resampled = with(
      {"--how",
       "resample",
       "--data",
       data,
       "--samples",
       "2",
       "--seed",
       "3",
       "--by",
       "layer",
       "--heads",
       "1,4"});
  expect_sweep(resampled, sweep, sweep.delta());
  // Each of these counts.
  for (const Words& other :
       {Words{"--samples", "1", "--seed", "3"},
        Words{"--samples", "2", "--seed", "4"}}) {
    Words all = {
        "--how", "resample", "--data", data, "--by", "layer", "--heads", "1,4"};
    all.insert(all.end(), other.begin(), other.end());
    EXPECT_NE(with(all)["effect"], resampled["effect"]);
  }
}

TEST_F(Verbs, AblateSaysWhatItNeeds) {
  const Words prompt = {"ablate", path, "--ids", "3,4", "--metric", "kl"};
  for (const Words& more :
       {Words{}, Words{"--how", "mean"}, Words{"--how", "resample"}}) {
    auto all = prompt;
    all.insert(all.end(), more.begin(), more.end());
    const auto outcome = run(all);
    EXPECT_EQ(outcome.code, 2);
    EXPECT_NE(outcome.err.find("--data"), std::string::npos) << outcome.err;
    EXPECT_NE(outcome.err.find("--how zero"), std::string::npos);
  }
}

TEST_F(Verbs, CausalTrace) {
  const std::string prompt = "the one and the other";
  CausalTraceOptions options{
      .prompt = prompt,
      .subject = "one",
      .metric = log_probability(50),
      .site = "mlp_out",
      .window = 2,
      .noise = 1.5f,
      .samples = 3,
      .seed = 9,
      .layers = {0, 2},
      .positions = {1, 2, 3}};
  const Words arguments = {
      "causal-trace",
      path,
      prompt,
      "--subject",
      "one",
      "--metric",
      "log_prob(id:50)",
      "--site",
      "mlp_out",
      "--window",
      "2",
      "--noise",
      "1.5",
      "--samples",
      "3",
      "--seed",
      "9",
      "--layers",
      "0,2",
      "--positions",
      "1..3"};
  const auto trace = causal_trace(*model, options);
  const auto out = answer(arguments);
  expect_sweep(out, trace.sweep, trace.sweep.effect());
  EXPECT_EQ(out["subject_positions"], json(trace.subject));
  EXPECT_EQ(out["window"], 2);
  EXPECT_NEAR(
      out["metric"]["corrupt"].get<float>(), trace.sweep.corrupt, 1e-4f);
  const auto raw = causal_trace(*model, {.prompt = prompt, .subject = "one"});
  const auto plain =
      answer({"causal-trace", path, prompt, "--subject", "one", "--raw"});
  expect_sweep(plain, raw.sweep, raw.sweep.metric);
  EXPECT_EQ(plain["metric"]["name"].get<std::string>().find("prob("), 0u);
}

TEST_F(Verbs, PathPatch) {
  const std::string clean = "a b and the other", corrupt = "a d and the other";
  ASSERT_EQ(
      model->tokenizer().encode(clean).size(),
      model->tokenizer().encode(corrupt).size());
  const Words pair = {
      "path-patch",
      path,
      "--clean",
      clean,
      "--corrupt",
      corrupt,
      "--metric",
      "logit_diff(id:5,id:9)"};
  PathPatchOptions options{
      .clean = clean,
      .corrupt = corrupt,
      .receivers = {{2, 3, Receiver::Input::q}, {2, 1, Receiver::Input::k}},
      .through_mlps = false,
      .metric = logit_diff(5, 9),
      .direction = Direction::denoise,
      .layers = {0, 1},
      .heads = {0, 3, 4}};
  auto sweep = path_patch(*model, options);
  for (const auto* receivers : {"2.3.q,L2H1.k", "L2H3.q,2H1.k"}) {
    auto all = pair;
    all.insert(
        all.end(),
        {"--receiver",
         receivers,
         "--direct",
         "--direction",
         "denoise",
         "--layers",
         "0,1",
         "--heads",
         "0,3,4"});
    const auto out = answer(all);
    expect_sweep(out, sweep, sweep.effect());
    EXPECT_EQ(out["receivers"], json({"L2H3.q", "L2H1.k"}));
    EXPECT_EQ(out["direct"], true);
  }
  options = {
      .clean = clean,
      .corrupt = corrupt,
      .senders = "mlp_out",
      .metric = logit_diff(5, 9)};
  sweep = path_patch(*model, options);
  auto all = pair;
  all.insert(all.end(), {"--senders", "mlp_out", "--raw"});
  expect_sweep(answer(all), sweep, sweep.metric);
  // The same prompts by their ids.
  const auto ids = [&](const std::string& text) {
    return fmt::format("{}", fmt::join(model->tokenizer().encode(text), ","));
  };
  all = {
      "path-patch",
      path,
      "--clean-ids",
      ids(clean),
      "--corrupt-ids",
      ids(corrupt),
      "--metric",
      "logit_diff(id:5,id:9)",
      "--senders",
      "mlp_out",
      "--raw"};
  expect_sweep(answer(all), sweep, sweep.metric);
  all.insert(all.end(), {"--clean", clean});
  EXPECT_NE(run(all).err.find("not both"), std::string::npos);
}

TEST_F(Verbs, OneFileIsNotTwo) {
  const std::string file = folder / "out";
  const auto outcome = run(
      {"patch",
       path,
       "--clean-ids",
       "3,4",
       "--corrupt-ids",
       "5,4",
       "--metric",
       "logit(id:5)",
       "-o",
       file,
       "--html",
       (folder / "." / "out").string(),
       "--force"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_NE(outcome.err.find("give two files"), std::string::npos)
      << outcome.err;
  EXPECT_FALSE(std::filesystem::exists(file));
}

TEST_F(Verbs, Attribute) {
  const AttributeOptions options{
      .clean = {3, 4, 5, 6, 7},
      .corrupt = {3, 9, 5, 6, 8},
      .sites = {"resid_pre", "z"},
      .by = {Axis::layer, Axis::position},
      .metric = logit_diff(5, 9),
      .direction = Direction::noise,
      .rule = linear_rule("relevance+hold(attn.pattern)"),
      .steps = 3,
      .layers = {1, 2},
      .positions = {1, 4}};
  const auto found = attribute(*model, options);
  const auto out = answer({"attribute",     path,
                           "--clean-ids",   "3,4,5,6,7",
                           "--corrupt-ids", "3,9,5,6,8",
                           "--metric",      "logit_diff(id:5,id:9)",
                           "--site",        "resid_pre,z",
                           "--direction",   "noise",
                           "--rule",        "relevance+hold(attn.pattern)",
                           "--steps",       "3",
                           "--layers",      "1,2",
                           "--positions",   "1,4",
                           "--exact"});
  ASSERT_EQ(out["sites"].size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    expect_values(out["sites"][i]["effect"], found[i].sweep.effect());
    PatchOptions exact{
        .clean = options.clean,
        .corrupt = options.corrupt,
        .site = options.sites[i],
        .by = options.by,
        .metric = options.metric,
        .direction = options.direction,
        .layers = options.layers,
        .positions = options.positions};
    const auto whole = patch(*model, exact);
    expect_values(out["sites"][i]["exact"]["effect"], whole.effect());
    EXPECT_NEAR(
        out["sites"][i]["exact"]["pearson"].get<double>(),
        compare(whole, found[i].sweep).pearson,
        1e-3);
  }
  EXPECT_EQ(out["steps"], 3);
  EXPECT_EQ(out["rule"], "relevance+hold(attn.pattern)");
}

TEST_F(Verbs, Dla) {
  auto metric = logit_diff(5, 9);
  metric.position = -2;
  const auto dla = logit_attribution(
      *model,
      {.prompts = Inputs::Rows{{3, 4, 5, 6}},
       .metric = metric,
       .unit = Unit::head});
  const auto out = answer(
      {"dla",
       path,
       "--ids",
       "3,4,5,6",
       "--metric",
       "logit_diff(id:5,id:9)",
       "--unit",
       "head",
       "--position",
       "-2"});
  ASSERT_EQ(out["parts"].size(), dla.parts.size());
  std::vector<float> values;
  auto cells = json::array();
  for (size_t i = 0; i < dla.parts.size(); ++i) {
    EXPECT_EQ(out["parts"][i]["name"], dla.parts[i].name());
    cells.push_back(out["parts"][i]["value"]);
    values.push_back(dla.parts[i].value);
  }
  expect_values(cells, values);
  expect_values(out["accumulated"], dla.accumulated);
  EXPECT_NEAR(out["model_logit"].get<float>(), dla.model, 1e-3f);
}

TEST_F(Verbs, Heads) {
  const auto scores = head_scores(
      *model,
      Inputs::Rows{{30, 31, 30, 31, 32}},
      {.measure = HeadMeasure::mul,
       .exclude_first = true,
       .exclude_current = true});
  const auto out = answer(
      {"heads",
       path,
       "--ids",
       "30,31,30,31,32",
       "--measure",
       "mul",
       "--exclude-first",
       "--exclude-current",
       "--top",
       "2"});
  size_t compared = 0;
  for (const auto kind : head_kinds) {
    const auto& grid = scores[kind];
    const auto& entry = out["kinds"][name(kind)];
    for (int i = 0; i < grid.layers; ++i)
      for (int j = 0; j < grid.heads; ++j)
        if (const float value = grid.at({i, j}); std::isfinite(value)) {
          EXPECT_NEAR(
              entry["scores"][static_cast<size_t>(i)][static_cast<size_t>(j)]
                  .get<float>(),
              value,
              1e-4f);
          ++compared;
        }
    EXPECT_LE(entry["best"].size(), 2u);
  }
  EXPECT_GT(compared, 50u);
}

// Each verb that runs the model runs the edited one.
TEST_F(Verbs, EditsStandInEveryVerb) {
  const auto edited = model->with({{"layers.0.mlp_out", scale(0.25f)}});
  const auto sweep = patch(
      edited,
      {.clean = {3, 4, 5, 6}, .corrupt = {3, 9, 5, 6}, .metric = logit(5)});
  const Words edit = {"--edit", "layers.0.mlp_out=scale(0.25)"};
  Words patching = {
      "patch",
      path,
      "--clean-ids",
      "3,4,5,6",
      "--corrupt-ids",
      "3,9,5,6",
      "--metric",
      "logit(id:5)"};
  patching.insert(patching.end(), edit.begin(), edit.end());
  const auto out = answer(patching);
  expect_sweep(out, sweep, sweep.effect());
  EXPECT_EQ(out["edits"], json({edit[1]}));

  const std::vector<Words> verbs = {
      {"ablate",
       path,
       "--ids",
       "3,4,5",
       "--how",
       "zero",
       "--metric",
       "logit(id:5)"},
      {"causal-trace", path, "a b c", "--subject", "b"},
      {"path-patch",
       path,
       "--clean",
       "a b c",
       "--corrupt",
       "a d c",
       "--metric",
       "logit(id:5)"},
      {"attribute",
       path,
       "--clean-ids",
       "3,4",
       "--corrupt-ids",
       "5,4",
       "--metric",
       "logit(id:5)"},
      {"dla", path, "--ids", "3,4,5", "--metric", "logit(id:5)"},
      {"lens", path, "--ids", "3,4,5"},
      {"heads", path, "--ids", "3,4,3"},
      {"tasks", path, "induction", "--n", "2"},
      {"trace", path, "--ids", "3,4,5"}};
  for (const auto& verb : verbs) {
    auto plain = answer(verb);
    auto all = verb;
    all.insert(all.end(), edit.begin(), edit.end());
    auto with = answer(all);
    EXPECT_EQ(with["edits"], json({edit[1]})) << verb[0];
    for (auto* it : {&plain, &with})
      for (const auto* key : {"edits", "seconds"})
        it->erase(key);
    EXPECT_NE(plain, with) << verb[0] << ": the edit changes nothing";
  }
}

TEST_F(Verbs, MemoryIsANumberOfMegabytes) {
  const Words pair = {
      "--clean",
      "a b c",
      "--corrupt",
      "a d c",
      "--metric",
      "logit(id:5)",
      "--memory"};
  const std::vector<Words> verbs = {
      {"patch", path},
      {"path-patch", path},
      {"attribute", path},
      {"ablate", path, "a b", "--how", "zero"},
      {"causal-trace", path, "a b", "--subject", "a"}};
  for (const auto& verb : verbs)
    for (const auto* memory : {"inf", "-1", "nan", "1e300"}) {
      auto all = verb;
      if (verb.size() == 2)
        all.insert(all.end(), pair.begin(), pair.end());
      else
        all.insert(all.end(), {"--metric", "logit(id:5)", "--memory"});
      all.emplace_back(memory);
      const auto outcome = run(all);
      EXPECT_EQ(outcome.code, 2) << verb[0] << " " << memory << outcome.out;
      EXPECT_NE(outcome.err.find("--memory"), std::string::npos)
          << verb[0] << " " << memory << ": " << outcome.err;
    }
}

// No line of a help text is too wide, its examples' neither.
void expect_narrow(const std::string& help, const std::string& verb) {
  EXPECT_NE(help.find("Example:"), std::string::npos) << verb;
  size_t lines = 0;
  for (size_t at = 0, end = 0; at < help.size(); at = end + 1, ++lines) {
    end = std::min(help.find('\n', at), help.size());
    EXPECT_LE(end - at, 80u) << verb << ": " << help.substr(at, end - at);
  }
  EXPECT_GT(lines, 5u) << verb;
}

TEST_F(Verbs, HelpFitsInEightyColumns) {
  const auto all = run({"--help"}).out;
  expect_narrow(all, "--help");
  // Those that it lists.
  auto at = all.find("Subcommands:\n");
  ASSERT_NE(at, std::string::npos);
  at = all.find('\n', at) + 1;
  size_t verbs = 0;
  for (size_t end; (end = all.find('\n', at)) > at; at = end + 1) {
    if (all[at + 2] == ' ') continue;  // a description goes on
    const auto verb = all.substr(at + 2, all.find(' ', at + 2) - at - 2);
    const auto help = run({verb, "--help"});
    EXPECT_EQ(help.code, 0) << verb;
    EXPECT_EQ(help.err, "") << verb;
    expect_narrow(help.out, verb);
    ++verbs;
  }
  EXPECT_GE(verbs, 16u);
  for (const auto* verb : {"train", "eval"})
    expect_narrow(run({"tuned-lens", verb, "--help"}).out, verb);
  for (const auto* verb : {"fit", "merge", "directions", "local", "space"})
    expect_narrow(run({"jlens", verb, "--help"}).out, verb);
  for (const auto* verb : {"train", "sweep", "apply", "export", "import"})
    expect_narrow(run({"steer", verb, "--help"}).out, verb);
  for (const auto* verb :
       {"info", "convert", "encode", "eval", "dashboards", "train"})
    expect_narrow(run({"sae", verb, "--help"}).out, verb);
}

TEST_F(Verbs, AFitOfIdsTakesPromptsOfTheLengthAndARuleOfOnesOwn) {
  const std::string family =
      MLXTERP_SOURCE_DIR "/tests/parity/families/llama-gqa";
  const testing::TempFolder written;
  const auto ids = (written / "ids.json").string();
  std::ofstream(ids) << "[[1,5,9,11,3,2],[2,4,8,1],[3,3,8,1,9,7,4,4]]";
  int n = 0;
  const auto fit = [&](const Words& more) {
    Words all = {
        "jlens", "fit", family, "--ids-file", ids, "--skip", "1", "--json"};
    all.insert(all.end(), {"-o", (written / std::to_string(n++)).string()});
    all.insert(all.end(), more.begin(), more.end());
    return run(all);
  };
  const auto source = [&](const Words& more) {
    const auto outcome = fit(more);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return outcome.code == 0 ? json::parse(outcome.out).at("source") : json();
  };
  EXPECT_EQ(source({}).at("length"), 8);
  EXPECT_EQ(source({"--length", "4"}).at("length"), 4);
  EXPECT_EQ(source({"--length", "9"}).at("length"), 8);
  EXPECT_EQ(
      source({"--rule", "hold(attn.pattern,ln1.scale)"}).at("rule"),
      "hold(attn.pattern, ln1.scale)");
  const std::pair<Words, const char*> refused[] = {
      {{"--length", "2"}, "--length is 2"},
      {{"--length", "-1"}, "--length is -1"},
      {{"--rule", "hold(attn.patern)"}, "layers.0.attn.pattern"},
      {{"--rule", "hold(resid_pre)"}, "resid_pre"},
      {{"--rule", "hold()"}, "there is no rule 'hold()'"}};
  for (const auto& [more, said] : refused) {
    const auto outcome = fit(more);
    EXPECT_EQ(outcome.code, 2) << said;
    EXPECT_NE(outcome.err.find(said), std::string::npos) << outcome.err;
  }
}

TEST_F(Verbs, AWordWithoutItsSpaceIsPointedOut) {
  const std::string demo = "demo";
  const Words pair = {
      "--clean",
      "When Mary and John went to the store, John gave a drink to",
      "--corrupt",
      "When Mary and John went to the store, Mary gave a drink to",
      "--layers",
      "29",
      "--positions",
      "-1",
      "--metric"};
  Words all = {"patch", demo};
  all.insert(all.end(), pair.begin(), pair.end());
  auto odd = all;
  odd.emplace_back("logit_diff(Mary, John)");
  const auto outcome = run(odd);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("warning: 'Mary'"), std::string::npos);
  EXPECT_NE(outcome.err.find("' Mary'"), std::string::npos) << outcome.err;
  all.emplace_back("logit_diff( Mary, John)");
  EXPECT_EQ(run(all).err, "");
  const auto tracked =
      run({"lens", demo, "a", "--layers", "-1", "--track", "Paris"});
  EXPECT_NE(tracked.err.find("' Paris'"), std::string::npos) << tracked.err;
}

TEST_F(Verbs, APromptMayComeFromStdin) {
  const auto quoted = test::quoted(path);
  const auto piped =
      shell("echo 'the one' | " + binary() + " lens " + quoted + " - --json");
  ASSERT_EQ(piped.code, 0) << piped.err;
  const auto given = run({"lens", path, "the one", "--json"});
  EXPECT_EQ(json::parse(piped.out), json::parse(given.out));
  EXPECT_EQ(shell(binary() + " lens " + quoted + " - </dev/null").code, 2);
}

// What never ends, or waits for its writer, is named as no text.
TEST_F(Verbs, TextsAreRegularFiles) {
  const auto pipe = folder / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  for (const std::string file : {"/dev/zero", pipe.c_str(), folder.c_str()})
    for (const Words& words :
         {Words{
              "tuned-lens",
              "train",
              path,
              "--output",
              (folder / "lens").string(),
              "--text",
              file},
          Words{
              "ablate",
              path,
              "the one",
              "--metric",
              "logit(id:1)",
              "--data",
              file}}) {
      const auto outcome = run(words);
      EXPECT_EQ(outcome.code, 4) << outcome.err;
      EXPECT_NE(outcome.err.find("a text file"), std::string::npos)
          << outcome.err;
    }
  const auto endless =
      shell(binary() + " lens " + test::quoted(path) + " - </dev/zero");
  EXPECT_EQ(endless.code, 2) << endless.err;
}

#ifdef __linux__  // elsewhere processes are not held to `ulimit -v`
// The answer, or an error in words: no signal, and never without end.
TEST_F(Verbs, LittleAddressSpace) {
  for (const int megabytes : {250, 500, 1700, 2000, 2300}) {
    const auto limit = fmt::format(
        "ulimit -v {}; timeout 600 {} ", megabytes * 1000, binary());
    // Too long a prompt for all limits but the last, which has it shorter.
    const auto* ids = megabytes < 2300 ? "100..1600" : "100..300";
    for (const std::string& words :
         {"info " + test::quoted(path),
          fmt::format(
              "trace demo --ids {} --save 'layers.{{0..7}}.attn.pattern' "
              ">/dev/null",
              ids)}) {
      const auto outcome = shell(limit + words);
      EXPECT_TRUE(outcome.code == 0 || outcome.code == 4)
          << megabytes << " MB: " << outcome.code << ' ' << outcome.err;
      if (outcome.code == 4) {
        EXPECT_NE(outcome.err.find("mlxterp: "), std::string::npos);
      }
    }
  }
}
#endif

TEST_F(Verbs, RevisionIsForTheHub) {
  const auto outcome = run({"info", path, "--revision", "main"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_NE(outcome.err.find("--revision"), std::string::npos);
}

// Ids need no tokenizer, whatever is asked of them.
TEST_F(Verbs, IdsNeedNoTokenizer) {
  const testing::TempFolder bare_place;
  const std::string bare = testing::TinyCheckpoint().write(bare_place);
  const std::vector<Words> all = {
      {"lens", bare, "--ids", "3,4", "--track", "id:5"},
      {"trace", bare, "--ids", "3,4", "--track", "id:5"},
      {"dla", bare, "--ids", "3,4", "--metric", "logit(id:5)"},
      {"heads", bare, "--ids", "3,4,3"},
      {"patch",
       bare,
       "--clean-ids",
       "3,4",
       "--corrupt-ids",
       "5,4",
       "--metric",
       "logit(id:5)"},
      {"verify",
       MLXTERP_SOURCE_DIR "/tests/parity/families/llama-gqa",
       "--ids",
       "3,4"}};
  for (const auto& arguments : all) {
    const auto outcome = run(arguments);
    EXPECT_EQ(outcome.code, 0) << arguments[0] << ": " << outcome.err;
  }
}

TEST_F(Verbs, EmptyAnswersAreNamed) {
  const auto outcome = run({"trace", path, "a", "--metric", "logit_diff(,,.)"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_NE(outcome.err.find("empty token"), std::string::npos) << outcome.err;
}

}  // namespace
}  // namespace mlxterp
