// mlxterp path-patch: which parts of a model speak to which others.

#include <fmt/format.h>

#include <memory>

#include "common.h"
#include "metric.h"
#include "mlxterp/analysis/path_patch.h"
#include "mlxterp/view/terminal.h"
#include "sweep.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  ModelArguments model;
  std::vector<std::string> clean, corrupt, receivers, metrics;
  std::string senders = "z", direction = "noise";
  std::vector<std::string> layers, heads;
  bool direct = false, raw = false;
  double memory = 0;
  SweepOutput output;
};

// "20.3.q": layer, head, what it reads.
Receiver parse_receiver(const std::string& text) {
  const auto first = text.find('.'), last = text.rfind('.');
  const auto input = last == std::string::npos ? "" : text.substr(last + 1);
  if (first == last || (input != "q" && input != "k" && input != "v"))
    usage(fmt::format(
        "--receiver '{}' is not LAYER.HEAD.INPUT, as 20.3.q; INPUT is q, k or "
        "v",
        view::escape(text)));
  const auto layer = whole_numbers({text.substr(0, first)}, "--receiver");
  const auto head =
      whole_numbers({text.substr(first + 1, last - first - 1)}, "--receiver");
  return {
      .layer = layer.front(),
      .head = head.front(),
      .input = input == "q"   ? Receiver::Input::q
               : input == "k" ? Receiver::Input::k
                              : Receiver::Input::v};
}

void run(const Arguments& arguments) {
  if (arguments.clean.empty() ||
      arguments.clean.size() != arguments.corrupt.size())
    usage(fmt::format(
        "{} --clean and {} --corrupt; give a pair of prompts, or several",
        arguments.clean.size(),
        arguments.corrupt.size()));
  if (arguments.metrics.empty()) usage("no --metric: what is to be measured?");
  const bool noise = arguments.direction == "noise";
  if (!noise && arguments.direction != "denoise")
    usage(fmt::format(
        "--direction '{}' is neither denoise nor noise",
        view::escape(arguments.direction)));
  arguments.output.check();
  std::vector<Receiver> receivers;
  for (const auto& text : split_lists(arguments.receivers))
    receivers.push_back(parse_receiver(text));
  const auto model = arguments.model.load();
  const PathPatchOptions options{
      .clean = arguments.clean,
      .corrupt = arguments.corrupt,
      .receivers = receivers,
      .senders = arguments.senders,
      .through_mlps = !arguments.direct,
      .metric = parse_metric(model, arguments.metrics),
      .direction = noise ? Direction::noise : Direction::denoise,
      .layers = whole_numbers(arguments.layers, "--layers"),
      .heads = whole_numbers(arguments.heads, "--heads"),
      .memory = static_cast<size_t>(std::max(0.0, arguments.memory) * 1e6),
      .progress = progress(),
  };
  Sweep sweep;
  const double seconds =
      seconds_of([&] { sweep = path_patch(model, options); });
  end_progress();
  const auto values = arguments.raw ? sweep.metric : sweep.effect();
  auto map = heatmap(model, sweep, values);
  map.kind = "Path patching";
  for (const auto& label : labels(model, sweep.ids))
    map.heading += label;
  map.percent = !arguments.raw;
  map.about = fmt::format(
      "{}, {} sent to {}{}. Clean {:+.4f}, corrupted {:+.4f}.{}",
      arguments.metrics.front(),
      arguments.senders,
      receivers.empty()
          ? "the logits"
          : fmt::format("{}", fmt::join(arguments.receivers, ", ")),
      arguments.direct ? " directly" : " (through MLPs)",
      sweep.clean,
      sweep.corrupt,
      arguments.raw ? ""
                    : fmt::format(
                          " In percent of the way to the {} run.",
                          noise ? "corrupted" : "clean"));
  report_sweep(
      arguments.model,
      model,
      arguments.output,
      sweep,
      values,
      {.map = std::move(map),
       .metric = arguments.metrics.front(),
       .facts =
           {{"model", arguments.model.model},
            {"senders", arguments.senders},
            {"receivers", arguments.receivers},
            {"direct", arguments.direct},
            {"direction", arguments.direction},
            {"raw", arguments.raw}},
       .seconds = seconds});
}

}  // namespace

Run add_path_patch(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  auto& a = *arguments;
  app.description("Which heads speak to which others, or to the logits");
  a.model.add_to(app);
  add_list(app, "--clean", a.clean, "The clean prompt; again for more pairs");
  add_list(app, "--corrupt", a.corrupt, "The corrupted prompt of the pair");
  add_list(
      app,
      "--receiver",
      a.receivers,
      "LAYER.HEAD.INPUT, as 20.3.q (default: the logits)");
  app.add_option("--senders", a.senders, "z (heads) or mlp_out")
      ->capture_default_str();
  app.add_flag("--direct", a.direct, "Not through MLPs");
  add_list(app, "--metric", a.metrics, metric_help);
  app.add_option(
         "--direction",
         a.direction,
         "noise: senders as in the corrupted run; denoise: the other "
         "way")
      ->capture_default_str();
  app.add_flag("--raw", a.raw, "The metric itself, not its share of the way");
  add_list(app, "--layers", a.layers, "Only senders of these layers");
  add_list(app, "--heads", a.heads, "Only these heads");
  app.add_option("--memory", a.memory, "MB that the sweep may take at once");
  a.output.add_to(app);
  app.footer(
      "Example:\n  mlxterp path-patch demo \\\n    --clean 'When Mary and John "
      "went to the store, John gave a drink to' \\\n    --corrupt 'When Mary "
      "and John went to the store, Mary gave a drink to' \\\n    --metric "
      "'logit_diff( Mary, John)' --receiver 24.6.q");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
