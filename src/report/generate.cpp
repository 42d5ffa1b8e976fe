#include "mlxterp/report/generate.h"

#include "report/json.h"

namespace mlxterp::report {

namespace {

void add_text(
    Json& out,
    const GeneratedText& text,
    const std::vector<std::string>& labels) {
  out["prompt_tokens"] = text.prompt.size();
  out["tokens"] = Json::array();
  for (size_t i = 0; i < text.tokens.size(); ++i) {
    const auto& token = text.tokens[i];
    auto entry = json_of(NamedToken{token.id, labels[i]});
    entry["log_prob"] = number(token.log_prob);
    out["tokens"].push_back(std::move(entry));
  }
  out["text"] = text.text;
  out["finish"] = name_of(text.finish);
}

}  // namespace

std::string to_json(const GenerateReport& report) {
  Json out;
  out["model"] = report.model;
  out["edits"] = report.edits;
  out["when"] = report.when;
  const auto& by = report.sampling;
  out["sampling"] = {
      {"temperature", number(by.temperature)},
      {"top_k", by.top_k},
      {"top_p", number(by.top_p)},
      {"min_p", number(by.min_p)},
      {"repetition_penalty", number(by.repetition_penalty)},
      {"seed", by.seed},
      {"from_model", report.from_model}};
  if (report.texts.size() == 1) {
    add_text(out, report.texts[0], report.labels[0]);
  } else {
    out["texts"] = Json::array();
    for (size_t i = 0; i < report.texts.size(); ++i)
      add_text(
          out["texts"].emplace_back(Json::object()),
          report.texts[i],
          report.labels[i]);
  }
  out["seconds"] = {
      {"prefill", number(report.prefill_seconds)},
      {"decode", number(report.decode_seconds)}};
  out["saved"] = json_of(report.saved);
  out["output"] = report.output ? Json(*report.output) : Json();
  return text_of(out);
}

}  // namespace mlxterp::report
