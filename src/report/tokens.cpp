#include "mlxterp/report/tokens.h"

#include <algorithm>
#include <utility>

#include "report/json.h"

namespace mlxterp::report {

TokenizedText tokenized(
    const Tokenizer& tokenizer,
    std::string text,
    const EncodeOptions& options) {
  const auto ids = tokenizer.encode(text, options);
  const auto texts = tokenizer.labels(ids);
  const auto control = tokenizer.control_tokens();
  TokenizedText out{.text = std::move(text)};
  for (size_t i = 0; i < ids.size(); ++i) {
    out.tokens.push_back({ids[i], texts[i]});
    out.special.push_back(std::ranges::count(control, ids[i]) > 0);
  }
  return out;
}

std::string to_json(
    const std::string& model, const std::vector<TokenizedText>& texts) {
  Json out;
  out["model"] = model;
  out["texts"] = Json::array();
  for (const auto& each : texts) {
    Json entry;
    entry["text"] = each.text;
    entry["count"] = each.tokens.size();
    entry["tokens"] = Json::array();
    for (size_t i = 0; i < each.tokens.size(); ++i) {
      auto token = json_of(each.tokens[i]);
      token["special"] = static_cast<bool>(each.special[i]);
      entry["tokens"].push_back(std::move(token));
    }
    out["texts"].push_back(std::move(entry));
  }
  return text_of(out);
}

}  // namespace mlxterp::report
