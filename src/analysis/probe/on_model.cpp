// Probes on a model's own activations.

#include <nlohmann/json.hpp>

#include "analysis/fingerprint.h"
#include "analysis/row_sites.h"
#include "core/fail.h"
#include "mlx/ops.h"
#include "mlxterp/analysis/probe.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

constexpr const char* weights_key = "weights_sha256";

std::string json_of(const std::string& text) {
  return nlohmann::json(text).dump();
}

}  // namespace

std::vector<ProbeResult> train_probes(
    const InterpretableModel& model,
    const LabelledTexts& data,
    const std::vector<std::string>& sites,
    const ProbeRows& rows,
    const ProbeOptions& options) {
  constexpr const char* function = "train_probes";
  for (const auto site : row_sites(model, sites, function))
    if (model.sites()[site].layout != Layout::features)
      fail(
          ErrorKind::usage,
          "[{}] site '{}' has heads; a probe reads one vector a position, such "
          "as attn_out or resid_post",
          function,
          model.sites()[site].name);
  CollectOptions collect;
  collect.positions = rows.positions;
  collect.batch_size = rows.batch_size;
  collect.progress = options.progress;
  const auto kept = collect_activations(model, data.texts, sites, collect);
  std::vector<double> labels;
  std::vector<int> groups;
  for (size_t i = 0; i < data.texts.size(); ++i)
    for (int row = 0; row < kept.lengths()[i]; ++row) {
      labels.push_back(data.labels[i]);
      groups.push_back(data.groups[i]);
    }
  const auto weights = weights_digest(model);
  const auto tokenizer = tokenizer_digest(model);
  std::vector<ProbeResult> out;
  for (const auto& [name, values] : kept) {
    auto& it = out.emplace_back(train_probe(values, labels, groups, options));
    it.probe.site = name;
    it.probe.classes = data.classes;
    auto& facts = it.probe.facts;
    facts["model"] = json_of(rows.model);
    if (!weights.empty()) facts[weights_key] = json_of(weights);
    if (!tokenizer.empty()) facts["tokenizer_sha256"] = json_of(tokenizer);
    facts["positions"] = json_of(
        rows.positions == CollectOptions::Positions::all ? "all" : "last");
    facts["l2"] = fmt::format("{}", options.l2);
    facts["rows"] = fmt::format("{}", it.rows);
    facts["groups"] = fmt::format("{}", it.groups);
    if (it.held_out) facts["held_out"] = fmt::format("{}", it.held_out->mean);
  }
  return out;
}

mx::array apply_probe(
    const InterpretableModel& model,
    const Probe& probe,
    const std::vector<int>& prompt,
    const Warn& warn) {
  const auto made = probe.facts.find(weights_key);
  if (const auto own = weights_digest(model); warn && !own.empty() &&
                                              made != probe.facts.end() &&
                                              made->second != json_of(own))
    warn(
        "the probe was trained on other weights, or in another precision, than "
        "this model's; what it says here means little if they differ much");
  if (probe.site.empty())
    fail(
        ErrorKind::usage,
        "[apply_probe] the probe does not say its site; set it");
  const auto values = collect_activations(model, prompt, {probe.site});
  auto said = probe(values.entries()[0].second);
  said.eval();
  return said;
}

}  // namespace mlxterp
