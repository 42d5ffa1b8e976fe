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

void Probe::check_fits(
    const InterpretableModel& model, const Warn& warn) const {
  constexpr const char* function = "Probe";
  if (site.empty())
    fail(ErrorKind::usage, "[{}] it does not say its site; set it", function);
  const auto& at = model.sites()[model.sites().find(site)];
  if (at.width > 0 && at.width != static_cast<int>(weight.size()))
    fail(
        ErrorKind::usage,
        "[{}] it reads {} numbers of '{}', where this model has {}; it was "
        "trained on another model",
        function,
        weight.size(),
        at.name,
        at.width);
  const auto made = facts.find(weights_key);
  if (const auto own = weights_digest(model); warn && !own.empty() &&
                                              made != facts.end() &&
                                              made->second != json_of(own))
    warn(
        "the probe was trained on other weights, or in another precision, than "
        "this model's; what it says here means little if they differ much");
}

mx::array apply_probe(
    const InterpretableModel& model,
    const Probe& probe,
    const std::vector<int>& prompt,
    const Warn& warn) {
  probe.check_fits(model, warn);
  const auto values = collect_activations(model, prompt, {probe.site});
  auto said = probe(values.entries()[0].second);
  said.eval();
  return said;
}

std::vector<std::vector<float>> probe_values(
    const Generator& generator, const Probe& probe) {
  std::vector<std::vector<float>> out(generator.texts().size());
  if (generator.steps() == 0) return out;
  const auto saved = generator.saved();
  auto said = mx::contiguous(probe(saved[probe.site]));  // [prompt, pos]
  if (said.ndim() != 2)
    fail(
        ErrorKind::usage,
        "[Probe] site '{}' has more than one vector a position",
        probe.site);
  said.eval();
  for (size_t i = 0; i < out.size(); ++i) {
    const auto* row =
        said.data<float>() + i * static_cast<size_t>(said.shape(1));
    out[i].assign(
        row + generator.texts()[i].prompt.size(), row + saved.lengths()[i]);
  }
  return out;
}

}  // namespace mlxterp
