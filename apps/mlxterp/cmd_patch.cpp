// mlxterp patch: which values of one run make another one say what it says.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>

#include "common.h"
#include "metric.h"
#include "mlxterp/analysis/patch.h"
#include "mlxterp/view/terminal.h"
#include "sweep.h"
#include "task_arguments.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  ModelArguments model;
  std::vector<std::string> clean, corrupt, clean_ids, corrupt_ids;
  bool special = false;
  TaskArguments task;
  std::string site = "resid_pre", direction = "denoise";
  std::vector<std::string> by = {"layer,pos"}, metrics, aligned;
  std::vector<std::string> layers, positions, heads, neurons;
  double memory = 0;
  bool raw = false, plain = false;
  SweepOutput output;
};

Inputs::Rows prompts(
    const InterpretableModel& model,
    const std::vector<std::string>& texts,
    const std::vector<std::string>& ids,
    bool special) {
  Inputs::Rows rows;
  for (const auto& text : texts)
    rows.push_back(model.tokenizer().encode(text, {.parse_special = special}));
  for (const auto& list : ids)
    rows.push_back(whole_numbers({list}, "--clean-ids and --corrupt-ids"));
  return rows;
}

void check_prompts(const Arguments& arguments) {
  if (arguments.task.given()) {
    if (!arguments.clean.empty() || !arguments.clean_ids.empty() ||
        !arguments.corrupt.empty() || !arguments.corrupt_ids.empty() ||
        !arguments.metrics.empty())
      usage("--task brings prompts and a metric; leave yours out");
    return;
  }
  const auto count = [](const auto& texts, const auto& ids, const char* what) {
    if (texts.empty() && ids.empty())
      usage(fmt::format("no --{0}; give one, or --{0}-ids", what));
    if (!texts.empty() && !ids.empty())
      usage(fmt::format("--{0} and --{0}-ids: give one, not both", what));
    return texts.size() + ids.size();
  };
  const auto clean = count(arguments.clean, arguments.clean_ids, "clean");
  const auto corrupt =
      count(arguments.corrupt, arguments.corrupt_ids, "corrupt");
  if (clean != corrupt)
    usage(fmt::format(
        "{} clean and {} corrupted prompts; give as many of each",
        clean,
        corrupt));
  if (arguments.metrics.empty()) usage("no --metric: what is to be measured?");
}

void check(const Arguments& arguments) {
  check_prompts(arguments);
  if (arguments.direction != "denoise" && arguments.direction != "noise")
    usage(fmt::format(
        "--direction '{}' is neither denoise nor noise",
        view::escape(arguments.direction)));
  if (!std::isfinite(arguments.memory) || arguments.memory < 0)
    usage("--memory is a number of megabytes");
  arguments.output.check();
}

std::vector<std::pair<int, int>> parse_aligned(
    const std::vector<std::string>& texts) {
  std::vector<std::pair<int, int>> pairs;
  for (const auto& text : split_lists(texts)) {
    const auto colon = text.find(':');
    if (colon == std::string::npos)
      usage(fmt::format(
          "--align '{}' is not CLEAN:CORRUPT, two positions",
          view::escape(text)));
    const auto clean = whole_numbers({text.substr(0, colon)}, "--align");
    const auto corrupt = whole_numbers({text.substr(colon + 1)}, "--align");
    if (clean.size() != corrupt.size())
      usage(fmt::format(
          "--align '{}': {} positions and {}",
          view::escape(text),
          clean.size(),
          corrupt.size()));
    for (size_t i = 0; i < clean.size(); ++i)
      pairs.emplace_back(clean[i], corrupt[i]);
  }
  return pairs;
}

std::string summary(
    const Arguments& arguments,
    const Sweep& sweep,
    double seconds,
    double forward) {
  const bool pairs = sweep.pairs > 1;
  return fmt::format(
      "{}: clean {:+.4f}, corrupted {:+.4f}{}\n"
      "{} cells in {:.3g} s; one forward pass takes {:.3g} s, so that is {:.2g}"
      "% of a pass a cell\n",
      view::escape(arguments.metrics.front()),
      sweep.clean,
      sweep.corrupt,
      pairs ? fmt::format(" (mean of {} pairs)", sweep.pairs) : "",
      sweep.cells() * sweep.pairs,
      seconds,
      forward,
      100 * seconds / forward /
          static_cast<double>(sweep.cells() * sweep.pairs));
}

