// mlxterp path-patch: effects along paths between heads.

#include <fmt/format.h>

#include <memory>

#include "mlxterp/analysis/path_patch.h"
#include "mlxterp/spec/choice.h"
#include "mlxterp/spec/head.h"
#include "pairs.h"
#include "progress.h"
#include "sweep.h"
#include "task_arguments.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  SweepArguments sweep;
  ChoiceArguments choice;
  PromptPairs prompts;
  TaskArguments task;
  std::vector<std::string> receivers, metrics;
  std::string senders = "z", direction = "noise";
  bool direct = false;
};

void run(const Arguments& arguments) {
  const auto& a = arguments;
  a.task.check_alone(!(a.prompts.empty() && a.metrics.empty()), pair_options);
  if (!a.task.given()) {
    a.prompts.check();
    if (a.metrics.empty()) usage(no_metric);
  }
  const auto choice = a.choice.parse();
  // Member by member: GCC 12 crashes where one of a braced list throws.
  PathPatchOptions options{.clean = Inputs::Rows(), .corrupt = Inputs::Rows()};
  options.receivers = spec::parse_receivers(a.receivers, "--receiver");
  options.senders = a.senders;
  options.through_mlps = !a.direct;
  options.direction = spec::parse_direction(a.direction, "--direction");
  options.layers = choice.layers;
  options.heads = choice.heads;
  options.memory = a.sweep.bytes();
  options.progress = progress();
  a.sweep.check();
  const auto model = a.sweep.model.load();
  auto style = a.sweep.style();
  style.task = a.task.name();
  if (a.task.given()) {
    a.task.fill(model, options, style.warnings);
  } else {
    const auto [clean, corrupt] = a.prompts.tokens(model);
    options.clean = clean;
    options.corrupt = corrupt;
    options.metric = spec::parse_metric(
        model, a.metrics, metric_options(style.warnings, clean));
  }
  run_sweep(a.sweep, model, style, [&] {
    return report::sweep_report(
        model, options, path_patch(model, options), style);
  });
}

}  // namespace

Run add_path_patch(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  auto& a = *arguments;
  app.description("Path patching: effects along paths between components");
  a.sweep.add_model(app);
  a.prompts.add_to(app);
  a.task.add_to(app);
  add_list(
      app,
      "--receiver",
      a.receivers,
      "A head and the input that receives: L20H3.q or 20.3.q, .k or .v (of "
      "these the kv head); repeat for more (default: the logits)");
  app.add_option("--senders", a.senders, "z (heads) or mlp_out")
      ->capture_default_str();
  app.add_flag("--direct", a.direct, "Only direct paths, not through MLPs");
  add_list(app, "--metric", a.metrics, spec::metric_grammar);
  app.add_option(
         "--direction",
         a.direction,
         "noise: senders take their corrupted values in the clean run; "
         "denoise: clean values in the corrupted run")
      ->capture_default_str();
  a.choice.add_layers(app, "Only senders in these layers: 0,5,10..20,-1");
  a.choice.add_heads(app);
  a.sweep.add_rest(app, "Report the metric itself, not the normalised effect");
  app.footer(
      "Example:\n  mlxterp path-patch demo \\\n    --clean 'When Mary and John "
      "went to the store, John gave a drink to' \\\n    --corrupt 'When Mary "
      "and John went to the store, Mary gave a drink to' \\\n    --metric "
      "'logit_diff( Mary, John)' --receiver L23H3.q");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
