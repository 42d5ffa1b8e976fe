// mlxterp collect: activations of a text, into a folder.

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <memory>

#include "arguments.h"
#include "interrupt.h"
#include "mlxterp/analysis/activation_store.h"
#include "mlxterp/report/activation_store.h"
#include "mlxterp/report/trace.h"
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
  std::string text, folder, positions = "all", dtype;
  std::vector<std::string> save;
  StoreOptions options;
};

std::string text_of(const report::StoreReport& report) {
  const auto& it = report.summary;
  view::Table table({{"site"}, {"shape of a row"}, {"dtype"}});
  for (const auto& site : it.sites)
    table.add(
        {site.name,
         fmt::format("[{}]", fmt::join(site.shape, ", ")),
         report::dtype_name(site.dtype)});
  return table.text(view::terminal(STDOUT_FILENO)) +
         fmt::format(
             "\n{} rows in {} file{}, of {} tokens in {} document{}\n",
             it.rows,
             it.shards,
             it.shards == 1 ? "" : "s",
             it.tokens,
             it.documents,
             it.documents == 1 ? "" : "s");
}

void run(const Arguments& arguments) {
  arguments.model.check();
  auto options = arguments.options;
  if (!arguments.dtype.empty())
    options.dtype = spec::parse_dtype(arguments.dtype, "--store-dtype");
  options.positions = spec::parse_positions(arguments.positions, "--positions");
  const auto sites = spec::parse_list(arguments.save, "--save");
  const auto model = arguments.model.load();
  options.model = arguments.model.model;
  options.edits = arguments.model.edits;
  for (const auto& sae : arguments.model.saes)
    options.saes.push_back(
        fmt::format("{} ({})", sae, arguments.model.sae_mode));
  options.progress = progress(/*lines=*/true);
  options.warn = warn;
  report::StoreReport report;
  report.model = arguments.model.model;
  report.edits = arguments.model.edits;
  report.text = arguments.text;
  report.folder = arguments.folder;
  const Uninterrupted collecting(
      "\nmlxterp: stops after these prompts and keeps the files that are "
      "whole; Ctrl-C again ends at once\n");
  options.stop = [&] { return collecting.asked(); };
  report.summary = store_text_activations(
      model, arguments.text, sites, arguments.folder, options);
  end_progress();
  const auto& it = report.summary;
  const auto folder = view::escape(arguments.folder);
  if (!it.complete)
    note(fmt::format(
        "stopped with {} rows in {}; the same command with --resume goes on",
        it.rows,
        folder));
  else if (it.kept == it.rows)
    note(fmt::format("{} was complete before", folder));
  else
    note(fmt::format(
        "wrote {} at {:.0f} tokens a second{}",
        folder,
        it.tokens_per_second,
        it.kept > 0 ? fmt::format("; {} rows were there", it.kept) : ""));
  print(
      arguments.model.json ? arguments.model.answer(report::to_json(report))
                           : text_of(report));
}

}  // namespace

Run add_collect(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  auto& a = *arguments;
  app.description(
      "Write the activations of a text to a folder, for training on them");
  a.model.add_run_to(app);
  app.add_option(
         "--text",
         a.text,
         "A text file, a JSONL file (a document a line, field \"text\"), or a "
         "folder of .txt and .jsonl files")
      ->required();
  add_list(app, "--save", a.save, "Sites to save: 'layers.{7,15}.resid_post'")
      ->required();
  app.add_option("-o,--output", a.folder, "The folder to write, new or empty")
      ->required();
  app.add_option(
      "--length",
      a.options.length,
      "Tokens of a prompt, into which documents are cut (512, or the context)");
  app.add_option("--batch", a.options.batch_size, "Prompts in one pass")
      ->capture_default_str();
  app.add_option("--tokens", a.options.tokens, "End after so many tokens");
  app.add_option(
         "--positions",
         a.positions,
         "Rows to keep: all, or the last of each prompt")
      ->capture_default_str();
  app.add_option(
      "--shard-rows",
      a.options.shard_rows,
      "Rows of a file (as many as take 256 MB)");
  app.add_option(
      "--store-dtype",
      a.dtype,
      "Precision in the files: float32, float16 or bfloat16");
  app.add_flag(
      "--resume",
      a.options.resume,
      "Go on with what an interrupted run left in the folder");
  app.footer(
      "Rows stand in the order of the text. Ctrl-C keeps the files that are "
      "whole.\n\nExample:\n  mlxterp collect demo --text book.txt --save "
      "'layers.{7,15}.resid_post' \\\n    --length 128 --store-dtype float16 "
      "-o "
      "activations");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
