// mlxterp causal-trace: where a model recalls a fact.

#include <memory>

#include "mlxterp/analysis/causal_trace.h"
#include "progress.h"
#include "sweep.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  SweepArguments sweep;
  PromptArguments prompt;
  ChoiceArguments choice;
  std::string subject, site = "resid_post";
  std::optional<std::string> metric;
  std::optional<int> window;
  int samples = 10;
  float noise = 3;
  uint64_t seed = 0;
};

// As in the paper.
int usual_window(const std::string& site) {
  return site.starts_with("resid") ? 1 : 10;
}

void run(const Arguments& arguments) {
  const auto& a = arguments;
  a.prompt.check();
  const auto choice = a.choice.parse();
  // Member by member: GCC 12 crashes where one of a braced list throws.
  CausalTraceOptions options{
      .prompt = std::vector<int>(), .subject = a.subject};
  options.site = a.site;
  options.window = a.window.value_or(usual_window(a.site));
  options.noise = a.noise;
  options.samples = a.samples;
  options.seed = a.seed;
  options.layers = choice.layers;
  options.positions = choice.positions;
  options.memory = a.sweep.bytes();
  options.progress = progress();
  a.sweep.check();
  const auto model = a.sweep.model.load();
  options.prompt = a.prompt.tokens(model);
  if (a.metric)
    options.metric = spec::parse_metric(model, {*a.metric}, metric_options());
  run_sweep(a.sweep, model, [&] {
    return report::sweep_report(
        model, options, causal_trace(model, options), a.sweep.style());
  });
}

}  // namespace

Run add_causal_trace(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  auto& a = *arguments;
  app.description("Causal tracing: where the model recalls a fact");
  a.sweep.add_model(app);
  a.prompt.add_to(app);
  app.add_option(
         "--subject",
         a.subject,
         "The subject, exactly as written in the prompt")
      ->required();
  app.add_option(
      "--metric",
      a.metric,
      "What is measured (default: the probability of the token that the clean "
      "run predicts)");
  app.add_option(
         "--site", a.site, "Site to restore: resid_post, attn_out, mlp_out")
      ->capture_default_str();
  app.add_option(
      "--window",
      a.window,
      "Layers restored together (default: 1 for the residual stream, else 10)");
  app.add_option(
         "--noise",
         a.noise,
         "Size of the noise, in standard deviations of the embedding")
      ->capture_default_str();
  app.add_option("--samples", a.samples, "Noise samples to average over")
      ->capture_default_str();
  app.add_option("--seed", a.seed, "Random seed of the noise")
      ->capture_default_str();
  a.choice.add_layers(app);
  a.choice.add_positions(app);
  a.sweep.add_rest(app, "Report the metric itself, not the normalised effect");
  app.footer(
      "Example:\n  mlxterp causal-trace demo 'The Eiffel Tower is located in "
      "the city of' \\\n    --subject 'The Eiffel Tower' --html trace.html");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
