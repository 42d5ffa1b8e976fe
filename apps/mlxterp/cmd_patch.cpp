// mlxterp patch: which values of one run make another one say what it says.

#include <fmt/format.h>

#include <cmath>
#include <memory>

#include "common.h"
#include "mlxterp/analysis/patch.h"
#include "mlxterp/view/terminal.h"
#include "pairs.h"
#include "sweep.h"
#include "task_arguments.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  ModelArguments model;
  PairArguments pairs;
  TaskArguments task;
  std::string site = "resid_pre";
  double memory = 0;
  bool plain = false;
  SweepOutput output;
};

void run(Arguments arguments) {
  auto& pairs = arguments.pairs;
  pairs.check(arguments.task.given());
  if (!std::isfinite(arguments.memory) || arguments.memory < 0)
    usage("--memory is a number of megabytes");
  arguments.output.check();
  const auto model = arguments.model.load();
  auto options = pairs.options(model);
  if (arguments.task.given()) {
    arguments.task.fill(model, options);
    pairs.metrics = {options.metric.name};
  }
  options.site = arguments.site;
  options.plain = arguments.plain;
  options.memory = static_cast<size_t>(arguments.memory * 1e6);
  Sweep sweep;
  const double seconds = seconds_of([&] { sweep = patch(model, options); });
  end_progress();
  const auto values = pairs.values(sweep);

  auto map = heatmap(model, sweep, values);
  map.kind = "Activation patching";
  for (const auto& label : labels(model, sweep.ids))
    map.heading += label;
  map.percent = !pairs.raw;
  map.about = pairs.about(arguments.site, sweep);
  report_sweep(
      arguments.model,
      model,
      arguments.output,
      sweep,
      values,
      {.map = std::move(map),
       .metric = pairs.metrics.front(),
       .facts =
           {{"model", arguments.model.model},
            {"task",
             arguments.task.given() ? Json(arguments.task.task) : Json()},
            {"site", arguments.site},
            {"direction", pairs.direction},
            {"raw", pairs.raw}},
       .seconds = seconds});
}

}  // namespace

Run add_patch(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  auto& a = *arguments;
  app.description("Which values of one run make another say what it says");
  a.model.add_to(app);
  app.add_option(
         "--site",
         a.site,
         "resid_pre, resid_mid, resid_post, attn_out, mlp_out, z, q, "
         "k, v, pattern, mlp.post, ...")
      ->capture_default_str();
  a.pairs.add_to(app);
  a.task.add_to(app);
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
