// mlxterp sites: the names of everything that can be read and edited.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <set>

#include "common.h"
#include "mlx/ops.h"
#include "mlxterp/io/checkpoint.h"
#include "mlxterp/models/family.h"
#include "mlxterp/view/terminal.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  ModelArguments model;
  std::string pattern;
};

// The last part of what TransformerLens has names for.
constexpr std::string_view lens_sites[] = {
    "embed",    "pos_embed", "resid_pre", "resid_mid",  "resid_post",
    "attn_out", "mlp_out",   "scale",     "normalized", "q",
    "k",        "v",         "z",         "rot_q",      "rot_k",
    "scores",   "pattern",   "result",    "pre",        "pre_linear",
    "post"};

// TransformerLens' name of a site, if it has one that means the same here.
std::string lens_name(const SiteCatalog& sites, SiteId site) {
  auto name = sites[site].name;
  const auto part = name.substr(name.rfind('.') + 1);
  if (std::find(std::begin(lens_sites), std::end(lens_sites), part) ==
      std::end(lens_sites))
    return "";
  if (name.starts_with("layers.")) name.replace(0, 6, "blocks");
  const auto dot = name.rfind('.');
  const auto last = dot == std::string::npos ? 0 : dot + 1;
  if (name.substr(last) == "scores") name.replace(last, 6, "attn_scores");
  name.insert(last, "hook_");
  const bool means_it = sites.contains(name) && sites.find(name) == site;
  return means_it ? name : "";
}

// A shape in symbols where they say more than numbers, which are the model's.
std::vector<std::string> symbols(Layout layout, const std::vector<int>& shape) {
  std::vector<std::string> out;
  for (const int size : shape)
    out.push_back(fmt::format("{}", size));
  if (!out.empty()) out[0] = "batch";
  if (out.size() > 1 && layout != Layout::scores) out[1] = "pos";
  if (layout == Layout::scores && out.size() == 4) {
    out[2] = "dest";
    out[3] = "src";
  }
  return out;
}

struct Row {
  std::string name;
  std::vector<std::string> shape;
  std::vector<std::string> aliases;
  std::string lens;
};

// layers.7.ln1 as layers.*.ln1.
std::string collapse(const std::string& name) {
  for (const std::string_view front : {"layers.", "blocks."}) {
    if (!name.starts_with(front)) continue;
    const auto dot = std::min(name.find('.', front.size()), name.size());
    return fmt::format("{}*{}", front, name.substr(dot));
  }
  return name;
}

std::vector<Row> rows_of(
    const InterpretableModel& model, const std::vector<SiteId>& chosen) {
  // Shapes are known from the lazy graph: nothing is computed.
  auto trace = model.trace({0});
  std::vector<Row> rows;
  for (const auto id : chosen) {
    const auto& site = model.sites()[id];
    rows.push_back(
        {site.name,
         symbols(site.layout, shape_of(trace.value(site.name))),
         site.aliases,
         lens_name(model.sites(), id)});
  }
  return rows;
}

void run(const Arguments& arguments) {
  // The config is enough; weights stay on the disk.
  const auto checkpoint = Checkpoint::open(arguments.model.path());
  const auto& family = family_of(checkpoint.config());
  const auto config = family.configure(checkpoint.config());
  const InterpretableModel model(
      std::make_shared<Decoder>(config), std::nullopt, family.renames);

  std::vector<SiteId> chosen;
  const bool all = arguments.pattern.empty();
  if (!all)
    chosen = model.sites().match(arguments.pattern);
  else
    for (size_t i = 0; i < model.sites().size(); ++i)
      if (!model.sites()[static_cast<SiteId>(i)].name.empty())
        chosen.push_back(static_cast<SiteId>(i));
  auto rows = rows_of(model, chosen);
  if (all) {
    std::vector<Row> once;
    std::set<std::string> seen;
    for (auto& row : rows) {
      row.name = collapse(row.name);
      if (!seen.insert(row.name).second) continue;
      row.lens = collapse(row.lens);
      for (auto& alias : row.aliases)
        alias = collapse(alias);
      once.push_back(std::move(row));
    }
    rows = std::move(once);
  }

  if (arguments.model.json) {
    Json out;
    out["model"] = arguments.model.model;
    out["sites"] = Json::array();
    for (const auto& row : rows)
      out["sites"].push_back(
          {{"name", row.name},
           {"shape", row.shape},
           {"aliases", row.aliases},
           {"transformer_lens", row.lens.empty() ? Json() : Json(row.lens)}});
    print_json(out);
    return;
  }
  const auto terminal = view::terminal(STDOUT_FILENO);
  view::Table table({{"site"}, {"shape"}, {"also"}});
  for (const auto& row : rows) {
    std::string also = row.lens;
    for (const auto& alias : row.aliases)
      also += (also.empty() ? "" : " ") + alias;
    table.add({row.name, fmt::format("[{}]", fmt::join(row.shape, ",")), also});
  }
  print(table.text(terminal));
  if (all)
    print(fmt::format(
        "\n* is any layer, 0 to {}; `mlxterp sites MODEL PATTERN` lists them\n",
        config.n_layers - 1));
}

}  // namespace

Run add_sites(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  app.description("The names of everything that can be read and edited");
  arguments->model.add_to(app);
  app.add_option(
      "PATTERN",
      arguments->pattern,
      "Only these, each layer by itself: 'layers.*.attn.z', "
      "blocks.3.hook_resid_pre");
  app.footer("Example:\n  mlxterp sites demo 'layers.{3..5}.attn.pattern'");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
