#include "mlxterp/report/sites.h"

#include <algorithm>
#include <iterator>
#include <set>

#include "core/fail.h"
#include "mlx/ops.h"
#include "report/json.h"

namespace mlxterp::report {

namespace {

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

// layers.7.ln1 as layers.*.ln1.
std::string collapse(const std::string& name) {
  for (const std::string_view front : {"layers.", "blocks."}) {
    if (!name.starts_with(front)) continue;
    const auto dot = std::min(name.find('.', front.size()), name.size());
    return fmt::format("{}*{}", front, name.substr(dot));
  }
  return name;
}

}  // namespace

std::vector<SiteRow> site_rows(
    const InterpretableModel& model, const std::string& pattern) {
  const auto& sites = model.sites();
  const bool all = pattern.empty();
  std::vector<SiteId> chosen;
  if (!all)
    chosen = sites.match(pattern);
  else
    for (size_t i = 0; i < sites.size(); ++i)
      if (!sites[static_cast<SiteId>(i)].name.empty())
        chosen.push_back(static_cast<SiteId>(i));
  // Shapes are known from the lazy graph: nothing is computed.
  auto trace = model.trace({0});
  std::vector<SiteRow> rows;
  std::set<std::string> seen;
  for (const auto id : chosen) {
    const auto& site = sites[id];
    auto name = all ? collapse(site.name) : site.name;
    if (all && !seen.insert(name).second) continue;
    const auto value = trace.value(site.name);
    SiteRow row{
        .name = std::move(name),
        .shape =
            symbols(site.layout, {value.shape().begin(), value.shape().end()}),
        .aliases = site.aliases,
        .transformer_lens = lens_name(sites, id)};
    if (all) {
      row.transformer_lens = collapse(row.transformer_lens);
      for (auto& alias : row.aliases)
        alias = collapse(alias);
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

std::string to_json(
    const std::vector<SiteRow>& rows, const std::string& model_name) {
  Json out;
  out["model"] = model_name;
  out["sites"] = Json::array();
  for (const auto& row : rows)
    out["sites"].push_back(
        {{"name", row.name},
         {"shape", row.shape},
         {"aliases", row.aliases},
         {"transformer_lens",
          row.transformer_lens.empty() ? Json() : Json(row.transformer_lens)}});
  return text_of(out);
}

}  // namespace mlxterp::report
