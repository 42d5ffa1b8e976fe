// mlxterp/report/generate.h: generated text, as JSON.

#pragma once

#include <optional>
#include <string>
#include <vector>

#include "mlxterp/analysis/probe.h"
#include "mlxterp/generate/generate.h"
#include "mlxterp/report/trace.h"

namespace mlxterp::report {

/** A probe, and what it says. */
struct ShownProbe {
  std::string file = {};
  Probe probe = {};
  /** At each token of each text that ran, as probe_values has it. */
  std::vector<std::vector<float>> values = {};
};

/** A value. */
struct GenerateReport {
  std::string model = {};
  std::vector<std::string> edits = {};  ///< As written.
  std::string when = {};                ///< When they act.
  Sampling sampling = {};
  /** Which of its numbers generation_config.json gave. */
  std::vector<std::string> from_model = {};
  std::vector<GeneratedText> texts = {};
  /** Labels of each one's tokens. */
  std::vector<std::vector<std::string>> labels = {};
  std::vector<ShownProbe> probes = {};
  std::vector<SiteStatistics> saved = {};
  std::optional<std::string> output = {};  ///< The file written.
  double prefill_seconds = 0, decode_seconds = 0;
};

/** The answer of `mlxterp generate` (docs/json.md): what one prompt was
 * continued with stands at the top, that of several in `texts`. */
std::string to_json(const GenerateReport& report);

}  // namespace mlxterp::report
