// mlxterp ablate: what some of its values contribute to a model's prediction.

#include <fmt/format.h>

#include <memory>

#include "mlxterp/analysis/ablate.h"
#include "mlxterp/spec/choice.h"
#include "pairs.h"
#include "progress.h"
#include "sweep.h"
#include "task_arguments.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  SweepArguments sweep;
  PromptArguments prompt;
  TaskArguments task;
  ChoiceArguments choice;
  std::string site = "z", how = "mean";
  std::vector<std::string> by = {"layer,head"}, metrics;
  std::optional<std::string> data;
  int samples = 1;
  uint64_t seed = 0;
};

void run(const Arguments& arguments) {
  const auto& a = arguments;
  a.task.check_alone(
      a.prompt.given() || !a.metrics.empty(), "PROMPT, --ids and --metric");
  if (!a.task.given()) {
    a.prompt.check();
    if (a.metrics.empty()) usage(no_metric);
  }
  const auto [layers, positions, heads, neurons] = a.choice.parse();
  // Member by member: GCC 12 crashes where one of a braced list throws.
  AblateOptions options{.prompts = std::vector<int>()};
  options.site = a.site;
  options.by = spec::parse_axes(a.by, "--by");
  options.ablation = spec::parse_ablation(a.how, "--how");
  options.samples = a.samples;
  options.seed = a.seed;
  options.layers = layers;
  options.positions = positions;
  options.heads = heads;
  options.neurons = neurons;
  options.memory = a.sweep.bytes();
  options.progress = progress();
  const bool zero = options.ablation == Ablation::zero;
  if (!zero && !a.data && !a.task.given())
    usage(fmt::format(
        "--how {} needs --data, a file with one prompt per line, or a --task; "
        "--how zero does not",
        a.how));
  if (zero && a.data)
    usage("--how zero does not use --data; leave out one of the two");
  a.sweep.check();
  if (a.data) options.data = Inputs(read_lines(*a.data));
  const auto model = a.sweep.model.load();
  auto style = a.sweep.style();
  style.task = a.task.name();
  if (a.task.given()) {
    auto draw = a.task;
    draw.options.seed = a.seed;
    const auto task = draw.make(model, style.warnings);
    options.prompts = task.clean();
    options.metric = task.metric();
  } else {
    const auto ids = a.prompt.tokens(model);
    options.prompts = ids;
    options.metric = spec::parse_metric(
        model, a.metrics, metric_options(style.warnings, {ids}));
  }
  run_sweep(a.sweep, model, style, [&] {
    return report::sweep_report(model, options, ablate(model, options), style);
  });
}

}  // namespace

Run add_ablate(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  auto& a = *arguments;
  app.description(
      "Ablation: how the prediction changes without some of the model's "
      "values");
  a.sweep.add_model(app);
  a.prompt.add_to(app);
  a.task.add_to(app, /*seed=*/false);
  app.add_option(
         "--site",
         a.site,
         "z, k, v, attn_out, mlp_out, resid_pre, mlp.post, ...")
      ->capture_default_str();
  add_list(app, "--by", a.by, "Axes: layer, pos, head, neuron")
      ->default_str("layer,head");
  add_list(app, "--metric", a.metrics, spec::metric_grammar);
  app.add_option(
         "--how",
         a.how,
         "Replace by: mean, over the prompts in --data, per position; "
         "resample, "
         "the value in another of these prompts; zero")
      ->capture_default_str();
  app.add_option(
      "--data",
      a.data,
      "Prompts for mean and resample: a file with one per line (default: those "
      "of --task)");
  app.add_option(
         "--samples",
         a.samples,
         "Number of prompts that resample averages over")
      ->capture_default_str();
  app.add_option("--seed", a.seed, "Random seed of resample and of the task")
      ->capture_default_str();
  a.choice.add_layers(app);
  a.choice.add_positions(app);
  a.choice.add_heads(app);
  a.choice.add_neurons(app);
  a.sweep.add_rest(app, "Report the metric itself, not its change");
  app.footer(
      "Example:\n  mlxterp ablate demo 'The Eiffel Tower is located in the "
      "city of' \\\n    --how zero --site z --by layer,head --metric 'prob( "
      "Paris)' \\\n    --html heads.html");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
