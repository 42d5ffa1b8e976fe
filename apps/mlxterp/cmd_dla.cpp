// mlxterp dla: a logit as the sum of what each part of the model writes.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>

#include "common.h"
#include "metric.h"
#include "mlxterp/analysis/logit_attribution.h"
#include "mlxterp/view/terminal.h"
#include "sweep.h"
#include "verbs.h"

namespace mx = mlx::core;

namespace mlxterp::cli {

namespace {

using Kind = LogitPart::Kind;

struct Arguments {
  ModelArguments model;
  PromptArguments prompt;
  std::vector<std::string> more, metrics;
  std::string unit = "component";
  int position = -1, top = 20;
  SweepOutput output;
};

Unit parse_unit(const std::string& text) {
  if (text == "component") return Unit::component;
  if (text == "head") return Unit::head;
  if (text == "neuron") return Unit::neuron;
  usage(fmt::format(
      "--unit '{}' is none of component, head, neuron", view::escape(text)));
}

void check(const Arguments& arguments) {
  arguments.prompt.check();
  if (arguments.metrics.empty())
    usage("no --metric: logit(A) or logit_diff(A,B)");
  if (arguments.top < 1) usage("--top is 1 or more");
  const auto unit = parse_unit(arguments.unit);
  if (unit == Unit::neuron && arguments.output.page)
    usage(
        "--html: neurons make no grid to look at; use --unit head or "
        "component, or -o");
  arguments.output.check();
}

// The values of one kind, in the model's order.
std::map<std::string, std::vector<float>> by_kind(const LogitAttribution& dla) {
  std::map<std::string, std::vector<float>> out;
  for (const auto& part : dla.parts)
    out[name(part.kind)].push_back(part.value);
  return out;
}

std::string metric_text(const Arguments& arguments) {
  return fmt::format("{}", fmt::join(arguments.metrics, ", "));
}

size_t size(int n) {
  return static_cast<size_t>(n);
}

// By layer: heads, or what attention and MLP add.
view::Heatmap grid_of(const LogitAttribution& dla, Unit unit) {
  view::Heatmap map;
  map.kind = "Direct logit attribution";
  map.row_axis = "layer";
  for (int i = 0; i < dla.layers; ++i)
    map.rows.push_back(fmt::format("{}", i));
  if (unit == Unit::head) {
    map.column_axis = "head";
    for (const auto& part : dla.parts) {
      if (part.kind != Kind::head) continue;
      if (part.layer == 0) map.columns.push_back(fmt::format("{}", part.unit));
      map.values.push_back(part.value);
    }
    return map;
  }
  map.column_axis = "part";
  map.columns = {"attn_out", "mlp_out"};
  map.values.resize(2 * size(dla.layers));
  for (const auto& part : dla.parts)
    if (part.kind == Kind::attn_out || part.kind == Kind::mlp_out)
      map.values[2 * size(part.layer) + (part.kind == Kind::mlp_out)] =
          part.value;
  return map;
}

// Layer by layer, with what the stream says so far.
std::string layers_text(
    const LogitAttribution& dla,
    const view::Heatmap& map,
    const view::Terminal& terminal) {
  using enum view::Align;
  view::Table table(
      {{"layer", right},
       {"attn_out", right},
       {"mlp_out", right},
       {"the stream so far", right}});
  const auto text = [](float x) { return fmt::format("{:+.4f}", x); };
  table.add({"", "", "", text(dla.accumulated[0])});
  for (size_t i = 0; i < size(dla.layers); ++i)
    table.add(
        {map.rows[i],
         text(map.values[2 * i]),
         text(map.values[2 * i + 1]),
         text(dla.accumulated[i + 1])});
  return table.text(terminal);
}

// The largest parts, each with a bar to either side of nothing.
std::string parts_text(
    const LogitAttribution& dla, int top, const view::Terminal& terminal) {
  constexpr double bar = 24;
  auto parts = dla.parts;
  std::ranges::stable_sort(parts, std::greater<>(), [](const auto& part) {
    return std::abs(part.value);
  });
  const auto shown = std::min(parts.size(), size(top));
  const bool spread = dla.prompts > 1;
  using enum view::Align;
  std::vector<view::Table::Column> columns = {
      {"part", left}, {"writes", right}, {"of the sum", right}};
  if (spread) columns.push_back({"spread", right});
  columns.push_back({"", left});
  view::Table table(columns);
  const auto add = [&](const std::string& what,
                       double value,
                       double deviation,
                       const std::string& drawn) {
    std::vector<std::string> cells = {
        what,
        fmt::format("{:+.4f}", value),
        dla.sum == 0
            ? ""
            : fmt::format(
                  "{:.1f}%", 100 * value / static_cast<double>(dla.sum))};
    if (spread)
      cells.push_back(drawn.empty() ? "" : fmt::format("{:.4f}", deviation));
    cells.push_back(drawn);
    table.add(std::move(cells));
  };
  double rest = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    const auto value = static_cast<double>(parts[i].value);
    if (i >= shown) {
      rest += value;
      continue;
    }
    const double share =
        std::abs(value) /
        std::max(static_cast<double>(std::abs(parts[0].value)), 1e-30);
    add(parts[i].name(),
        value,
        static_cast<double>(parts[i].spread),
        std::string(
            static_cast<size_t>(std::lround(bar * share)),
            value < 0 ? '-' : '+'));
  }
  if (shown < parts.size())
    add(fmt::format("{} others", parts.size() - shown), rest, 0, "");
  add("sum", static_cast<double>(dla.sum), 0, "");
  return table.text(terminal);
}

Json to_json(
    const Arguments& arguments,
    const InterpretableModel& model,
    const LogitAttribution& dla) {
  Json out;
  out["model"] = arguments.model.model;
  out["tokens"] = Json::array();
  const auto names = labels(model, dla.ids);
  for (size_t i = 0; i < names.size(); ++i)
    out["tokens"].push_back({{"id", dla.ids[i]}, {"text", names[i]}});
  out["prompts"] = dla.prompts;
  out["metric"] = arguments.metrics;
  out["unit"] = arguments.unit;
  out["sum"] = number(dla.sum);
  out["says"] = number(dla.model);
  out["softcap"] = dla.softcap > 0 ? number(dla.softcap) : Json();
  out["parts"] = Json::array();
  for (const auto& part : dla.parts)
    out["parts"].push_back(
        {{"name", part.name()},
         {"kind", name(part.kind)},
         {"layer", part.layer < 0 ? Json() : Json(part.layer)},
         {"unit", part.unit < 0 ? Json() : Json(part.unit)},
         {"value", number(part.value)},
         {"spread", number(part.spread)}});
  out["accumulated"] = Json::array();
  for (const float value : dla.accumulated)
    out["accumulated"].push_back(number(value));
  return out;
}

// A tensor for each kind of part: [part], or [layer, head or neuron].
void save(const Arguments& arguments, const LogitAttribution& dla) {
  Tensors tensors;
  for (const auto& [kind, values] : by_kind(dla)) {
    int units = 0;
    for (const auto& part : dla.parts)
      if (kind == name(part.kind)) units = std::max(units, part.unit + 1);
    const auto n = static_cast<int>(values.size());
    tensors.emplace_back(
        kind,
        mx::array(
            values.data(),
            units > 0 ? mx::Shape{n / units, units} : mx::Shape{n}));
  }
  tensors.emplace_back(
      "accumulated", mx::array(dla.accumulated.data(), {dla.layers + 1}));
  save_tensors(
      arguments.output,
      tensors,
      {{"model", arguments.model.model},
       {"metric", arguments.metrics},
       {"unit", arguments.unit},
       {"position", arguments.position},
       {"ids", dla.ids}});
}

void run(const Arguments& arguments) {
  check(arguments);
  const auto unit = parse_unit(arguments.unit);
  const auto model = arguments.model.load();
  Inputs::Rows prompts = {arguments.prompt.tokens(model)};
  for (const auto& text : arguments.more)
    prompts.push_back(model.tokenizer().encode(
        text, {.parse_special = arguments.prompt.special}));
  auto metric = parse_metric(model, arguments.metrics);
  metric.position = arguments.position;
  const auto dla = logit_attribution(
      model,
      {.prompts = std::move(prompts),
       .metric = std::move(metric),
       .unit = unit,
       .progress = progress()});
  end_progress();

  auto map = grid_of(dla, unit);
  for (const auto& label : labels(model, dla.ids))
    map.heading += label;
  map.about = fmt::format(
      "What each part writes for {}{}. All parts sum to {:+.4f}.",
      metric_text(arguments),
      dla.prompts > 1 ? fmt::format(", mean of {} prompts", dla.prompts) : "",
      dla.sum);
  save(arguments, dla);
  write_page(arguments.output, map);
  if (arguments.model.json) {
    print_json(to_json(arguments, model, dla));
    return;
  }
  const auto terminal = view::terminal(STDOUT_FILENO);
  std::string text;
  if (unit == Unit::head)
    text = view::heatmap_text(map, terminal) + "\n";
  else if (unit == Unit::component)
    text = layers_text(dla, map, terminal) + "\n";
  text += parts_text(dla, arguments.top, terminal);
  text += fmt::format(
      "\n{} of the model itself: {:+.4f}{}\n",
      view::escape(metric_text(arguments)),
      dla.model,
      dla.softcap > 0
          ? fmt::format(
                ", behind its cap at +-{:g}; the parts are before it",
                dla.softcap)
          : "");
  print(text);
}

}  // namespace

Run add_dla(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  auto& a = *arguments;
  app.description("A logit as the sum of what each part of the model writes");
  a.model.add_to(app);
  a.prompt.add_to(app);
  add_list(app, "--more", a.more, "Another prompt, to average over");
  add_list(
      app,
      "--metric",
      a.metrics,
      "logit(A) or logit_diff(A,B); tokens as they are, spaces included, or "
      "id:N; again for --more");
  app.add_option("--unit", a.unit, "component, head or neuron")
      ->capture_default_str();
  app.add_option("--position", a.position, "Where the logits are read")
      ->capture_default_str();
  app.add_option("--top", a.top, "Parts that are listed")
      ->capture_default_str();
  a.output.add_to(app);
  app.footer(
      "Example:\n  mlxterp dla demo 'When Mary and John went to the store, "
      "John "
      "gave a drink to' \\\n    --metric 'logit_diff( Mary, John)' --unit "
      "head");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
