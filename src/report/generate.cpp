#include "mlxterp/report/generate.h"

#include "mlxterp/spec/choice.h"
#include "report/generated.h"

namespace mlxterp::report {

Json json_of(const Sampling& by, const std::vector<std::string>& from_model) {
  return {
      {"temperature", number(by.temperature)},
      {"top_k", by.top_k},
      {"top_p", number(by.top_p)},
      {"min_p", number(by.min_p)},
      {"repetition_penalty", number(by.repetition_penalty)},
      {"seed", by.seed},
      {"from_model", from_model}};
}

void add_generated(
    Json& out,
    const GeneratedText& text,
    const std::vector<std::string>& labels,
    const std::vector<ShownProbe>& probes,
    size_t index) {
  out["tokens"] = Json::array();
  for (size_t k = 0; k < text.tokens.size(); ++k) {
    const auto& token = text.tokens[k];
    auto entry = json_of(NamedToken{token.id, labels[k]});
    entry["log_prob"] = number(token.log_prob);
    if (!probes.empty()) entry["probes"] = Json::array();
    for (const auto& it : probes) {
      const auto& values = it.values[index];
      entry["probes"].push_back(k < values.size() ? number(values[k]) : Json());
    }
    out["tokens"].push_back(std::move(entry));
  }
  out["text"] = text.text;
  out["finish"] = name_of(text.finish);
}

std::string to_json(const GenerateReport& report) {
  Json out;
  out["model"] = report.model;
  out["edits"] = report.edits;
  out["when"] = report.when;
  out["sampling"] = json_of(report.sampling, report.from_model);
  if (!report.probes.empty()) out["probes"] = Json::array();
  for (const auto& [file, probe, values] : report.probes)
    out["probes"].push_back(
        {{"file", file},
         {"site", probe.site},
         {"kind", spec::name(probe.kind)},
         {"classes", probe.classes}});
  const bool several = report.texts.size() > 1;
  if (several) out["texts"] = Json::array();
  for (size_t i = 0; i < report.texts.size(); ++i) {
    auto& own = several ? out["texts"].emplace_back(Json::object()) : out;
    own["prompt_tokens"] = report.texts[i].prompt.size();
    add_generated(own, report.texts[i], report.labels[i], report.probes, i);
  }
  out["seconds"] = {
      {"prefill", number(report.prefill_seconds)},
      {"decode", number(report.decode_seconds)}};
  out["saved"] = json_of(report.saved);
  out["output"] = report.output ? Json(*report.output) : Json();
  return text_of(out);
}

}  // namespace mlxterp::report
