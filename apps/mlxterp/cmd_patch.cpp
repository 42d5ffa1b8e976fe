// mlxterp patch: which values of one run restore the prediction of another.

#include <memory>

#include "mlxterp/analysis/patch.h"
#include "pairs.h"
#include "sweep.h"
#include "task_arguments.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  SweepArguments sweep;
  PairArguments pairs;
  TaskArguments task;
  std::string site = "resid_pre";
  bool one_pass_per_cell = false;
};

void run(const Arguments& arguments) {
  const auto& [sweep, pairs, task, site, one_pass_per_cell] = arguments;
  task.check_alone(!pairs.empty(), pair_options);
  pairs.check(task.given());
  sweep.check();
  const auto model = sweep.model.load();
  auto style = sweep.style();
  auto options = pairs.options(model, style.warnings);
  if (task.given()) {
    task.fill(model, options, style.warnings);
    style.task = task.name();
  }
  options.site = site;
  options.one_pass_per_cell = one_pass_per_cell;
  options.memory = sweep.bytes();
  run_sweep(sweep, model, style, [&] {
    return report::sweep_report(model, options, patch(model, options), style);
  });
}

}  // namespace

Run add_patch(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  auto& a = *arguments;
  app.description(
      "Activation patching: which values of one run, put into another, restore "
      "its prediction");
  a.sweep.add_model(app);
  app.add_option(
         "--site",
         a.site,
         "resid_pre, resid_mid, resid_post, attn_out, mlp_out, z, q, "
         "k, v, pattern, mlp.post, ...")
      ->capture_default_str();
  a.pairs.add_to(app);
  a.task.add_to(app);
  a.sweep.add_rest(app, "Report the metric itself, not the normalised effect");
  app.add_flag(
      "--one-pass-per-cell,--plain",
      a.one_pass_per_cell,
      "Run one forward pass for each cell: slow, for comparison");
  app.footer(
      "Example:\n  mlxterp patch demo \\\n    --clean 'When Mary and John went "
      "to the store, John gave a drink to' \\\n    --corrupt 'When Mary and "
      "John went to the store, Mary gave a drink to' \\\n    --metric "
      "'logit_diff( Mary, John)' --html patch.html");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
