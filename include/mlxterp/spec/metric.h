// mlxterp/spec/metric.h: tokens and metrics as they are written in text.

#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "mlxterp/analysis/metric.h"
#include "mlxterp/core/progress.h"

namespace mlxterp::spec {

/** What parse_metric takes, in a line. */
inline constexpr const char* metric_grammar =
    "logit_diff(A,B), logit(A), prob(A), log_prob(A), rank(A), kl or loss; "
    "tokens are written literally, spaces included, or as id:N";

struct MetricOptions {
  std::string_view name = "metric";  ///< Messages begin with it.
  Warn warn = {};                    ///< Gets answer_warnings().
  /** Behind which the tokens are measured; empty: not known. */
  std::vector<std::vector<int>> prompts = {};
};

/** The number of a token: "id:N", or text that is exactly that token. Throws
 * usage where it is empty, unknown_name, out_of_range. */
int parse_token(
    const InterpretableModel& model,
    const std::string& text,
    const MetricOptions& options = {.name = "token"});

/**
 * A metric:
 *
 *     metric = "kl" | "loss"
 *            | ("logit" | "prob" | "log_prob" | "rank") "(" token ")"
 *            | "logit_diff(" token "," token ")"
 *     token  = "id:" number | text
 *
 * A token's text is taken literally, spaces included: 'logit_diff( Mary, John)'
 * measures " Mary" against " John". One that holds a comma is written id:N.
 * Several texts, one for each prompt, are of one kind. Throws usage, and
 * unknown_name where a text is not one token.
 */
Metric parse_metric(
    const InterpretableModel& model,
    const std::vector<std::string>& texts,
    const MetricOptions& options = {});

/**
 * Warnings about answers, measured together, that are probably not meant: a
 * word without a leading space whose spaced form is another token, and words
 * of which only some begin with a space. "Mary" and " Mary" are two tokens, and
 * inside a text it is nearly always the second that comes next. Behind
 * `prompts` that all end in a space, a line or a control token it is the first,
 * and behind a space the second gets the warning. Nothing is said of "id:N", of
 * punctuation and without a tokenizer.
 */
std::vector<std::string> answer_warnings(
    const InterpretableModel& model,
    const std::vector<std::string>& answers,
    const std::vector<std::vector<int>>& prompts = {});

}  // namespace mlxterp::spec
