// mlxterp causal-trace: where a model keeps what it knows of a subject.

#include <fmt/format.h>

#include <memory>

#include "common.h"
#include "metric.h"
#include "mlxterp/analysis/causal_trace.h"
#include "mlxterp/view/terminal.h"
#include "sweep.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  ModelArguments model;
  PromptArguments prompt;
  std::string subject, site = "resid_post";
  std::optional<std::string> metric;
  std::optional<int> window;
  int samples = 10;
  float noise = 3;
  uint64_t seed = 0;
  std::vector<std::string> layers, positions;
  double memory = 0;
  bool raw = false;
  SweepOutput output;
};

void run(const Arguments& arguments) {
  arguments.prompt.check();
  arguments.output.check();
  const auto model = arguments.model.load();
  const bool states = arguments.site.starts_with("resid");
  CausalTraceOptions options{
      .prompt = arguments.prompt.tokens(model),
      .subject = arguments.subject,
      .metric = arguments.metric
                    ? std::optional(parse_metric(model, {*arguments.metric}))
                    : std::nullopt,
      .site = arguments.site,
      .window = arguments.window.value_or(states ? 1 : 10),
      .noise = arguments.noise,
      .samples = arguments.samples,
      .seed = arguments.seed,
      .layers = whole_numbers(arguments.layers, "--layers"),
      .positions = whole_numbers(arguments.positions, "--positions"),
      .memory = static_cast<size_t>(std::max(0.0, arguments.memory) * 1e6),
      .progress = progress(),
  };
  CausalTrace trace;
  const double seconds =
      seconds_of([&] { trace = causal_trace(model, options); });
  end_progress();
  const auto& sweep = trace.sweep;
  auto metric = trace.metric.name;
  if (!arguments.metric)  // the token's label, not its number
    if (const auto at = metric.find("id:"); at != std::string::npos)
      metric = fmt::format(
          "prob({})", label(model, std::stoi(metric.substr(at + 3))));
  const auto values = arguments.raw ? sweep.metric : sweep.effect();
  auto map = heatmap(model, sweep, values);
  map.kind = "Causal trace";
  for (const auto& text : labels(model, sweep.ids))
    map.heading += text;
  map.percent = !arguments.raw;
  map.about = fmt::format(
      "{}: {:.4g}, with noise on \"{}\" {:.4g} (mean of {}). Each cell puts {} "
      "back at one position, {} layer{} around one.{}",
      metric,
      sweep.clean,
      arguments.subject,
      sweep.corrupt,
      options.samples,
      arguments.site,
      options.window,
      options.window == 1 ? "" : "s",
      arguments.raw ? "" : " In percent of what the noise took.");
  report_sweep(
      arguments.model,
      model,
      arguments.output,
      sweep,
      values,
      {.map = std::move(map),
       .metric = metric,
       .facts =
           {{"model", arguments.model.model},
            {"site", arguments.site},
            {"subject", arguments.subject},
            {"subject_positions", trace.subject},
            {"window", options.window},
            {"noise", options.noise},
            {"samples", options.samples},
            {"seed", options.seed},
            {"raw", arguments.raw}},
       .seconds = seconds});
}

}  // namespace

Run add_causal_trace(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  auto& a = *arguments;
  app.description("Where the model keeps what it knows of a subject");
  a.model.add_to(app);
  a.prompt.add_to(app);
  app.add_option("--subject", a.subject, "As it stands in the prompt")
      ->required();
  app.add_option(
      "--metric",
      a.metric,
      "Default: the probability of what the clean run says");
  app.add_option(
         "--site", a.site, "What is put back: resid_post, attn_out, mlp_out")
      ->capture_default_str();
  app.add_option(
      "--window",
      a.window,
      "Layers put back together (default: 1 of states, else 10)");
  app.add_option("--noise", a.noise, "In standard deviations of the embedding")
      ->capture_default_str();
  app.add_option("--samples", a.samples, "Of the noise")->capture_default_str();
  app.add_option("--seed", a.seed, "Of the noise")->capture_default_str();
  app.add_flag("--raw", a.raw, "The metric itself, not its share of the way");
  add_list(app, "--layers", a.layers, "Only these: 0,5,10..20,-1");
  add_list(app, "--positions", a.positions, "Only these positions");
  app.add_option("--memory", a.memory, "MB that the sweep may take at once");
  a.output.add_to(app);
  app.footer(
      "Example:\n  mlxterp causal-trace demo 'The Eiffel Tower is located in "
      "the city of' \\\n    --subject 'The Eiffel Tower' --html trace.html");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
