// mlxterp/report/trace.h: what one pass kept and what it predicts, as JSON.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "mlxterp/analysis/metric.h"
#include "mlxterp/report/names.h"

namespace mlxterp::report {

/** Of the finite values; masked scores are -Inf by design. */
struct SiteStatistics {
  std::string site = {};
  std::vector<int> shape = {};
  std::string dtype = {};
  double mean = 0, std = 0, norm = 0;
  float min = 0, max = 0;  ///< NaN where no value is finite, as the others.
  int64_t not_finite = 0;  ///< How many are left out.
};

/** Evaluates. */
SiteStatistics statistics(std::string site, const mlx::core::array& value);

/** What a run predicts after its prompt. */
struct Prediction {
  struct Entry {
    NamedToken token = {};
    float probability = 0, logit = 0;
  };
  bool finite = true;  ///< Else `top` is empty and the rest NaN.
  std::vector<Entry> top = {}, track = {};
  std::vector<std::pair<std::string, float>> metrics = {};
};

struct PredictOptions {
  int top = 5;
  std::vector<int> track = {};
  std::vector<Metric> metrics = {};
};

/** Of logits [1, pos, vocab], at the last position; evaluates. */
Prediction predict(
    const InterpretableModel& model,
    const mlx::core::array& logits,
    const PredictOptions& options = {});

/** A value. */
struct TraceReport {
  std::string model = {};
  std::vector<NamedToken> tokens = {};
  std::vector<std::string> edits = {};  ///< As written.
  std::vector<SiteStatistics> saved = {};
  std::optional<std::string> output = {};  ///< The file written.
  Prediction next = {};                    ///< Of the unedited run.
  std::optional<Prediction> next_edited = {};
  std::vector<std::string> warnings = {};  ///< Of tokens and metrics.
};

/** The answer of `mlxterp trace` (docs/json.md). */
std::string to_json(const TraceReport& report);

/** float32, float16, ... */
std::string dtype_name(mlx::core::Dtype dtype);

}  // namespace mlxterp::report
