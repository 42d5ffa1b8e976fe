// mlxterp jlens: fits Jacobian lenses, merges them, and reads the vectors of
// some tokens without fitting one.

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <optional>

#include "arguments.h"
#include "interrupt.h"
#include "jlens_local.h"
#include "jlens_space.h"
#include "mlxterp/analysis/jacobian_lens.h"
#include "mlxterp/report/jacobian_lens.h"
#include "mlxterp/spec/range.h"
#include "mlxterp/view/terminal.h"
#include "output.h"
#include "progress.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  ModelArguments model;
  std::optional<std::string> text, ids_file;
  std::vector<std::string> layers, tokens, files;
  std::string rule = "full", output, checkpoint;
  int prompts = 0;
  std::optional<int> length;
  JacobianOptions options;
  bool resume = false, force = false;
};

// Running sums lie beside the lens.
std::filesystem::path partial_of(const std::string& output) {
  return output + ".partial";
}

JacobianOptions options_of(const Arguments& a) {
  auto options = a.options;
  options.layers = spec::parse_numbers(a.layers, "--layers");
  options.rule = linear_rule(a.rule);
  options.model = a.model.model;
  options.progress = progress(/*lines=*/true);
  return options;
}

void check_corpus(const Arguments& a) {
  if (!a.text && !a.ids_file)
    usage("no text; give --text FILE, or --ids-file FILE with token ids");
  if (a.text && a.ids_file) usage("--text and --ids-file: give one, not both");
  if (a.length && *a.length < a.options.skip + 2)
    usage(fmt::format(
        "--length is {}, --skip {}: {} tokens at least are needed",
        *a.length,
        a.options.skip,
        a.options.skip + 2));
  if (a.prompts < 0) usage("--prompts is below 0; give how many are read");
}

Inputs::Rows corpus(const Arguments& a, const InterpretableModel& model) {
  const int least = a.options.skip + 2;
  Inputs::Rows rows;
  if (a.ids_file) {
    rows = read_id_rows(*a.ids_file);
    for (auto& row : rows)
      if (a.length)
        row.resize(std::min(row.size(), static_cast<size_t>(*a.length)));
  } else {
    const int context = model.decoder().config().context;
    rows = lens_prompts(
        model,
        read_text(*a.text),
        std::min(a.length.value_or(128), context),
        least);
  }
  if (a.prompts > 0 && rows.size() > static_cast<size_t>(a.prompts))
    rows.resize(static_cast<size_t>(a.prompts));
  return rows;
}

std::string text_of(const report::JacobianFitReport& report) {
  const auto& source = report.source;
  auto out = fmt::format(
      "{} layers, {} prompt{} of {} tokens at most, the first {} positions "
      "left out\n",
      report.layers.size(),
      source.prompts,
      source.prompts == 1 ? "" : "s",
      source.length,
      source.skip);
  if (report.changes.empty()) return out;
  out += "change by the latest prompts, of 1:";
  const size_t n = report.changes.size();
  for (size_t i = n - std::min<size_t>(n, 5); i < n; ++i)
    out += fmt::format(" {:.2g}", report.changes[i]);
  return out + (source.converged ? "; converged\n" : "; not converged\n");
}

void say_written(const std::string& path) {
  note(fmt::format("wrote {}", view::escape(path)));
}

void fit(const Arguments& a) {
  a.model.check();
  check_corpus(a);
  check_output(a.output, a.force);
  auto options = options_of(a);
  options.checkpoint = a.checkpoint.empty()
                           ? partial_of(a.output)
                           : std::filesystem::path(a.checkpoint);
  options.resume = a.resume;
  std::error_code ignored;
  if (!a.resume && !a.force &&
      std::filesystem::exists(options.checkpoint, ignored))
    usage(fmt::format(
        "{} is there, of a fit that did not end; give --resume to go on with "
        "it, or --force to begin again",
        view::escape(options.checkpoint.string())));
  const auto model = a.model.load();
  const auto rows = corpus(a, model);
  std::optional<JacobianFit> done;
  {
    const Uninterrupted fitting(
        "\nmlxterp: stops after this prompt and keeps what it has; Ctrl-C "
        "again ends at once\n");
    options.stop = [&] { return fitting.asked(); };
    done = fit_jacobian_lens(model, rows, options);
    end_progress();
    done->lens.save(a.output, a.force);
    say_written(a.output);
    if (fitting.asked())
      note(fmt::format(
          "stopped after {} of {} prompts; --resume --force goes on",
          done->lens.source.prompts,
          rows.size()));
    else if (a.checkpoint.empty())
      std::filesystem::remove(options.checkpoint, ignored);
  }
  const report::JacobianFitReport report{
      .model = a.model.model,
      .output = a.output,
      .layers = done->lens.layers,
      .d_model = done->lens.d_model(),
      .source = done->lens.source,
      .changes = done->changes};
  print(
      a.model.json ? a.model.answer(report::to_json(report)) : text_of(report));
}

void merge_files(const Arguments& a) {
  if (a.files.size() < 2) usage("give two lenses to merge, or more");
  check_output(a.output, a.force);
  std::vector<JacobianLens> lenses;
  for (const auto& file : a.files)
    lenses.push_back(JacobianLens::load(file));
  const auto merged = merge(lenses);
  merged.save(a.output, a.force);
  say_written(a.output);
  const report::JacobianFitReport report{
      .model = merged.source.model,
      .output = a.output,
      .layers = merged.layers,
      .d_model = merged.d_model(),
      .source = merged.source,
      .changes = {}};
  print(
      a.model.json ? a.model.answer(report::to_json(report)) : text_of(report));
}

