// mlxterp ablate: what a model says without some of its values.

#include <fmt/format.h>

#include <memory>

#include "common.h"
#include "metric.h"
#include "mlxterp/analysis/ablate.h"
#include "mlxterp/view/terminal.h"
#include "sweep.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  ModelArguments model;
  PromptArguments prompt;
  std::string site = "z", how = "zero";
  std::vector<std::string> by = {"layer,head"}, metrics;
  std::optional<std::string> data;
  std::vector<std::string> layers, positions, heads, neurons;
  int samples = 1;
  uint64_t seed = 0;
  double memory = 0;
  bool raw = false;
  SweepOutput output;
};

Ablation parse_how(const std::string& text) {
  if (text == "zero") return Ablation::zero;
  if (text == "mean") return Ablation::mean;
  if (text == "resample") return Ablation::resample;
  usage(fmt::format(
      "--how '{}' is none of zero, mean, resample", view::escape(text)));
}

void run(const Arguments& arguments) {
  arguments.prompt.check();
  if (arguments.metrics.empty()) usage("no --metric: what is to be measured?");
  const auto how = parse_how(arguments.how);
  if (how != Ablation::zero && !arguments.data)
    usage(fmt::format(
        "--how {} needs --data, a file with a prompt on each line",
        arguments.how));
  arguments.output.check();
  std::optional<Inputs> data;
  if (arguments.data) data = Inputs(lines_of(*arguments.data));
  const auto model = arguments.model.load();
  AblateOptions options{
      .prompts = arguments.prompt.tokens(model),
      .site = arguments.site,
      .by = parse_axes(arguments.by),
      .metric = parse_metric(model, arguments.metrics),
      .ablation = how,
      .data = data,
      .samples = arguments.samples,
      .seed = arguments.seed,
      .layers = whole_numbers(arguments.layers, "--layers"),
      .positions = whole_numbers(arguments.positions, "--positions"),
      .heads = whole_numbers(arguments.heads, "--heads"),
      .neurons = whole_numbers(arguments.neurons, "--neurons"),
      .memory = static_cast<size_t>(std::max(0.0, arguments.memory) * 1e6),
      .progress = progress(),
  };
  Sweep sweep;
  const double seconds = seconds_of([&] { sweep = ablate(model, options); });
  end_progress();
  const auto values = arguments.raw ? sweep.metric : sweep.change();
  auto map = heatmap(model, sweep, values);
  map.kind = "Ablation";
  for (const auto& label : labels(model, sweep.ids))
    map.heading += label;
  map.about = fmt::format(
      "{} with {} ablated ({}). The whole run: {:+.4f}.{}",
      arguments.metrics.front(),
      arguments.site,
      arguments.how,
      sweep.clean,
      arguments.raw ? "" : " Each cell tells what its absence changes.");
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
            {"site", arguments.site},
            {"how", arguments.how},
            {"raw", arguments.raw}},
       .seconds = seconds});
}

}  // namespace

Run add_ablate(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  auto& a = *arguments;
  app.description("What the model says without some of its values");
  a.model.add_to(app);
  a.prompt.add_to(app);
  app.add_option(
         "--site",
         a.site,
         "z, k, v, attn_out, mlp_out, resid_pre, mlp.post, ...")
      ->capture_default_str();
  add_list(app, "--by", a.by, "Axes: layer, pos, head, neuron")
      ->default_str("layer,head");
  add_list(app, "--metric", a.metrics, metric_help);
  app.add_option("--how", a.how, "zero, mean or resample")
      ->capture_default_str();
  app.add_option("--data", a.data, "Prompts for mean and resample, one a line");
  app.add_option("--samples", a.samples, "Prompts that resample averages")
      ->capture_default_str();
  app.add_option("--seed", a.seed, "Of resample")->capture_default_str();
  app.add_flag("--raw", a.raw, "The metric itself, not its change");
  add_list(app, "--layers", a.layers, "Only these: 0,5,10..20,-1");
  add_list(app, "--positions", a.positions, "Only these positions");
  add_list(app, "--heads", a.heads, "Only these heads");
  add_list(app, "--neurons", a.neurons, "Only these neurons");
  app.add_option("--memory", a.memory, "MB that the sweep may take at once");
  a.output.add_to(app);
  app.footer(
      "Example:\n  mlxterp ablate demo 'The Eiffel Tower is located in the "
      "city of' \\\n    --site z --by layer,head --metric 'prob( Paris)' "
      "--html "
      "heads.html");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
