// apps/mlxterp/metric.h: numbers that say what a prediction comes to.

#pragma once

#include <span>
#include <string>

#include "mlxterp/trace/model.h"

namespace mlxterp::cli {

/**
 * logit_diff(A,B), logit(A), prob(A) or log_prob(A) of tokens written as they
 * are, spaces included: 'logit_diff( Mary, John)'. A token that holds a comma
 * goes by its number: id:28.
 */
class Metric {
 public:
  /** Throws usage, and unknown_name where a text is not one token. */
  Metric(const InterpretableModel& model, const std::string& text);

  /** Of logits [vocab] whose log(sum(exp)) is `normalizer`. */
  float operator()(std::span<const float> logits, float normalizer) const;

  const std::string& text() const { return text_; }

 private:
  std::string text_, kind_;
  int a_ = 0, b_ = 0;
};

}  // namespace mlxterp::cli
