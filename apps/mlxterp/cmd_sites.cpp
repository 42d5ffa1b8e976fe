// mlxterp sites: the names of everything that can be read and edited.

#include <fmt/format.h>
#include <unistd.h>

#include <memory>

#include "arguments.h"
#include "mlxterp/io/checkpoint.h"
#include "mlxterp/models/family.h"
#include "mlxterp/report/sites.h"
#include "mlxterp/view/terminal.h"
#include "output.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  ModelArguments model;
  std::string pattern;
};

std::string table(const std::vector<report::SiteRow>& rows) {
  view::Table table({{"site"}, {"shape"}, {"also"}});
  for (const auto& row : rows) {
    auto also = row.transformer_lens;
    for (const auto& alias : row.aliases)
      also += (also.empty() ? "" : " ") + alias;
    table.add({row.name, fmt::format("[{}]", fmt::join(row.shape, ",")), also});
  }
  return table.text(view::terminal(STDOUT_FILENO));
}

void run(const Arguments& arguments) {
  arguments.model.check();
  // The config is enough; weights stay on the disk.
  const auto checkpoint = Checkpoint::open(arguments.model.path());
  const auto family = family_of(checkpoint.config());
  const auto config = family.configure(checkpoint.config());
  const InterpretableModel model(
      std::make_shared<Decoder>(config), std::nullopt, family.renames);
  const auto rows = report::site_rows(model, arguments.pattern);
  if (arguments.model.json) {
    print(report::to_json(rows, arguments.model.model) + "\n");
    return;
  }
  auto text = table(rows);
  if (arguments.pattern.empty())
    text += fmt::format(
        "\n* is any layer, 0 to {}; `mlxterp sites MODEL PATTERN` lists them\n",
        config.n_layers - 1);
  print(text);
}

}  // namespace

Run add_sites(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  app.description("The names of everything that can be read and edited");
  arguments->model.add_to(app);
  app.add_option(
      "PATTERN",
      arguments->pattern,
      "Only these, one row per layer: 'layers.*.attn.z', "
      "blocks.3.hook_resid_pre");
  app.footer("Example:\n  mlxterp sites demo 'layers.{3..5}.attn.pattern'");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
