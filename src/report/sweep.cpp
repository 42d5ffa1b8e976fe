#include "mlxterp/report/sweep.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/fail.h"
#include "mlxterp/analysis/heads.h"
#include "mlxterp/spec/choice.h"
#include "mlxterp/spec/head.h"
#include "report/sweep_json.h"

namespace mx = mlx::core;

namespace mlxterp::report {

namespace {

// Layers, positions, ... as the verbs and this folder's readers know them.
using mlxterp::name;
using spec::name;

const char* run_of(Direction direction, bool patched) {
  return (direction == Direction::denoise) == patched ? "corrupted" : "clean";
}

SweepReport report_of(
    const InterpretableModel& model,
    const char* kind,
    const Metric& metric,
    Sweep sweep,
    const SweepStyle& style) {
  SweepReport out;
  out.kind = kind;
  out.facts = {{"model", style.model}};
  out.tokens = named(model, sweep.ids);
  out.metric = metric.name;
  out.sweep = std::move(sweep);
  return out;
}

void warn_of(
    SweepReport& report, const Metric& metric, const SweepStyle& style) {
  report.warnings = style.warnings;
  for (auto& sentence : run_warnings(
           metric, report.metric, report.sweep, style.task.has_value()))
    report.warnings.push_back(std::move(sentence));
}

void finish(SweepReport& report, Facts facts, const SweepStyle& style) {
  report.facts.emplace_back(
      "task", style.task ? Value(*style.task) : Value(nullptr));
  for (auto& fact : facts)
    report.facts.push_back(std::move(fact));
  report.facts.emplace_back("edits", style.edits);
  report.facts.emplace_back("raw", style.raw);
}

void use_effect(SweepReport& report, const SweepStyle& style) {
  report.percent = !style.raw;
  report.values = patching_values(report.sweep, style);
}

}  // namespace

std::vector<float> patching_values(
    const Sweep& sweep, const SweepStyle& style) {
  if (style.raw) return sweep.metric;
  const float a = sweep.clean, b = sweep.corrupt;
  if (!(std::abs(a - b) > 1e-6f * std::max(std::abs(a), std::abs(b))))
    fail(
        ErrorKind::usage,
        "[sweep] the metric is {} on the clean run and {} on the corrupted "
        "one: "
        "there is no difference to normalise by; {} shows the metric itself",
        a,
        b,
        style.raw_option);
  return sweep.effect();
}

std::string about_patching(
    const std::string& metric,
    const std::string& sites,
    const Sweep& sweep,
    bool raw) {
  const char* into = run_of(sweep.direction, true);
  const char* from = run_of(sweep.direction, false);
  return fmt::format(
      "{} of {}, patched from the {} run into the {} one.{}",
      metric,
      sites,
      from,
      into,
      raw ? ""
          : fmt::format(
                " Normalised effect in percent: 0 is the {} run unchanged, 100 "
                "gives the metric of the {} one.",
                into,
                from));
}

SweepReport sweep_report(
    const InterpretableModel& model,
    const PatchOptions& options,
    Sweep sweep,
    const SweepStyle& style) {
  auto out = report_of(
      model, "Activation patching", options.metric, std::move(sweep), style);
  out.prompts = pair_lines(model, options.clean, options.corrupt);
  use_effect(out, style);
  out.about = about_patching(out.metric, options.site, out.sweep, style.raw);
  warn_of(out, options.metric, style);
  finish(
      out,
      {{"site", options.site},
       {"direction", std::string(name(options.direction))}},
      style);
  return out;
}

SweepReport sweep_report(
    const InterpretableModel& model,
    const AblateOptions& options,
    Sweep sweep,
    const SweepStyle& style) {
  auto out =
      report_of(model, "Ablation", options.metric, std::move(sweep), style);
  out.prompts = {{"prompt", labels(model, out.sweep.ids)}};
  out.values = style.raw ? out.sweep.metric : out.sweep.delta();
  const std::string how = name(options.ablation);
  out.about = fmt::format(
      "{} with {} ablated ({}).{}",
      out.metric,
      options.site,
      how,
      style.raw ? "" : " Each cell is the change its ablation makes.");
  warn_of(out, options.metric, style);
  finish(out, {{"site", options.site}, {"how", how}}, style);
  return out;
}

SweepReport sweep_report(
    const InterpretableModel& model,
    const CausalTraceOptions& options,
    CausalTrace trace,
    const SweepStyle& style) {
  auto out = report_of(
      model, "Causal trace", trace.metric, std::move(trace.sweep), style);
  if (!options.metric) {  // it chose a token: by its label, not its number
    const int id = trace.metric.token.of(0, 1).id(model);
    out.metric = fmt::format("prob({})", label(model, id));
  }
  out.prompts = {{"prompt", labels(model, out.sweep.ids)}};
  for (const int p : trace.subject)
    out.prompts[0].marked.push_back(static_cast<size_t>(p));
  use_effect(out, style);
  out.about = fmt::format(
      "{} with noise on \"{}\" (corrupted: mean of {} sample{}). Each cell "
      "restores {} at one position, in a window of {} layer{}.{}",
      out.metric,
      options.subject,
      options.samples,
      options.samples == 1 ? "" : "s",
      options.site,
      options.window,
      options.window == 1 ? "" : "s",
      style.raw ? "" : " In percent of the total effect of the noise.");
  warn_of(out, trace.metric, style);
  finish(
      out,
      {{"site", options.site},
       {"subject", options.subject},
       {"subject_positions", trace.subject},
       {"window", int64_t{options.window}},
       {"noise", static_cast<double>(options.noise)},
       {"samples", int64_t{options.samples}},
       {"seed", static_cast<int64_t>(options.seed)}},
      style);
  return out;
}

SweepReport sweep_report(
    const InterpretableModel& model,
    const PathPatchOptions& options,
    Sweep sweep,
    const SweepStyle& style) {
  auto out = report_of(
      model, "Path patching", options.metric, std::move(sweep), style);
  out.prompts = pair_lines(model, options.clean, options.corrupt);
  use_effect(out, style);
  std::vector<std::string> receivers;
  for (const auto& receiver : options.receivers)
    receivers.push_back(spec::spell(receiver));
  out.about = fmt::format(
      "{}: {} to {}{}.{}",
      out.metric,
      options.senders,
      receivers.empty() ? "the logits"
                        : fmt::format("{}", fmt::join(receivers, ", ")),
      options.through_mlps ? " (through MLPs)" : " directly",
      style.raw
          ? ""
          : fmt::format(
                " Normalised effect in percent, from the {} run to the {} one.",
                run_of(options.direction, true),
                run_of(options.direction, false)));
  warn_of(out, options.metric, style);
  finish(
      out,
      {{"senders", options.senders},
       {"receivers", receivers},
       {"direct", !options.through_mlps},
       {"direction", std::string(name(options.direction))}},
      style);
  return out;
}

void put_cells(
    Json& out, const Sweep& sweep, const std::vector<float>& values) {
  out["axes"] = Json::array();
  for (const auto& range : sweep.axes)
    out["axes"].push_back(
        {{"name", name(range.axis)}, {"values", range.values}});
  out["shape"] = sweep.shape();
  out["effect"] = numbers(values);
  out["spread"] = numbers(sweep.spread);
  out["cells"] = sweep.cells();
  out["computed"] = sweep.computed;
  out["rows"] = sweep.rows;
}

Json json_of_metric(const std::string& name, const Sweep& sweep) {
  return {
      {"name", name},
      {"clean", number(sweep.clean)},
      {"corrupt", number(sweep.corrupt)}};
}

std::string to_json(const SweepReport& report) {
  Json out;
  for (const auto& [key, value] : report.facts)
    out[key] = json_of(value);
  out["warnings"] = report.warnings;
  out["tokens"] = json_of(report.tokens);
  out["metric"] = json_of_metric(report.metric, report.sweep);
  out["pairs"] = report.sweep.pairs;
  put_cells(out, report.sweep, report.values);
  const auto seconds = [](const std::optional<double>& value) {
    return value ? number(*value) : Json();
  };
  out["seconds"] = {
      {"sweep", seconds(report.seconds)},
      {"forward", seconds(report.forward_seconds)}};
  return text_of(out);
}

mx::array grid(const Sweep& sweep, const std::vector<float>& values) {
  const auto shape = sweep.shape();
  return mx::array(values.data(), mx::Shape(shape.begin(), shape.end()));
}

std::string place(const Sweep& sweep, size_t cell) {
  std::optional<int> layer, head;
  std::vector<std::pair<Axis, int>> all;
  for (size_t a = sweep.axes.size(); a-- > 0;) {
    const auto& [axis, values] = sweep.axes[a];
    const int value = values[cell % values.size()];
    cell /= values.size();
    if (axis == Axis::layer) layer = value;
    if (axis == Axis::head) head = value;
    all.emplace_back(axis, value);
  }
  const bool one = layer && head;  // a head has a name
  auto out = one ? name(Head{*layer, *head}) : std::string();
  for (size_t i = all.size(); i-- > 0;) {
    const auto& [axis, value] = all[i];
    if (one && (axis == Axis::layer || axis == Axis::head)) continue;
    out += fmt::format("{}{} {}", out.empty() ? "" : ", ", name(axis), value);
  }
  return out;
}

}  // namespace mlxterp::report
