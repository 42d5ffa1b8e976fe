// mlxterp probe: linear probes, trained and applied.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "arguments.h"
#include "mlxterp/analysis/probe.h"
#include "mlxterp/report/probe.h"
#include "mlxterp/spec/choice.h"
#include "mlxterp/spec/range.h"
#include "mlxterp/view/terminal.h"
#include "output.h"
#include "progress.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  ModelArguments model;
  PromptArguments prompt;
  std::string data, kind = "logistic", positions = "last", file;
  std::vector<std::string> sites;
  ProbeOptions options;
  int batch = 8;
  bool no_controls = false;
  std::optional<std::string> output;
  bool force = false;
};

std::string shown(const std::optional<ProbeScore>& score) {
  return score ? fmt::format("{:.3f}", score->mean) : "";
}

std::string text_of(const report::ProbeTrainReport& report) {
  using enum view::Align;
  const bool logistic = report.options.kind == ProbeKind::logistic;
  const auto& first = report.probes.front();
  std::vector<view::Table::Column> columns = {
      {"site"}, {logistic ? "accuracy, held out" : "R^2, held out", right}};
  if (logistic) columns.push_back({"AUC", right});
  if (first.shuffled_labels)
    columns.insert(
        columns.end(),
        {{"shuffled", right},
         {fmt::format("{} at random", first.random_k), right}});
  view::Table table(columns);
  for (const auto& it : report.probes) {
    std::vector<std::string> row = {it.probe.site, shown(it.held_out)};
    if (logistic)
      row.push_back(it.held_out ? fmt::format("{:.3f}", it.held_out->auc) : "");
    if (first.shuffled_labels) {
      row.push_back(shown(it.shuffled_labels));
      row.push_back(shown(it.random_coordinates));
    }
    table.add(row);
  }
  auto text = table.text(view::terminal(STDOUT_FILENO)) +
              fmt::format("\n{} rows, {} groups", first.rows, first.groups);
  if (logistic)
    text +=
        fmt::format("; the class of most rows alone: {:.3f}", first.baseline);
  if (first.shuffled_labels)
    text += fmt::format(
        "\ncontrols: labels shuffled, and {} coordinates at random",
        first.random_k);
  return text + "\n";
}

void train(const Arguments& arguments) {
  arguments.model.check();
  if (arguments.output) check_output(*arguments.output, arguments.force);
  auto options = arguments.options;
  options.kind = spec::parse_probe_kind(arguments.kind, "--kind");
  options.controls = !arguments.no_controls;
  options.progress = progress();
  ProbeRows rows;
  rows.positions = spec::parse_positions(arguments.positions, "--positions");
  rows.batch_size = arguments.batch;
  rows.model = arguments.model.model;
  const auto sites = spec::parse_list(arguments.sites, "--site");
  const auto data = read_labelled_texts(arguments.data, options.kind);
  const auto model = arguments.model.load();
  report::ProbeTrainReport report;
  report.model = arguments.model.model;
  report.edits = arguments.model.edits;
  report.data = arguments.data;
  report.positions = arguments.positions;
  report.options = options;
  report.output = arguments.output;
  report.probes = train_probes(model, data, sites, rows, options);
  end_progress();
  const auto best =
      std::ranges::max_element(report.probes, {}, [](const ProbeResult& it) {
        return it.held_out ? it.held_out->mean : 0;
      });
  report.saved = best->probe.site;
  if (arguments.output) {
    best->probe.save(*arguments.output, arguments.force);
    note(fmt::format(
        "wrote {}, the probe at {}",
        view::escape(*arguments.output),
        report.saved));
  }
  print(
      arguments.model.json ? arguments.model.answer(report::to_json(report))
                           : text_of(report));
}

