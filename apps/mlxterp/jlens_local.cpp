#include "jlens_local.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>

#include "arguments.h"
#include "mlxterp/analysis/local_lens.h"
#include "mlxterp/report/local_lens.h"
#include "mlxterp/spec/range.h"
#include "mlxterp/view/terminal.h"
#include "output.h"
#include "progress.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  ModelArguments model;
  PromptArguments prompt;
  std::vector<std::string> layers, tokens;
  std::optional<std::string> jacobian, output;
  std::string rule = "full";
  int skip = 0;
  bool force = false;
};

std::string number(float x) {
  return std::isfinite(x) ? fmt::format("{:.3g}", x) : "-";
}

// What a row of cells comes to: its mean, its least and where that is.
std::string text_of(const report::LocalLensReport& report) {
  using enum view::Align;
  const bool compared = !report.cosines.empty();
  std::vector<view::Table::Column> columns = {
      {"layer", right}, {"token"}, {"length", right}, {"longest at"}};
  if (compared)
    columns.insert(
        columns.end(), {{"cosine", right}, {"least", right}, {"least at"}});
  view::Table table(columns);
  const auto place = [&](size_t pos) {
    const auto at = pos + static_cast<size_t>(report.skip);
    return fmt::format("{} {}", at, view::visible(report.prompt[at].text));
  };
  const auto mean = [](const std::vector<float>& row) {
    double sum = 0;
    for (const float x : row)
      sum += static_cast<double>(x);
    return static_cast<float>(sum / static_cast<double>(row.size()));
  };
  for (size_t l = report.layers.size(); l-- > 0;)
    for (size_t k = 0; k < report.tokens.size(); ++k) {
      const auto& lengths = report.lengths[l][k];
      const auto longest = std::ranges::max_element(lengths);
      std::vector<std::string> row = {
          fmt::format("{}", report.layers[l]),
          view::visible(report.tokens[k].text),
          number(mean(lengths)),
          place(static_cast<size_t>(longest - lengths.begin()))};
      if (compared) {
        const auto& cosines = report.cosines[l][k];
        const auto least = std::ranges::min_element(cosines);
        const bool known = std::isfinite(cosines[0]);
        row.push_back(number(mean(cosines)));
        row.push_back(number(*least));
        row.push_back(
            known ? place(static_cast<size_t>(least - cosines.begin())) : "-");
      }
      table.add(std::move(row));
    }
  return table.text(view::terminal(STDOUT_FILENO));
}

void run(const Arguments& a) {
  a.model.check();
  a.prompt.check();
  if (a.tokens.empty()) usage("no tokens; give --tokens ' Paris' ' Rome'");
  if (a.output) check_output(*a.output, a.force);
  LocalLensOptions options{
      .layers = spec::parse_numbers(a.layers, "--layers"),
      .skip = a.skip,
      .rule = linear_rule(a.rule),
      .progress = progress()};
  std::optional<JacobianLens> lens;
  if (a.jacobian) lens = JacobianLens::load(*a.jacobian);
  const auto model = a.model.load();
  if (lens) options.lens = &*lens;
  std::vector<std::string> warnings;
  const auto ids = a.prompt.tokens(model);
  std::vector<int> tokens;
  for (const auto& token : a.tokens)
    tokens.push_back(spec::parse_token(
        model, token, metric_options(warnings, {ids}, "--tokens")));
  const auto found = local_lens(model, ids, tokens, options);
  end_progress();
  if (a.output) {
    found.save(*a.output, a.force);
    note(fmt::format("wrote {}", view::escape(*a.output)));
  }
  auto report = report::local_lens_report(model, found);
  report.model = a.model.model;
  report.edits = a.model.edits;
  report.output = a.output;
  report.jacobian = a.jacobian;
  print(
      a.model.json ? a.model.answer(report::to_json(report)) : text_of(report));
}

}  // namespace

std::function<void()> add_jlens_local(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  auto& a = *arguments;
  a.model.add_run_to(app);
  a.prompt.add_to(app);
  app.add_option(
      "--tokens", a.tokens, "Tokens: ' Paris' or id:7042, one or several");
  app.add_option(
      "--jacobian",
      a.jacobian,
      "A lens of this model: how far its directions hold here, as cosines");
  add_list(app, "--layers", a.layers, "Only these layers: 0,5,10..20,-2");
  app.add_option("--skip", a.skip, "Leading positions that are left out")
      ->capture_default_str();
  app.add_option(
         "--rule",
         a.rule,
         "full, relevance, frozen or 'hold(SITE, ...)', as in jlens fit")
      ->capture_default_str();
  app.add_option(
      "-o,--output", a.output, "Safetensors: local.0, ..., cosine.0, ...");
  app.add_flag("--force", a.force, "Replace the file if it exists");
  app.footer(
      "Of each layer and token: the mean length of its vectors in this prompt, "
      "where\nthey are longest, and with --jacobian their mean and least "
      "cosine "
      "to the lens'\nvector. --json and -o have every cell.\n\nExample:\n  "
      "mlxterp jlens local demo 'The Eiffel Tower is located in the city of' "
      "\\\n    --tokens ' Paris' ' Rome' --jacobian lens.safetensors");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