void run(Arguments arguments) {
  check(arguments);
  const auto by = parse_axes(arguments.by);
  const auto aligned = parse_aligned(arguments.aligned);
  const auto model = arguments.model.load();
  const auto ids = [&](const auto& texts, const auto& numbers) {
    return prompts(model, texts, numbers, arguments.special);
  };
  const bool noise = arguments.direction == "noise";
  PatchOptions options{
      .clean = ids(arguments.clean, arguments.clean_ids),
      .corrupt = ids(arguments.corrupt, arguments.corrupt_ids),
      .site = arguments.site,
      .by = by,
      .metric = arguments.task.given() ? Metric{}
                                       : parse_metric(model, arguments.metrics),
      .direction = noise ? Direction::noise : Direction::denoise,
      .layers = whole_numbers(arguments.layers, "--layers"),
      .positions = whole_numbers(arguments.positions, "--positions"),
      .heads = whole_numbers(arguments.heads, "--heads"),
      .neurons = whole_numbers(arguments.neurons, "--neurons"),
      .aligned = aligned,
      .plain = arguments.plain,
      .memory = static_cast<size_t>(arguments.memory * 1e6),
      .progress = progress(),
  };
  if (arguments.task.given()) {
    arguments.task.fill(model, options);
    arguments.metrics = {options.metric.name};
  }
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  const auto sweep = patch(model, options);
  const double seconds =
      std::chrono::duration<double>(Clock::now() - begin).count();
  end_progress();
  const double forward = forward_seconds(model, sweep.ids);
  const auto values = arguments.raw ? sweep.metric : sweep.effect();

  auto map = heatmap(model, sweep, values);
  map.kind = "Activation patching";
  for (const auto& label : labels(model, sweep.ids))
    map.heading += label;
  map.percent = !arguments.raw;
  const char* from = noise ? "corrupted" : "clean";
  const char* to = noise ? "clean" : "corrupted";
  map.about = fmt::format(
      "{} of {}, patched from the {} run into the {} one. {}",
      arguments.metrics.front(),
      arguments.site,
      from,
      to,
      arguments.raw
          ? fmt::format(
                "Clean {:+.4f}, corrupted {:+.4f}.", sweep.clean, sweep.corrupt)
          : fmt::format(
                "In percent: 0 leaves the {} run as it is, 100 makes it say "
                "what the {} one says.",
                to,
                from));
  save_sweep(
      arguments.output,
      sweep,
      values,
      {{"model", arguments.model.model},
       {"site", arguments.site},
       {"metric", arguments.metrics},
       {"direction", arguments.direction},
       {"raw", arguments.raw},
       {"ids", sweep.ids}});
  write_page(arguments.output, map);
  if (!arguments.model.json) {
    print(
        view::heatmap_text(map, view::terminal(STDOUT_FILENO)) + "\n" +
        summary(arguments, sweep, seconds, forward));
    return;
  }
  Json out;
  out["model"] = arguments.model.model;
  out["task"] = arguments.task.given() ? Json(arguments.task.task) : Json();
  out["site"] = arguments.site;
  out["direction"] = arguments.direction;
  out["tokens"] = Json::array();
  const auto names = labels(model, sweep.ids);
  for (size_t i = 0; i < names.size(); ++i)
    out["tokens"].push_back({{"id", sweep.ids[i]}, {"text", names[i]}});
  out["metric"] = {
      {"name", arguments.metrics.front()},
      {"clean", number(sweep.clean)},
      {"corrupt", number(sweep.corrupt)}};
  out["pairs"] = sweep.pairs;
  out["raw"] = arguments.raw;
  put_sweep(out, sweep, values);
  out["spread"] = Json::array();
  for (const float value : sweep.spread)
    out["spread"].push_back(number(value));
  out["seconds"] = {{"sweep", seconds}, {"forward", forward}};
  print_json(out);
}

}  // namespace

Run add_patch(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  auto& a = *arguments;
  app.description("Which values of one run make another say what it says");
  a.model.add_to(app);
  add_list(app, "--clean", a.clean, "The clean prompt; again for more pairs");
  add_list(app, "--corrupt", a.corrupt, "The corrupted prompt of the pair");
  add_list(app, "--clean-ids", a.clean_ids, "Token ids in place of --clean");
  add_list(app, "--corrupt-ids", a.corrupt_ids, "and of --corrupt");
  app.add_flag("--special", a.special, "Read control tokens in prompts");
  a.task.add_to(app);
  app.add_option(
         "--site",
         a.site,
         "resid_pre, resid_mid, resid_post, attn_out, mlp_out, z, q, "
         "k, v, pattern, mlp.post, ...")
      ->capture_default_str();
  add_list(app, "--by", a.by, "Axes: layer, pos, head, neuron")
      ->default_str("layer,pos");
  add_list(app, "--metric", a.metrics, metric_help);
  app.add_option(
         "--direction",
         a.direction,
         "denoise: clean values into the corrupted run; noise: the "
         "other way")
      ->capture_default_str();
  app.add_flag("--raw", a.raw, "The metric itself, not its share of the way");
  add_list(app, "--layers", a.layers, "Only these: 0,5,10..20,-1");
  add_list(app, "--positions", a.positions, "Only these positions");
  add_list(app, "--heads", a.heads, "Only these heads");
  add_list(app, "--neurons", a.neurons, "Only these neurons");
  add_list(
      app,
      "--align",
      a.aligned,
      "CLEAN:CORRUPT positions that stand for each other, 0..5:1..6");
  app.add_option("--memory", a.memory, "MB that the sweep may take at once");
  app.add_flag("--plain", a.plain, "One forward pass a cell, to compare with");
  a.output.add_to(app);
  app.footer(
      "Example:\n  mlxterp patch demo \\\n    --clean 'When Mary and John went "
      "to the store, John gave a drink to' \\\n    --corrupt 'When Mary and "
      "John went to the store, Mary gave a drink to' \\\n    --metric "
      "'logit_diff( Mary, John)' --html patch.html");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
