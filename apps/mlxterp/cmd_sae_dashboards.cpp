// mlxterp sae dashboards: what there is to know of features, as pages and as
// Neuronpedia's files.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "arguments.h"
#include "interrupt.h"
#include "mlxterp/io/atomic_file.h"
#include "mlxterp/report/dashboard.h"
#include "mlxterp/spec/sae.h"
#include "mlxterp/view/dashboard.h"
#include "output.h"
#include "progress.h"
#include "verbs.h"

namespace fs = std::filesystem;

namespace mlxterp::cli {

namespace {

struct Arguments {
  ModelArguments model;
  std::string text;
  std::vector<std::string> features = {"random:20"};
  DashboardOptions options;
  std::optional<std::string> output, neuronpedia;
  report::NeuronpediaNames names;
  bool force = false;
  const CLI::App* verb = nullptr;
};

bool is_page(const std::string& path) {
  return fs::path(path).extension() == ".html";
}

// Before any long work.
void check_folder(const std::string& path, bool force) {
  std::error_code error;
  if (path.empty()) usage("the name of the folder to write is empty");
  const auto type = fs::symlink_status(path, error).type();
  if (type == fs::file_type::not_found) return;
  const auto shown = view::escape(path);
  if (!fs::is_directory(path, error))
    usage(fmt::format(
        "{} is a file; name a folder, or a page that ends in .html", shown));
  if (!force && !fs::is_empty(path, error))
    usage(fmt::format("{} holds something; --force writes into it", shown));
}

void write_folder(
    const std::string& folder,
    const std::vector<std::pair<std::string, std::string>>& pages,
    bool force) {
  const Uninterrupted writing;
  std::error_code error;
  fs::create_directories(folder, error);
  if (error)
    throw Error(
        ErrorKind::environment,
        fmt::format(
            "cannot make {}: {}", view::escape(folder), error.message()));
  for (const auto& [name, page] : pages)
    write_file_atomically(fs::path(folder) / name, page, force);
  note(fmt::format("wrote {}/index.html", view::escape(folder)));
}

void run(const Arguments& arguments) {
  arguments.model.check();
  if (arguments.model.saes.size() != 1)
    usage(
        arguments.model.saes.empty()
            ? "no --sae: whose features?"
            : "--sae: dashboards are of one SAE at a time");
  const auto& output = arguments.output;
  if (output) {
    if (is_page(*output))
      check_output(*output, arguments.force);
    else
      check_folder(*output, arguments.force);
  }
  if (arguments.neuronpedia && arguments.neuronpedia->empty())
    usage("--neuronpedia: the name of the folder is empty");
  arguments.model.check_edits();
  const auto saes = arguments.model.load_saes();
  const auto& [sae, file, site, name] = saes[0];
  auto options = arguments.options;
  options.features =
      spec::parse_features(arguments.features, sae, options.seed, "--features");
  const auto plain = arguments.model.load_plain();
  // Found to fit; read below by itself.
  arguments.model.attached(plain, saes);
  const auto model = arguments.model.edited(plain);
  options.site = site;
  options.length = std::min(options.length, plain.decoder().config().context);
  options.progress = progress(/*lines=*/true);
  options.warn = warn;
  report::DashboardReport report{
      .model = arguments.model.model,
      .sae = arguments.model.saes[0],
      .edits = arguments.model.edits,
      .text = arguments.text,
      .result = {.sites = sae_sites(model, sae, site), .d_sae = sae.d_sae()}};
  if (arguments.neuronpedia)
    report::neuronpedia_folder(
        model,
        report,
        *arguments.neuronpedia,
        arguments.names,
        arguments.force);
  report.result =
      feature_dashboards_of_text(model, sae, arguments.text, options);
  end_progress();
  const view::TokenLabels labels = [&](const std::vector<int>& ids) {
    return report::labels(model, ids);
  };
  const auto command = command_of(*arguments.verb);
  if (output && is_page(*output))
    write_page(
        *output,
        view::dashboards_page(report, labels, command),
        arguments.force);
  else if (output)
    write_folder(
        *output,
        view::dashboards_folder(report, labels, command),
        arguments.force);
  if (arguments.neuronpedia) {
    const Uninterrupted writing;
    const auto folder = report::write_neuronpedia(
        model,
        report,
        *arguments.neuronpedia,
        arguments.names,
        arguments.force);
    note(fmt::format("wrote {}", view::escape(folder.string())));
  }
  print(
      arguments.model.json
          ? arguments.model.answer(report::to_json(model, report))
          : view::dashboards_text(
                report, labels, view::terminal(STDOUT_FILENO)));
}

}  // namespace

Run add_sae_dashboards(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  auto& a = *arguments;
  a.verb = &app;
  a.model.add_run_to(app);
  app.add_option(
         "--text",
         a.text,
         "A text file, a JSONL file (a document a line, field \"text\"), or a "
         "folder of .txt and .jsonl files")
      ->required();
  app.add_option(
         "--features", a.features, "Which: 3,17,40..49, all, or random:N")
      ->expected(1)
      ->capture_default_str();
  app.add_option("--seed", a.options.seed, "Of what is drawn at random")
      ->capture_default_str();
  app.add_option(
      "-o,--output",
      a.output,
      "Write a page (FILE.html), or a folder with a page a feature");
  app.add_option(
      "--neuronpedia",
      a.neuronpedia,
      "Write Neuronpedia's import files into this folder");
  app.add_option("--neuronpedia-model", a.names.model, "The model's id there");
  app.add_option(
      "--neuronpedia-set",
      a.names.source_set,
      "The source set's name there: res-16k");
  app.add_option(
      "--neuronpedia-creator",
      a.names.creator_id,
      "The id of the user there to whom they belong");
  app.add_option("--top", a.options.top, "Strongest examples of a feature")
      ->capture_default_str();
  app.add_option(
         "--intervals",
         a.options.intervals,
         "At most so many intervals of activations")
      ->capture_default_str();
  app.add_option("--per-interval", a.options.per_interval, "Examples of each")
      ->capture_default_str();
  app.add_option(
         "--before", a.options.before, "Tokens shown before an example's own")
      ->capture_default_str();
  app.add_option("--after", a.options.after, "Tokens shown behind it")
      ->capture_default_str();
  app.add_option("--bins", a.options.bins, "At most so many of a histogram")
      ->capture_default_str();
  app.add_option(
         "--neighbours", a.options.neighbours, "Features like each, by kind")
      ->capture_default_str();
  app.add_option("--length", a.options.length, "Tokens of a window")
      ->capture_default_str();
  app.add_option("--tokens", a.options.tokens, "Read so many tokens only");
  app.add_flag("--force", a.force, "Replace what exists");
  app.footer(
      "Example:\n  mlxterp sae dashboards google/gemma-2-2b --text text.txt "
      "\\\n    --sae google/gemma-scope-2b-pt-res/layer_20/width_16k/"
      "average_l0_71 \\\n    --features 120,7..9 -o features.html "
      "--neuronpedia exports");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
