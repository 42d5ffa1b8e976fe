// apps/mlxterp/metric.h: metrics as they are written on the command line.

#pragma once

#include <string>
#include <vector>

#include "mlxterp/analysis/metric.h"

namespace mlxterp::cli {

/** What --metric takes, for its help. */
inline constexpr const char* metric_help =
    "logit_diff(A,B), logit(A), prob(A), log_prob(A), rank(A), kl or loss; "
    "tokens as they are, spaces included, or id:N";

/**
 * logit_diff(A,B), logit(A), prob(A), log_prob(A) or rank(A) of tokens written
 * as they are, spaces included: 'logit_diff( Mary, John)'; kl; loss. A token
 * that holds a comma goes by its number: id:28. Several, one for each prompt,
 * are of one kind. Throws usage, and unknown_name where a text is not one
 * token.
 */
Metric parse_metric(
    const InterpretableModel& model, const std::vector<std::string>& texts);

}  // namespace mlxterp::cli
