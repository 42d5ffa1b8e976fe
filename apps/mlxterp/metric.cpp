#include "metric.h"

#include <fmt/format.h>

#include <cmath>

#include "common.h"
#include "mlxterp/view/terminal.h"

namespace mlxterp::cli {

Metric::Metric(const InterpretableModel& model, const std::string& text)
    : text_(text) {
  const auto open = text.find('(');
  kind_ = text.substr(0, open);
  const bool pair = kind_ == "logit_diff";
  const bool known =
      pair || kind_ == "logit" || kind_ == "prob" || kind_ == "log_prob";
  const auto inside = known && open != std::string::npos && text.ends_with(')')
                          ? text.substr(open + 1, text.size() - open - 2)
                          : std::string();
  const auto comma = pair ? inside.find(',') : inside.size();
  if (inside.empty() || comma == std::string::npos)
    usage(fmt::format(
        "--metric '{}' is none of logit_diff(A,B), logit(A), prob(A), "
        "log_prob(A)",
        view::escape(text)));
  a_ = token_id(model, inside.substr(0, comma));
  if (pair) b_ = token_id(model, inside.substr(comma + 1));
}

float Metric::operator()(
    std::span<const float> logits, float normalizer) const {
  const float a = logits[static_cast<size_t>(a_)];
  if (kind_ == "logit_diff") return a - logits[static_cast<size_t>(b_)];
  if (kind_ == "logit") return a;
  return kind_ == "prob" ? std::exp(a - normalizer) : a - normalizer;
}

}  // namespace mlxterp::cli
