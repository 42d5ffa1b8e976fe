// mlxterp lens: what the model would predict after each of its layers.

#include <unistd.h>

#include <memory>
#include <optional>

#include "arguments.h"
#include "mlxterp/analysis/jacobian_lens.h"
#include "mlxterp/analysis/lens.h"
#include "mlxterp/analysis/tuned_lens.h"
#include "mlxterp/report/lens.h"
#include "mlxterp/spec/range.h"
#include "mlxterp/view/lens.h"
#include "output.h"
#include "progress.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  ModelArguments model;
  PromptArguments prompt;
  std::vector<std::string> layers, positions;
  bool embed = false;
  int top = 5;
  std::string site = "resid_post";
  std::optional<std::string> track, tuned, jacobian;
  bool any_model = false;
  std::optional<std::string> page;
  bool force = false;
  const CLI::App* app = nullptr;
};

void run(const Arguments& arguments) {
  arguments.prompt.check();
  arguments.model.check();
  if (arguments.page) check_output(*arguments.page, arguments.force);
  LensOptions options;
  options.layers = spec::parse_numbers(arguments.layers, "--layers");
  options.positions = spec::parse_numbers(arguments.positions, "--positions");
  options.embed = arguments.embed;
  options.top_k = arguments.top;
  options.site = arguments.site;
  std::optional<TunedLens> tuned;
  if (arguments.tuned)
    options.tuned = &tuned.emplace(TunedLens::load(*arguments.tuned, warn));
  std::optional<JacobianLens> jacobian;
  if (arguments.jacobian)
    options.jacobian =
        &jacobian.emplace(JacobianLens::load(*arguments.jacobian));
  const auto model = arguments.model.load();
  if (jacobian) jacobian->check_fits(model, arguments.any_model);
  const auto ids = arguments.prompt.tokens(model);
  std::vector<std::string> warnings;
  if (arguments.track)
    options.track = spec::parse_token(
        model, *arguments.track, metric_options(warnings, {ids}, "--track"));
  options.progress = progress();
  const auto lens = logit_lens(model, ids, options);
  end_progress();

  auto names = report::lens_names(model, lens, arguments.model.model);
  names.edits = arguments.model.edits;
  names.tuned = arguments.tuned;
  names.jacobian = arguments.jacobian;
  names.command = command_of(*arguments.app);
  names.warnings = warnings;
  if (arguments.page)
    write_page(*arguments.page, view::lens_page(lens, names), arguments.force);
  print(
      arguments.model.json
          ? arguments.model.answer(report::to_json(lens, names))
          : view::lens_text(lens, names, view::terminal(STDOUT_FILENO)));
}

}  // namespace

Run add_lens(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  app.description(
      "Logit lens: what the model would predict after each of its layers");
  arguments->app = &app;
  arguments->model.add_run_to(app);
  arguments->prompt.add_to(app);
  add_list(app, "--layers", arguments->layers, "Layers: 0,5,10..20,-1");
  add_list(app, "--positions", arguments->positions, "Positions: 0,3..7,-1");
  app.add_flag(
      "--embed", arguments->embed, "Also show a row for the input of layer 0");
  app.add_option(
         "--site",
         arguments->site,
         "Site to read: resid_pre, resid_mid, resid_post, attn_out, mlp_out")
      ->capture_default_str();
  app.add_option(
      "--tuned",
      arguments->tuned,
      "Read through a tuned lens: NAME of NAME.npz (see mlxterp tuned-lens)");
  app.add_option(
      "--jacobian",
      arguments->jacobian,
      "Read through a Jacobian lens: a file of mlxterp jlens, or a .pt");
  app.add_flag(
      "--any-model",
      arguments->any_model,
      "Take a Jacobian lens of other weights of the same shape");
  app.add_option("--top", arguments->top, "Number of top tokens per cell")
      ->capture_default_str();
  app.add_option(
      "--track", arguments->track, "A token to follow: ' Paris' or id:7042");
  app.add_option(
      "--html", arguments->page, "Also write the lens as an HTML page");
  app.add_flag("--force", arguments->force, "Replace the page if it exists");
  app.footer(
      "Example:\n  mlxterp lens demo 'The Eiffel Tower is located in the city "
      "of' \\\n    --track ' Paris' --html lens.html");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
