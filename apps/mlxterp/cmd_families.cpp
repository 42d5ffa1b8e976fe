// mlxterp families: which models are read, from which files, proven how.

#include <fmt/format.h>
#include <unistd.h>

#include <memory>

#include "mlxterp/report/families.h"
#include "mlxterp/view/terminal.h"
#include "output.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

std::string table() {
  view::Table table(
      {{"model_type"}, {"models"}, {"files"}, {"proven", view::Align::right}});
  int variants = 0;
  const auto families = report::families();
  for (const auto& family : families) {
    table.add(
        {std::string(family.model_type),
         std::string(family.title),
         family.gguf.empty() ? "folder" : "folder, GGUF",
         fmt::format("{}", family.variants)});
    variants += family.variants;
  }
  std::string others;
  for (const auto& family : families)
    if (family.oracle != "transformers")
      others +=
          fmt::format("{}{}", others.empty() ? "" : ", ", family.model_type);
  return table.text(view::terminal(STDOUT_FILENO)) +
         fmt::format(
             "{} families, proven by {} tiny models: every value inside is "
             "that of transformers\n({}: of mlx-lm). A folder is as Hugging "
             "Face or mlx-lm saves it,\npacked or not; of a multimodal one "
             "(text_config) the language model is read.\n",
             families.size(),
             variants,
             others);
}

}  // namespace

Run add_families(CLI::App& app) {
  const auto json = std::make_shared<bool>(false);
  app.description("The model families that are read, and from which files");
  app.add_flag("--json", *json, "Answer in JSON (docs/json.md)");
  app.footer(
      "config.json's model_type tells a model's family; `mlxterp info MODEL` "
      "tells the\nrest.\n\nExample:\n  mlxterp families");
  return [json] { print(*json ? report::families_json() + "\n" : table()); };
}

}  // namespace mlxterp::cli
