#include "mlxterp/report/sweep.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "mlxterp/report/attribution.h"
#include "tests/spec/model.h"

namespace mlxterp::report {
namespace {

using nlohmann::json;
using test::demo_without_weights;
using Texts = std::vector<std::string>;

// Two layers and three positions; clean 4, corrupted 2.
Sweep sweep_of(Direction direction) {
  Sweep sweep;
  sweep.axes = {{Axis::layer, {5, 6}}, {Axis::position, {0, 1, 2}}};
  sweep.metric = {2, 2.5f, 3, 3.5f, 4, 5};
  sweep.spread = {0, 0, 0, 0, 0, 0.5f};
  sweep.clean = 4;
  sweep.corrupt = 2;
  sweep.direction = direction;
  sweep.pairs = 2;
  sweep.computed = 5;
  sweep.rows = 40;
  sweep.ids = {1, 2, 3};
  return sweep;
}

PatchOptions options_of(Direction direction) {
  PatchOptions options{
      .clean = "a",
      .corrupt = "b",
      .site = "z",
      .metric = logit(28),
      .direction = direction};
  options.metric.name = "logit(id:28)";
  return options;
}

TEST(SweepReport, SaysWhichRunIsChanged) {
  const auto model = demo_without_weights();
  const auto report = [&](Direction direction) {
    return sweep_report(
        model, options_of(direction), sweep_of(direction), {.model = "demo"});
  };
  const auto denoise = report(Direction::denoise);
  const auto noise = report(Direction::noise);
  EXPECT_NE(
      denoise.about.find(
          "of z, patched from the clean run into the corrupted one. Normalised "
          "effect in percent: 0 is the corrupted run unchanged, 100 gives the "
          "metric of the clean one."),
      std::string::npos)
      << denoise.about;
  EXPECT_NE(
      noise.about.find(
          "patched from the corrupted run into the clean one. Normalised "
          "effect in percent: 0 is the clean run unchanged, 100 gives the "
          "metric of the corrupted one."),
      std::string::npos)
      << noise.about;
  // 0 is the run that is changed, 1 the other one.
  EXPECT_EQ(
      denoise.values, (std::vector<float>{0, 0.25f, 0.5f, 0.75f, 1, 1.5f}));
  EXPECT_EQ(
      noise.values, (std::vector<float>{1, 0.75f, 0.5f, 0.25f, 0, -0.5f}));
  EXPECT_TRUE(denoise.percent);
  const auto raw = sweep_report(
      model,
      options_of(Direction::noise),
      sweep_of(Direction::noise),
      {.model = "demo", .raw = true});
  EXPECT_EQ(raw.values, sweep_of(Direction::noise).metric);
  EXPECT_FALSE(raw.percent);
}

TEST(SweepReport, PathPatchingSaysFromWhereToWhere) {
  const auto model = demo_without_weights();
  PathPatchOptions options{
      .clean = "a",
      .corrupt = "b",
      .receivers = {{.layer = 24, .head = 6, .input = Receiver::Input::q}},
      .metric = logit(28)};
  const auto about = [&](Direction direction) {
    options.direction = direction;
    return sweep_report(model, options, sweep_of(direction), {}).about;
  };
  EXPECT_NE(
      about(Direction::noise).find("z to L24H6.q (through MLPs)"),
      std::string::npos);
  EXPECT_NE(
      about(Direction::noise).find("from the clean run to the corrupted one."),
      std::string::npos);
  EXPECT_NE(
      about(Direction::denoise)
          .find("from the corrupted run to the clean one."),
      std::string::npos);
}

TEST(RunsText, NamesBothRuns) {
  auto sweep = sweep_of(Direction::denoise);
  EXPECT_EQ(
      runs_text("m", sweep),
      "m: clean +4.0000, corrupted +2.0000 (means of 2 runs)");
  sweep.pairs = 1;
  sweep.clean = -0.00025f;
  EXPECT_EQ(runs_text("m", sweep), "m: clean -2.50e-04, corrupted +2.0000");
  sweep.corrupt = NAN;
  EXPECT_EQ(runs_text("m", sweep), "m: not ablated -2.50e-04");
}

TEST(RunWarnings, AreOfRunsThatExplainNothing) {
  const auto count =
      [](const Metric& metric, float clean, float corrupt, bool task = false) {
        auto sweep = sweep_of(Direction::denoise);
        sweep.clean = clean;
        sweep.corrupt = corrupt;
        return run_warnings(metric, metric.name, sweep, task).size();
      };
  const auto diff = logit_diff(1, 2);
  EXPECT_EQ(count(diff, 4, 2), 0u);
  EXPECT_EQ(count(diff, 4, -2), 0u);
  EXPECT_EQ(count(diff, 2, 4), 1u);    // no better than corrupted
  EXPECT_EQ(count(diff, -1, -2), 1u);  // not ahead
  EXPECT_EQ(count(diff, -2, 4), 2u);
  EXPECT_EQ(count(diff, 0, -1), 1u);
  EXPECT_EQ(count(diff, -2, NAN), 1u);
  EXPECT_EQ(count(diff, 2, NAN), 0u);
  EXPECT_EQ(count(logit(1), -8, -9), 0u);  // a logit has no zero
  EXPECT_EQ(count(logit(1), -9, -8), 1u);
  EXPECT_EQ(count(probability(1), 0.1f, 0.2f), 1u);
  EXPECT_EQ(count(log_probability(1), -1, -2), 0u);
  EXPECT_EQ(count(rank(1), 0, 5), 0u);
  EXPECT_EQ(count(rank(1), 5, 0), 1u);
  EXPECT_EQ(count(kl_divergence(), 0, 3), 0u);
  EXPECT_EQ(count(loss(), 3, 2), 0u);
  const auto own = custom("mine", [](const mlx::core::array& x) { return x; });
  EXPECT_EQ(count(own, -1, 2), 0u);
  EXPECT_EQ(count(own, -1, 2, /*task=*/true), 2u);
}

TEST(SweepReport, HoldsTheWarnings) {
  const auto model = demo_without_weights();
  auto sweep = sweep_of(Direction::denoise);
  std::swap(sweep.clean, sweep.corrupt);
  const auto report = sweep_report(
      model, options_of(Direction::denoise), sweep, {.warnings = {"one"}});
  ASSERT_EQ(report.warnings.size(), 2u);
  EXPECT_EQ(report.warnings[0], "one");
  EXPECT_EQ(json::parse(to_json(report))["warnings"], json(report.warnings));
}

TEST(SweepReport, WithoutADifferenceNamesTheOption) {
  const auto model = demo_without_weights();
  auto sweep = sweep_of(Direction::denoise);
  sweep.clean = sweep.corrupt;
  const auto message = test::message_of([&] {
    sweep_report(
        model, options_of(Direction::denoise), sweep, {.raw_option = "--raw"});
  });
  EXPECT_NE(message.find("--raw shows the metric itself"), std::string::npos);
  EXPECT_EQ(
      sweep_report(model, options_of(Direction::denoise), sweep, {.raw = true})
          .values,
      sweep.metric);
}

TEST(SweepReport, AblationIsAChange) {
  const auto model = demo_without_weights();
  const AblateOptions options{
      .prompts = "a", .metric = logit(28), .ablation = Ablation::zero};
  auto sweep = sweep_of(Direction::noise);
  const auto report = sweep_report(model, options, sweep, {});
  EXPECT_EQ(report.values, (std::vector<float>{-2, -1.5f, -1, -0.5f, 0, 1}));
  EXPECT_NE(report.about.find("(zero)"), std::string::npos);
  EXPECT_EQ(json::parse(to_json(report))["how"], "zero");
}

TEST(SweepReport, CausalTraceNamesTheTokenItChose) {
  const auto model = demo_without_weights();
  CausalTraceOptions options{.prompt = "a", .subject = "b"};
  const int paris = model.tokenizer().single_token(" Paris");
  CausalTrace trace{
      .sweep = sweep_of(Direction::denoise),
      .metric = probability(paris),
      .subject = {0, 1}};
  trace.metric.name = "prob(id:" + std::to_string(paris) + ")";
  EXPECT_EQ(sweep_report(model, options, trace, {}).metric, "prob( Paris)");
  options.metric = probability(paris);
  EXPECT_EQ(sweep_report(model, options, trace, {}).metric, trace.metric.name);
}

TEST(Heatmap, HasTheLastAxisAcross) {
  const auto model = demo_without_weights();
  const auto report = sweep_report(
      model,
      options_of(Direction::denoise),
      sweep_of(Direction::denoise),
      {.model = "demo"});
  const auto map = heatmap(report);
  // Layers go up.
  EXPECT_EQ(map.rows, (Texts{"6", "5"}));
  EXPECT_EQ(map.columns, (Texts{"0", "1", "2"}));
  EXPECT_EQ(map.notes.size(), 3u);
  EXPECT_EQ(map.row_axis, "layer");
  EXPECT_EQ(map.column_axis, "pos");
  EXPECT_EQ(map.values, (std::vector<float>{0.75f, 1, 1.5f, 0, 0.25f, 0.5f}));
  EXPECT_EQ(map.heading, map.notes[0] + map.notes[1] + map.notes[2]);
}

TEST(Heatmap, TurnsLayersThatLieAcross) {
  const auto model = demo_without_weights();
  auto sweep = sweep_of(Direction::denoise);
  sweep.axes = {{Axis::position, {0, 1, 2}}, {Axis::layer, {5, 6}}};
  sweep.inert = {true, false, false, false, false, false};
  const auto map =
      heatmap(sweep_report(model, options_of(Direction::denoise), sweep, {}));
  EXPECT_EQ(map.rows, (Texts{"6", "5"}));
  EXPECT_EQ(map.columns, (Texts{"0", "1", "2"}));
  EXPECT_EQ(map.row_axis, "layer");
  EXPECT_EQ(map.values, (std::vector<float>{0.25f, 0.75f, 1.5f, 0, 0.5f, 1}));
  EXPECT_EQ(
      map.inert, (std::vector<bool>{false, false, false, true, false, false}));
}

TEST(Heatmap, SaysWhatItShowsAndOfWhat) {
  const auto model = demo_without_weights();
  auto options = options_of(Direction::denoise);
  options.clean = "When Mary and John met, John";
  options.corrupt = "When Mary and John met, Mary";
  const auto map = heatmap(sweep_report(
      model, options, sweep_of(Direction::denoise), {.model = "demo"}));
  EXPECT_EQ(
      map.takeaway,
      "Layer 6, pos 2 (" + map.notes[2] +
          ") has the largest effect: logit(id:28) goes from 2 to 5, 150% of "
          "the way to the clean run's 4. 3 of 6 cells reach half of it.");
  ASSERT_EQ(map.prompts.size(), 2u);
  EXPECT_EQ(map.prompts[0].name, "clean");
  EXPECT_EQ(map.prompts[1].name, "corrupted");
  for (size_t i = 0; i < 2; ++i) {
    const auto& line = map.prompts[i];
    ASSERT_EQ(line.marked.size(), 1u);
    EXPECT_EQ(line.tokens[line.marked[0]], i == 0 ? " John" : " Mary");
  }
  using Fact = std::pair<std::string, std::string>;
  const std::vector<Fact> wanted = {
      {"model", "demo"},
      {"metric", "logit(id:28): clean 4, corrupted 2"},
      {"site", "z"},
      {"direction", "denoise (clean values into the corrupted run)"},
      {"pairs", "2"}};
  EXPECT_EQ(map.facts, wanted);
  ASSERT_EQ(map.details.size(), 3u);
  EXPECT_EQ(map.details[0].name, "logit(id:28)");
  EXPECT_EQ(
      map.details[1].values, (std::vector<float>{1.5f, 2, 3, 0, 0.5f, 1}));
  EXPECT_EQ(map.details[2].values, (std::vector<float>{0, 0, 0.5f, 0, 0, 0}));
  const std::vector<std::pair<std::string, float>> bounds = {
      {"corrupted", 2.0f}, {"clean", 4.0f}};
  EXPECT_EQ(map.bounds, bounds);
  EXPECT_EQ(map.neutral, 0);
  // The metric itself is told apart from that of the changed run.
  const auto raw = heatmap(sweep_report(
      model,
      options,
      sweep_of(Direction::denoise),
      {.model = "demo", .raw = true}));
  EXPECT_EQ(raw.neutral, 2);
  EXPECT_EQ(raw.takeaway, map.takeaway);
}

TEST(Heatmap, SaysWhereNothingHappens) {
  const auto model = demo_without_weights();
  auto sweep = sweep_of(Direction::noise);
  sweep.metric = {4, 4, 4, 3.99f, 4, 4};
  const auto takeaway = [&] {
    return heatmap(sweep_report(model, options_of(Direction::noise), sweep, {}))
        .takeaway;
  };
  EXPECT_TRUE(takeaway().starts_with(
      "No cell has much effect. The largest is at layer 6, pos 0"))
      << takeaway();
  EXPECT_TRUE(takeaway().ends_with("0.5% of the way to the corrupted run's 2."))
      << takeaway();
  sweep.metric.assign(6, 4);
  EXPECT_EQ(takeaway(), "No cell has any effect.");
  // What cannot act is nobody's largest.
  sweep.metric = {9, 4, 3, 4, 4, 4};
  sweep.inert = {true, false, false, false, false, false};
  EXPECT_TRUE(takeaway().starts_with("Layer 5, pos 2")) << takeaway();
}

TEST(PairLines, MarksWhatIsBetweenACommonStartAndEnd) {
  const auto model = demo_without_weights();
  const auto lines = pair_lines(
      model,
      Inputs(std::vector<int>{5, 6, 7, 8}),
      Inputs(std::vector<int>{5, 9, 9, 7, 8}));
  EXPECT_EQ(lines[0].marked, (std::vector<size_t>{1}));
  EXPECT_EQ(lines[1].marked, (std::vector<size_t>{1, 2}));
  const auto same = pair_lines(
      model,
      Inputs(std::vector<int>{5, 6, 7, 8}),
      Inputs(std::vector<int>{4, 6, 9, 8}));
  EXPECT_EQ(same[0].marked, (std::vector<size_t>{0, 2}));
}

TEST(Heatmap, FoldsOtherAxesIntoRows) {
  const auto model = demo_without_weights();
  auto sweep = sweep_of(Direction::denoise);
  sweep.axes = {
      {Axis::layer, {0}}, {Axis::position, {1, 2}}, {Axis::head, {0, 1, 2}}};
  auto map =
      heatmap(sweep_report(model, options_of(Direction::denoise), sweep, {}));
  const auto labels = report::labels(model, {1, 2, 3});
  EXPECT_EQ(map.rows, (Texts{"0.1 " + labels[1], "0.2 " + labels[2]}));
  EXPECT_EQ(map.row_axis, "layer.pos");
  EXPECT_EQ(map.columns, (Texts{"0", "1", "2"}));
  sweep.axes = {{Axis::layer, {0, 1, 2, 3, 4, 5}}};
  map = heatmap(sweep_report(model, options_of(Direction::denoise), sweep, {}));
  EXPECT_EQ(map.rows.size(), 6u);
  EXPECT_EQ(map.columns, Texts{"effect"});
}

TEST(ToJson, SaysWhatWasMeasured) {
  const auto model = demo_without_weights();
  auto report = sweep_report(
      model,
      options_of(Direction::noise),
      sweep_of(Direction::noise),
      {.model = "demo", .edits = {"a=zero_out"}});
  report.seconds = 0.5;
  const auto out = json::parse(to_json(report));
  EXPECT_EQ(out["model"], "demo");
  EXPECT_EQ(out["direction"], "noise");
  EXPECT_EQ(out["edits"], json({"a=zero_out"}));
  EXPECT_EQ(out["shape"], json({2, 3}));
  EXPECT_EQ(out["axes"][1]["values"], json({0, 1, 2}));
  EXPECT_EQ(out["effect"], json({1.0, 0.75, 0.5, 0.25, 0.0, -0.5}));
  EXPECT_EQ(out["metric"]["clean"], 4);
  EXPECT_EQ(out["metric"]["corrupt"], 2);
  EXPECT_EQ(out["tokens"][2]["id"], 3);
  EXPECT_EQ(out["seconds"]["sweep"], 0.5);
  EXPECT_TRUE(out["seconds"]["forward"].is_null());
  EXPECT_TRUE(out["task"].is_null());
}

TEST(Place, NamesEachAxis) {
  auto heads = sweep_of(Direction::noise);
  heads.axes[1].axis = Axis::head;
  EXPECT_EQ(place(heads, 4), "L6H1");
  heads.axes = {
      {Axis::layer, {6}}, {Axis::position, {0, 2}}, {Axis::head, {0, 1, 2}}};
  EXPECT_EQ(place(heads, 4), "L6H1, pos 2");
  EXPECT_EQ(place(sweep_of(Direction::noise), 4), "layer 6, pos 1");
}

TEST(JointHeatmap, LeavesOutOtherColumns) {
  const auto model = demo_without_weights();
  const AttributeOptions options{
      .clean = "a", .corrupt = "b", .metric = logit(28)};
  std::vector<Attribution> found;
  for (const auto* site : {"z", "k", "q"})
    found.push_back({site, sweep_of(Direction::denoise)});
  found[1].sweep.axes[1].values = {7, 8, 9};
  found[1].sweep.axes[1].axis = Axis::head;
  const auto report = attribution_report(model, options, found, {});
  const auto [map, left_out] = joint_heatmap(report);
  EXPECT_EQ(map.rows, (Texts{"z.6", "z.5", "q.6", "q.5"}));
  EXPECT_EQ(map.values.size(), 12u);
  EXPECT_EQ(left_out, Texts{"k"});
  EXPECT_EQ(json::parse(to_json(report))["sites"].size(), 3u);
}

}  // namespace
}  // namespace mlxterp::report