std::string text_of(const report::ProbeApplyReport& report) {
  using enum view::Align;
  const bool logistic = report.probe.kind == ProbeKind::logistic;
  std::vector<view::Table::Column> columns = {
      {"", right}, {"token"}, {logistic ? "log-odds" : "value", right}};
  if (logistic) columns.push_back({report.probe.classes[1], right});
  view::Table table(columns);
  for (size_t i = 0; i < report.values.size(); ++i) {
    std::vector<std::string> row = {
        fmt::format("{}", i),
        view::visible(report.tokens[i].text),
        fmt::format("{:+.3f}", report.values[i])};
    if (logistic)
      row.push_back(view::percent(
          static_cast<float>(report::probability(report.values[i]))));
    table.add(row);
  }
  return table.text(view::terminal(STDOUT_FILENO));
}

void apply(const Arguments& arguments) {
  arguments.prompt.check();
  arguments.model.check();
  const auto probe = Probe::load(arguments.file);
  const auto model = arguments.model.load();
  const auto ids = arguments.prompt.tokens(model);
  report::ProbeApplyReport report;
  report.model = arguments.model.model;
  report.edits = arguments.model.edits;
  report.file = arguments.file;
  report.probe = probe;
  report.tokens = report::named(model, ids);
  const auto said =
      apply_probe(model, probe, ids, [&](std::string_view sentence) {
        report.warnings.emplace_back(sentence);
        warn(sentence);
      });
  report.values.assign(said.data<float>(), said.data<float>() + said.size());
  print(
      arguments.model.json ? arguments.model.answer(report::to_json(report))
                           : text_of(report));
}

}  // namespace

Run add_probe(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  auto& a = *arguments;
  app.description(
      "Linear probes: train them on labelled texts, test them on held-out "
      "groups, apply them");
  app.require_subcommand(1);
  auto* trained = app.add_subcommand(
      "train", "Train and cross-validate a probe at each site named");
  auto* applied = app.add_subcommand(
      "apply", "What a probe says at each token of a prompt");
  a.model.add_run_to(*trained);
  a.model.add_run_to(*applied);
  trained
      ->add_option(
          "--data",
          a.data,
          "A JSONL file of {\"text\", \"label\", \"group\"}; texts of one "
          "group "
          "are never both trained on and held out")
      ->required();
  add_list(*trained, "--site", a.sites, "Where to probe: 'layers.*.resid_post'")
      ->required();
  trained
      ->add_option(
          "--kind", a.kind, "logistic, of two classes, or ridge, of numbers")
      ->capture_default_str();
  trained
      ->add_option(
          "--positions", a.positions, "The last position of a text, or all")
      ->capture_default_str();
  trained
      ->add_option(
          "--l2",
          a.options.l2,
          "Penalty on the weights of standardised coordinates (1 / C)")
      ->capture_default_str();
  trained->add_option(
      "--k", a.options.k, "Only so many coordinates, the most telling ones");
  trained
      ->add_option("--folds", a.options.folds, "Of cross-validation; 0: none")
      ->capture_default_str();
  trained->add_option("--seed", a.options.seed, "Of folds and controls")
      ->capture_default_str();
  trained->add_flag(
      "--no-controls",
      a.no_controls,
      "Leave out shuffled labels and random coordinates");
  trained->add_option("--batch", a.batch, "Texts in one pass")
      ->capture_default_str();
  trained->add_option(
      "-o,--output",
      a.output,
      "Write the probe as safetensors; of several sites the one that does best "
      "on held-out rows");
  trained->add_flag("--force", a.force, "Replace the file if it exists");
  applied->add_option("PROBE", a.file, "A file that `probe train` wrote")
      ->required();
  a.prompt.add_to(*applied);
  const char* example =
      "A probe's file holds `direction`, one standard deviation of the rows "
      "along it:\n--edit 'SITE=add_vector(FILE:direction)' steers with it.\n"
      "\nExample:\n  mlxterp probe train demo --data labelled.jsonl \\\n    "
      "--site 'layers.{6,12}.resid_post' -o probe.safetensors\n  mlxterp "
      "probe apply demo probe.safetensors 'I saw the dog'";
  for (auto* command : {&app, trained, applied})
    command->footer(example);
  return [arguments, trained] {
    trained->parsed() ? train(*arguments) : apply(*arguments);
  };
}

}  // namespace mlxterp::cli