void directions(const Arguments& a) {
  a.model.check();
  check_corpus(a);
  if (a.tokens.empty()) usage("no tokens; give --tokens ' Paris' ' Rome'");
  check_output(a.output, a.force);
  const auto options = options_of(a);
  const auto model = a.model.load();
  std::vector<std::string> warnings;
  std::vector<int> tokens;
  for (const auto& token : a.tokens)
    tokens.push_back(spec::parse_token(
        model, token, metric_options(warnings, {}, "--tokens")));
  const auto found = lens_directions(model, tokens, corpus(a, model), options);
  end_progress();
  found.save(a.output, a.force);
  say_written(a.output);
  const auto report =
      report::directions_report(model, found, a.model.model, a.output);
  if (a.model.json) {
    print(a.model.answer(report::to_json(report)));
    return;
  }
  using enum view::Align;
  view::Table table({{"layer", right}, {"token"}, {"length", right}});
  for (size_t l = report.layers.size(); l-- > 0;)
    for (size_t t = 0; t < report.tokens.size(); ++t)
      table.add(
          {fmt::format("{}", report.layers[l]),
           view::visible(report.tokens[t].text),
           fmt::format("{:.4g}", report.lengths[l][t])});
  print(table.text(view::terminal(STDOUT_FILENO)));
}

void add_corpus(CLI::App& app, Arguments& a) {
  app.add_option("--text", a.text, "A text file, or - for stdin");
  app.add_option(
      "--ids-file", a.ids_file, "Instead: JSON, a list of lists of token ids");
  app.add_option("--prompts", a.prompts, "Only so many prompts; 0: all")
      ->capture_default_str();
  app.add_option(
      "--length",
      a.length,
      "Tokens of a prompt, at most; without it 128 of --text, and all of "
      "--ids-file");
  app.add_option(
         "--skip", a.options.skip, "Leading positions that are left out")
      ->capture_default_str();
  add_list(app, "--layers", a.layers, "Only these layers: 0,5,10..20,-2");
  app.add_option(
         "--rule",
         a.rule,
         "full: the gradient; relevance: norms' scales and activations held; "
         "frozen: norms' scales and patterns held; 'hold(SITE, ...)': these "
         "sites of layers held, such as hold(attn.pattern, ln1.scale); or "
         "both, "
         "'relevance+hold(SITE, ...)'")
      ->capture_default_str();
}

}  // namespace

Run add_jlens(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  auto& a = *arguments;
  app.description(
      "Jacobian lens: what a layer will have become behind the last one, on "
      "average");
  app.require_subcommand(1);
  auto* fitted = app.add_subcommand("fit", "Fit a lens on a text");
  auto* merged = app.add_subcommand("merge", "Make one lens of several");
  auto* vectors = app.add_subcommand(
      "directions", "The vectors of some tokens, without fitting a lens");
  auto* local = app.add_subcommand(
      "local", "A prompt's own lens for some tokens, at each cell");
  const auto run_local = add_jlens_local(*local);
  auto* space = app.add_subcommand(
      "space", "Activations as sparse sums of token directions");
  const auto run_space = add_jlens_space(*space);
  for (auto* command : {fitted, vectors}) {
    a.model.add_to(*command);
    add_corpus(*command, a);
  }
  for (auto* command : {fitted, merged, vectors}) {
    command
        ->add_option(
            "-o,--output",
            a.output,
            command == vectors ? "Safetensors: directions.0, directions.1, ..."
                               : "Safetensors, or .pt as torch writes it")
        ->required();
    command->add_flag("--force", a.force, "Replace the file if it exists");
  }
  fitted
      ->add_option(
          "--tolerance",
          a.options.tolerance,
          "Stop where ten prompts change the lens by less; 0: never")
      ->capture_default_str();
  fitted
      ->add_option(
          "--least", a.options.least, "Do not stop before so many prompts")
      ->capture_default_str();
  fitted->add_flag(
      "--resume",
      a.resume,
      "Go on from what FILE.partial holds, if it is there");
  fitted->add_option(
      "--checkpoint",
      a.checkpoint,
      "Keep the sums here, and leave them; .pt: as the published code does, "
      "which can go on with them, and this with its own");
  merged->add_option("FILES", a.files, "Lenses of one model")->required();
  merged->add_flag("--json", a.model.json, "Answer as JSON");
  vectors->add_option(
      "--tokens", a.tokens, "Tokens: ' Paris' or id:7042, one or several");
  const char* example =
      "A fit keeps its sums in FILE.partial, every half minute; Ctrl-C ends it "
      "after\nthe prompt it is in.\n\nExample:\n  mlxterp jlens fit demo "
      "--text "
      "book.txt --prompts 100 -o lens.safetensors\n  mlxterp jlens directions "
      "demo --tokens ' Paris' ' Rome' --text book.txt \\\n    -o "
      "cities.safetensors";
  for (auto* command : {&app, fitted, merged, vectors})
    command->footer(example);
  return [arguments, fitted, merged, local, run_local, space, run_space] {
    if (fitted->parsed())
      fit(*arguments);
    else if (merged->parsed())
      merge_files(*arguments);
    else if (local->parsed())
      run_local();
    else if (space->parsed())
      run_space();
    else
      directions(*arguments);
  };
}

}  // namespace mlxterp::cli
