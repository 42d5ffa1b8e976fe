#include "metric.h"

#include <fmt/format.h>

#include "common.h"
#include "mlxterp/view/terminal.h"

namespace mlxterp::cli {

namespace {

struct Parts {
  std::string kind, token, foil;
};

Parts parts_of(const std::string& text) {
  if (text == "kl" || text == "loss") return {text, "", ""};
  const auto open = text.find('(');
  const auto kind = text.substr(0, open);
  const bool pair = kind == "logit_diff";
  const bool known = pair || kind == "logit" || kind == "prob" ||
                     kind == "log_prob" || kind == "rank";
  const auto inside = known && open != std::string::npos && text.ends_with(')')
                          ? text.substr(open + 1, text.size() - open - 2)
                          : std::string();
  const auto comma = pair ? inside.find(',') : inside.size();
  if (inside.empty() || comma == std::string::npos)
    usage(fmt::format(
        "--metric '{}' is none of logit_diff(A,B), logit(A), prob(A), "
        "log_prob(A), rank(A), kl, loss",
        view::escape(text)));
  return {kind, inside.substr(0, comma), pair ? inside.substr(comma + 1) : ""};
}

}  // namespace

Metric parse_metric(
    const InterpretableModel& model, const std::vector<std::string>& texts) {
  std::vector<Token> tokens, foils;
  std::string kind;
  for (const auto& text : texts) {
    const auto parts = parts_of(text);
    if (!kind.empty() && parts.kind != kind)
      usage(fmt::format(
          "--metric '{}' and another of kind {}: give the same for all prompts",
          view::escape(text),
          kind));
    kind = parts.kind;
    if (!parts.token.empty()) tokens.emplace_back(token_id(model, parts.token));
    if (!parts.foil.empty()) foils.emplace_back(token_id(model, parts.foil));
  }
  auto metric = kind == "kl"         ? kl_divergence()
                : kind == "loss"     ? loss()
                : kind == "logit"    ? logit(tokens)
                : kind == "prob"     ? probability(tokens)
                : kind == "log_prob" ? log_probability(tokens)
                : kind == "rank"     ? rank(tokens)
                                     : logit_diff(tokens, foils);
  metric.name = texts.front();
  return metric;
}

}  // namespace mlxterp::cli
