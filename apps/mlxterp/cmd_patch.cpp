// mlxterp patch: which values of one run make another one say what it says.

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <memory>

#include "common.h"
#include "mlxterp/analysis/patch.h"
#include "mlxterp/view/terminal.h"
#include "pairs.h"
#include "sweep.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  ModelArguments model;
  PairArguments pairs;
  std::string site = "resid_pre";
  double memory = 0;
  bool plain = false;
  SweepOutput output;
};

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
      view::escape(arguments.pairs.metrics.front()),
      sweep.clean,
      sweep.corrupt,
      pairs ? fmt::format(" (mean of {} pairs)", sweep.pairs) : "",
      sweep.cells() * sweep.pairs,
      seconds,
      forward,
      100 * seconds / forward /
          static_cast<double>(sweep.cells() * sweep.pairs));
}

void run(const Arguments& arguments) {
  const auto& pairs = arguments.pairs;
  pairs.check();
  if (!std::isfinite(arguments.memory) || arguments.memory < 0)
    usage("--memory is a number of megabytes");
  arguments.output.check();
  const auto model = arguments.model.load();
  auto options = pairs.options(model);
  options.site = arguments.site;
  options.plain = arguments.plain;
  options.memory = static_cast<size_t>(arguments.memory * 1e6);
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  const auto sweep = patch(model, options);
  const double seconds =
      std::chrono::duration<double>(Clock::now() - begin).count();
  end_progress();
  const double forward = forward_seconds(model, sweep.ids);
  const auto values = pairs.values(sweep);

  auto map = heatmap(model, sweep, values);
  map.kind = "Activation patching";
  for (const auto& label : labels(model, sweep.ids))
    map.heading += label;
  map.percent = !pairs.raw;
  map.about = pairs.about(arguments.site, sweep);
  save_sweep(
      arguments.output,
      sweep,
      values,
      {{"model", arguments.model.model},
       {"site", arguments.site},
       {"metric", arguments.pairs.metrics},
       {"direction", pairs.direction},
       {"raw", pairs.raw},
       {"ids", sweep.ids}});
  write_page(arguments.output, map);
  if (!arguments.model.json) {
    print(
        view::heatmap_text(map, view::terminal(STDOUT_FILENO)) + "\n" +
        summary(arguments, sweep, seconds, forward));
    return;
  }
  auto out = pairs.json(model, arguments.model.model, sweep);
  out["site"] = arguments.site;
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
  app.add_option(
         "--site",
         a.site,
         "resid_pre, resid_mid, resid_post, attn_out, mlp_out, z, q, "
         "k, v, pattern, mlp.post, ...")
      ->capture_default_str();
  a.pairs.add_to(app);
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
